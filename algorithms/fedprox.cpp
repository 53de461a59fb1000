// FedProx: FedAvg with a proximal term that keeps clients near the model they received.
// Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, Algorithm 2.
#include "fl_sim.h"

namespace fl_sim {

class FedProx final : public Algorithm {
 public:
  explicit FedProx(const Setup& setup)
      : local_(setup), optimizer_(setup), mu_(setup.job.get<double>("fedprox.mu")) {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg with a proximal term on the clients",
        .source =
            "Li et al., Federated optimization in heterogeneous networks, MLSys 2020, Algorithm 2",
        .rule = "local gradient g + mu (y - w); server as fedavg. mu 0 is fedavg.",
        .options =
            {{.name = "mu",
              .type = Option::Type::kNumber,
              .default_value = {},
              .meaning =
                  "weight of the proximal term; papers use 0.001 to 1, depending on the data",
              .range = at_least(0)}},
        .elsewhere = "Li et al.: 0.001 to 1, tuned for each data set.\nNIID-Bench: 0.001.",
        .example = "--algorithm fedprox --fedprox.mu 0.1",
        .family = "global"};
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor received = global.weights.narrow(1, 0, local_.trainable());
    return local_.train(group, global, AffineCorrection{.pull = mu_, .anchor = received});
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  double mu_;
};

FL_REGISTER(Algorithm, "fedprox", FedProx);

}  // namespace fl_sim
