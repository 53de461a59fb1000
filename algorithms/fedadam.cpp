// FedAdam: FedAvg's mean delta as a pseudo-gradient for Adam on the server.
// Reddi et al., "Adaptive federated optimization", ICLR 2021, Algorithm 2: v0 = tau^2 and no bias
// correction.
#include "fedopt.h"

namespace fl_sim {

class FedAdam final : public FedOpt {
 public:
  explicit FedAdam(const Setup& setup)
      : FedOpt(setup, "fedadam", "adam", setup.job.get<bool>("fedadam.bias-correction")) {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg with Adam on the server",
        .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
        .rule =
            "m+ = beta1 m + (1-beta1) D;  v+ = beta2 v + (1-beta2) D^2;  "
            "w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
            "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2. "
            "Papers and frameworks differ in server.lr and server.tau: set them.",
        .options = {{.name = "bias-correction",
                     .type = Option::Type::kFlag,
                     .default_value = "false",
                     .meaning = "divide m and v by 1 - beta^t and start v at 0, as Adam does "
                                "(Reddi et al. do not)"}},
        .defaults = {{"server.optimizer", "adam"}, {"server.lr", "0.1"}, {"server.tau", "0.001"}},
        .elsewhere =
            "Flower: the same numbers, but v0 = 0, and a rate corrected for bias in later "
            "releases.\n"
            "pfl-research: PyTorch's Adam, with bias correction and v0 = 0; 0.01 in place of tau.",
        .example = "--algorithm fedadam",
        .family = "global"};
  }
};

FL_REGISTER(Algorithm, "fedadam", FedAdam);

}  // namespace fl_sim
