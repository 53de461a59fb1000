// What algorithms have in common whose clients train a part of the model's units: FedAvg's clients
// and server around SubModels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fl_sim.h"
#include "learning/sub_models.h"

namespace fl_sim {

class Narrow : public Algorithm {
 public:
  Narrow(const Setup& setup, const SubModels::Rule& rule)
      : local_(setup), optimizer_(setup), models_(setup, rule) {}

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.scalars = {"width"};
    needs.parts = !models_.whole();
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return models_.train(local_, group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, models_.mean(sum));
  }

  TaskCost task_cost(int64_t client, int64_t round) const override {
    return models_.cost(client, round);
  }

  std::vector<std::string> warnings() const override { return models_.warnings(); }

 protected:
  const LocalTraining& local() const { return local_; }
  const SubModels& models() const { return models_; }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  SubModels models_;
};

}  // namespace fl_sim
