// FedAvgM: FedAvg with momentum on the server.
// Hsu et al., "Measuring the effects of non-identical data distribution for federated visual
// classification", 2019, arXiv:1909.06335.
#include "fedopt.h"

namespace fl_sim {

class FedAvgM final : public FedOpt {
 public:
  explicit FedAvgM(const Setup& setup) : FedOpt(setup, "fedavgm", "momentum") {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg with momentum on the server",
        .source =
            "Hsu et al., Measuring the effects of non-identical data distribution for federated "
            "visual classification, 2019, arXiv:1909.06335",
        .rule =
            "u+ = beta u + D;  w+ = w + server.lr u+\n"
            "with D the weighted mean of w_k - w, beta = server.momentum, u0 = 0. beta 0 is "
            "fedavg.",
        .defaults = {{"server.optimizer", "momentum"},
                     {"server.momentum", "0.9"},
                     {"server.lr", "1"}},
        .elsewhere = "Flower: server_momentum 0, server_learning_rate 1.",
        .example = "--algorithm fedavgm",
        .family = "global"};
  }
};

FL_REGISTER(Algorithm, "fedavgm", FedAvgM);

}  // namespace fl_sim
