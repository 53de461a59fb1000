// FedAdagrad: FedAvg's mean delta as a pseudo-gradient for Adagrad on the server.
// Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 2: v0 = tau^2; beta1 0 in
// the experiments.
#include "fedopt.h"

namespace fl_sim {

class FedAdagrad final : public FedOpt {
 public:
  explicit FedAdagrad(const Setup& setup) : FedOpt(setup, "fedadagrad", "adagrad") {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg with Adagrad on the server",
        .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
        .rule =
            "m+ = beta1 m + (1-beta1) D;  v+ = v + D^2;  w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
            "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2.",
        .defaults = {{"server.optimizer", "adagrad"},
                     {"server.lr", "0.1"},
                     {"server.beta1", "0"},
                     {"server.tau", "0.001"}},
        .elsewhere =
            "Flower: the same rate, but v0 = 0, and tau 1e-9 in its first releases.\n"
            "OpenFL: rate 0.01, v0 = 0.1, 1e-10 in place of tau.",
        .example = "--algorithm fedadagrad",
        .family = "global"};
  }
};

FL_REGISTER(Algorithm, "fedadagrad", FedAdagrad);

}  // namespace fl_sim
