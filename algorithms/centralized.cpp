// The baseline without clients: plain SGD on everybody's samples in one place, with as many steps
// as the cohort would take.
#include "fl_sim.h"

namespace fl_sim {

class Centralized final : public Algorithm {
 public:
  explicit Centralized(const Setup& setup) : local_(setup) {
    FL_CHECK(setup.job.get<std::string>("server.optimizer") == "sgd" &&
                 setup.job.get<double>("server.lr") == 1,
             "server.optimizer or server.lr is set, but algorithm centralized has no server that "
             "could heed it (leave them out)");
  }

  static PluginInfo describe() {
    return {.summary = "baseline: SGD on the pooled data of all clients",
            .rule =
                "A round is as many local steps as its cohort would take in all, from w to w+, "
                "with batches of local.batch-size drawn from everybody's samples.",
            .example = "--algorithm centralized",
            .family = "baseline"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.pooled = true;
    return needs;
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global, LocalRule{.steps = group.limit(0)});
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    server.weights.add_(sum.delta);
  }

 private:
  LocalTraining local_;
};

FL_REGISTER(Algorithm, "centralized", Centralized);

}  // namespace fl_sim
