// FedRolex: narrow models as HeteroFL's, whose units are a window that rolls on by one each round,
// so that all units are trained alike.
// Alam et al., "FedRolex: Model-heterogeneous federated learning with rolling sub-model
// extraction", NeurIPS 2022, Algorithm 1.
#include "narrow.h"

namespace fl_sim {

class FedRolex final : public Narrow {
 public:
  explicit FedRolex(const Setup& setup)
      : Narrow(setup, {.algorithm = "fedrolex", .units = window}) {}

  static PluginInfo describe() {
    return {
        .summary = "clients train narrow models, a window of units that rolls on",
        .source =
            "Alam et al., FedRolex: Model-heterogeneous federated learning with rolling sub-model "
            "extraction, NeurIPS 2022, Algorithm 1",
        .rule =
            "in round t client k trains units t-1, t, ... of the n of each hidden layer, ceil(r_k "
            "n) "
            "of them, behind the last one the first; otherwise as heterofl. All widths 1 are "
            "fedavg.",
        .defaults = {{"weighting", "uniform"}},
        .reads = SubModels::keys({"width.scaler"}),
        .example = "--algorithm fedrolex --width.levels 1,0.5,0.25 --model 2nn",
        .family = "global"};
  }

 private:
  static std::vector<int64_t> window(const SubModels::Choice& choice) {
    std::vector<int64_t> units;
    for (int64_t i = 0; i < choice.kept; ++i)
      units.push_back((choice.round - 1 + i) % choice.units);
    return units;
  }
};

FL_REGISTER(Algorithm, "fedrolex", FedRolex);

}  // namespace fl_sim
