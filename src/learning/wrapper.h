// An algorithm around another one, which does all that the outer one does not change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "learning/algorithm.h"

namespace fl_sim {

class Wrapper : public Algorithm {
 public:
  explicit Wrapper(std::unique_ptr<Algorithm> inner) : inner_(std::move(inner)) {}

  Needs needs() const override { return inner_->needs(); }
  void init(ServerState& server) const override { inner_->init(server); }
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return inner_->train(group, global);
  }
  TaskCost task_cost(int64_t client, int64_t round) const override {
    return inner_->task_cost(client, round);
  }
  void aggregate(ServerState& server, const Sum& sum) const override {
    inner_->aggregate(server, sum);
  }
  void end_round(ServerState& server, const std::vector<ClientRecord>& records) const override {
    inner_->end_round(server, records);
  }
  torch::Tensor evaluated(const ServerState& server) const override {
    return inner_->evaluated(server);
  }
  bool wants_products(const ServerState& server, const Sum& sum) const override {
    return inner_->wants_products(server, sum);
  }
  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    return inner_->personalize(group, global);
  }
  Figures figures(const ServerState& server,
                  const std::vector<ClientRecord>& records) const override {
    return inner_->figures(server, records);
  }
  std::vector<std::string> warnings() const override { return inner_->warnings(); }

 protected:
  const Algorithm& inner() const { return *inner_; }

 private:
  std::unique_ptr<Algorithm> inner_;
};

}  // namespace fl_sim
