// FedYogi: FedAvg's mean delta as a pseudo-gradient for Yogi on the server.
// Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 2: v0 = tau^2 and no bias
// correction.
#include "fedopt.h"

namespace fl_sim {

class FedYogi final : public FedOpt {
 public:
  explicit FedYogi(const Setup& setup) : FedOpt(setup, "fedyogi", "yogi") {}

  static PluginInfo describe() {
    return {.summary = "FedAvg with Yogi on the server",
            .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
            .rule =
                "m+ = beta1 m + (1-beta1) D;  v+ = v - (1-beta2) D^2 sign(v - D^2);  "
                "w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
                "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2. v moves by at most "
                "(1-beta2) D^2 a round, so the rate never jumps.",
            .defaults = {{"server.optimizer", "yogi"},
                         {"server.lr", "0.01"},
                         {"server.beta1", "0.9"},
                         {"server.beta2", "0.99"},
                         {"server.tau", "0.001"}},
            .elsewhere =
                "Flower: the same numbers, but v0 = 0.\n"
                "OpenFL: v0 = 0, beta2 0.999, 1e-8 in place of tau.",
            .example = "--algorithm fedyogi",
            .family = "global"};
  }
};

FL_REGISTER(Algorithm, "fedyogi", FedYogi);

}  // namespace fl_sim
