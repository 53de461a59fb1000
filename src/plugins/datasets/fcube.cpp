// FCUBE: points of a cube, two classes, four parties that own opposite pairs of its octants.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench), section IV.
#include "base/check.h"
#include "base/rng.h"
#include "data/dataset.h"

namespace fl_sim {
namespace {

constexpr int64_t kParties = 4, kPerParty = 1000, kTest = 1000;

class Fcube final : public DatasetSource {
 public:
  explicit Fcube(const Setup& setup) : seed_(setup.job.seed()) {}

  static PluginInfo describe() {
    return {
        .summary = "NIID-Bench's cube: 3 features, 2 classes, 4 parties in opposite octants",
        .source =
            "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
            "study, ICDE 2022 (NIID-Bench)",
        .rule =
            "Party 0 to 3 draws 1,000 points of U[0,1]^3, with x2 negated if party > 1 and x3 if "
            "party is odd; even points have label 0, odd ones become -x with label 1. "
            "Test: 1,000 points of U[-1,1]^3 with label (x1 <= 0)."};
  }

  Dataset read() const override {
    Dataset data;
    data.classes = 2;
    std::vector<float> inputs;
    std::vector<int64_t> labels;
    for (int64_t party = 0; party < kParties; ++party) {
      Rng rng(seed_, "fcube", 0, party);
      for (int64_t i = 0; i < kPerParty; ++i) {
        const int64_t label = i % 2;
        const double side[3] = {1.0, party > 1 ? -1.0 : 1.0, party % 2 == 1 ? -1.0 : 1.0};
        for (const double sign : side) {
          inputs.push_back(static_cast<float>((label == 1 ? -sign : sign) * rng.uniform()));
        }
        labels.push_back(label);
        data.owner.push_back(party);
      }
    }
    data.train = {torch::tensor(inputs).reshape({kParties * kPerParty, 3}), torch::tensor(labels)};

    inputs.clear();
    labels.clear();
    Rng rng(seed_, "fcube", 1);
    for (int64_t i = 0; i < kTest; ++i) {
      for (int j = 0; j < 3; ++j) inputs.push_back(static_cast<float>(2 * rng.uniform() - 1));
      labels.push_back(inputs[inputs.size() - 3] <= 0 ? 1 : 0);
    }
    data.test = {torch::tensor(inputs).reshape({kTest, 3}), torch::tensor(labels)};
    return data;
  }

 private:
  uint64_t seed_;
};

FL_REGISTER(DatasetSource, "fcube", Fcube);

}  // namespace
}  // namespace fl_sim
