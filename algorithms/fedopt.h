// FedOpt: FedAvg's mean delta as a pseudo-gradient for an optimizer on the server. What the
// algorithms with a rule of the server in their name share.
// Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 1.
#pragma once

#include <string>

#include "fl_sim.h"

namespace fl_sim {

class FedOpt : public Algorithm {
 public:
  // Algorithm `name` is FedAvg with server.optimizer = `rule`, and refuses another.
  FedOpt(const Setup& setup, const std::string& name, const std::string& rule,
         bool bias_correction = false)
      : local_(setup), optimizer_(setup, bias_correction) {
    const auto chosen = setup.job.get<std::string>("server.optimizer");
    FL_CHECK(chosen == rule, "server.optimizer is ", chosen, " (", name, " is ", rule,
             "; choose algorithm fedavg for another)");
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
};

}  // namespace fl_sim
