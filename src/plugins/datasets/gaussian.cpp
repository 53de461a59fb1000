// Gaussian blobs: classes that differ in their mean only.
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

class Gaussian final : public DatasetSource {
 public:
  explicit Gaussian(const Setup& setup)
      : seed_(setup.job.seed()),
        classes_(setup.job.get<int64_t>("gaussian.classes")),
        features_(setup.job.get<int64_t>("gaussian.features")),
        samples_(setup.job.get<int64_t>("gaussian.samples")),
        test_(setup.job.get<int64_t>("gaussian.test-samples")),
        owners_(setup.job.get<int64_t>("gaussian.owners")),
        separation_(setup.job.get<double>("gaussian.separation")) {
    FL_CHECK(owners_ <= samples_, "gaussian.owners is ", owners_, " (must be at most ", samples_,
             ", the number of samples: each owns one)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "a Gaussian blob a class, at any distance from one another",
        .rule =
            "Each class c has a centre m_c, separation times a point drawn uniformly from the unit "
            "sphere; a sample's class is uniform, x ~ N(m_c, I). Sample i belongs to natural "
            "client "
            "i mod owners.",
        .options = {
            {"classes", Type::kInteger, "10", "classes", between(1, 1e6)},
            {"features", Type::kInteger, "20", "numbers in a sample", between(1, 1e6)},
            {"separation", Type::kNumber, "4",
             "distance of the centres from 0, in standard deviations of a blob", at_least(0)},
            {"samples", Type::kInteger, "10000", "training samples", between(1, 1e9)},
            {"test-samples", Type::kInteger, "2000", "test samples", between(1, 1e9)},
            {"owners", Type::kInteger, "100", "natural clients", between(1, 1e9)}}};
  }

  Dataset read() const override {
    Rng rng(seed_, "gaussian");
    std::vector<double> centres(static_cast<size_t>(classes_ * features_));
    for (int64_t c = 0; c < classes_; ++c) {
      double squares = 0;
      double* centre = centres.data() + c * features_;
      for (int64_t j = 0; j < features_; ++j) {
        centre[j] = rng.normal();
        squares += centre[j] * centre[j];
      }
      for (int64_t j = 0; j < features_; ++j) centre[j] *= separation_ / std::sqrt(squares);
    }
    Dataset data;
    data.classes = classes_;
    data.train = draw(samples_, centres, rng);
    data.test = draw(test_, centres, rng);
    for (int64_t i = 0; i < samples_; ++i) data.owner.push_back(i % owners_);
    return data;
  }

 private:
  Samples draw(int64_t n, const std::vector<double>& centres, Rng& rng) const {
    Samples out{torch::empty({n, features_}), torch::empty({n}, torch::kInt64)};
    float* x = out.inputs.data_ptr<float>();
    int64_t* y = out.labels.data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i) {
      y[i] = rng.below(classes_);
      const double* centre = centres.data() + y[i] * features_;
      for (int64_t j = 0; j < features_; ++j)
        x[i * features_ + j] = static_cast<float>(centre[j] + rng.normal());
    }
    return out;
  }

  uint64_t seed_;
  int64_t classes_, features_, samples_, test_, owners_;
  double separation_;
};

FL_REGISTER(DatasetSource, "gaussian", Gaussian);

}  // namespace
}  // namespace fl_sim
