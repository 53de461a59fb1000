// Federated dropout: each client trains a part of the units of its own, drawn anew in each round.
// Caldas et al., "Expanding the reach of federated learning by reducing client resource
// requirements", 2018, section 3.2.
#include "narrow.h"

namespace fl_sim {

class FedDropout final : public Narrow {
 public:
  explicit FedDropout(const Setup& setup)
      : Narrow(setup,
               {.algorithm = "feddropout",
                .units = [seed = setup.job.seed()](
                             const SubModels::Choice& choice) { return drawn(seed, choice); },
                .by_client = true}) {}

  static PluginInfo describe() {
    return {
        .summary = "each client trains units of its own, drawn in each round",
        .source =
            "Caldas et al., Expanding the reach of federated learning by reducing client resource "
            "requirements, 2018, section 3.2",
        .rule =
            "client k trains ceil(r_k n) of the n units of each hidden layer, drawn by round and "
            "client;\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those that "
            "trained "
            "it, weighted by p_k; as it was if nobody did. All widths 1 are fedavg.",
        .defaults = {{"width.levels", "0.75"}, {"width.scaler", "false"}},
        .reads = SubModels::keys({"width.scaler"}),
        .elsewhere = "Caldas et al.: widths 0.5 to 1, the same for all clients.",
        .example = "--algorithm feddropout --model 2nn",
        .family = "global"};
  }

 private:
  static std::vector<int64_t> drawn(uint64_t seed, const SubModels::Choice& choice) {
    Rng rng(seed, message("feddropout ", choice.layer), choice.round, choice.client);
    std::vector<int64_t> units = rng.permutation(choice.units);
    units.resize(static_cast<size_t>(choice.kept));
    return units;
  }
};

FL_REGISTER(Algorithm, "feddropout", FedDropout);

}  // namespace fl_sim
