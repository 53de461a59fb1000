// FedAvg: clients run local SGD, the server takes the weighted mean of what they learned.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, Algorithm 1.
#include "fl_sim.h"

namespace fl_sim {

class FedAvg final : public Algorithm {
 public:
  explicit FedAvg(const Setup& setup) : local_(setup), optimizer_(setup) {}

  static PluginInfo describe() {
    return {.summary = "weighted mean of local SGD",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, Algorithm 1",
            .rule = "w+ = w + server.lr * sum_k p_k (w_k - w)",
            .example = "--algorithm fedavg",
            .family = "global"};
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

FL_REGISTER(Algorithm, "fedavg", FedAvg);

}  // namespace fl_sim
