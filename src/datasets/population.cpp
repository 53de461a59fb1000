// Many users with hardly any samples each: what a phone keyboard's population looks like to an
// engine, in as little memory as possible. For measuring, not for learning something new.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "dataset.h"
#include "rng.h"

namespace fl_sim {
namespace {

constexpr int64_t kTest = 1000;
constexpr double kScale = 1.0 / 32, kShift = -4;  // bytes stand for -4 to 4

class Population final : public DatasetSource {
 public:
  explicit Population(const Setup& setup)
      : seed_(static_cast<uint64_t>(setup.job.get<int64_t>("seed"))),
        users_(setup.job.get<int64_t>("population.users")),
        samples_(setup.job.get<int64_t>("population.samples")),
        features_(setup.job.get<int64_t>("population.features")),
        classes_(setup.job.get<int64_t>("population.classes")) {}

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "up to millions of users with a few samples each, for measuring the engine",
        .rule =
            "Each class c has a centre m_c ~ N(0, I). User k holds 1 to `samples` samples, as "
            "many as drawn uniformly; a sample's class is uniform, x ~ m_c + U[-2, 2]^d, stored "
            "in bytes that stand for -4 to 4. Test: 1,000 samples more.",
        .options = {{"users", Type::kInteger, "1000000", "users", between(1, 1e8)},
                    {"samples", Type::kInteger, "2", "most samples of a user", at_least(1)},
                    {"features", Type::kInteger, "8", "numbers in a sample", at_least(1)},
                    {"classes", Type::kInteger, "10", "classes", between(1, 1e6)}}};
  }

  Dataset read() const override {
    Rng rng(seed_, "population");
    std::vector<double> centres(static_cast<size_t>(classes_ * features_));  // [classes, features]
    for (double& value : centres) value = rng.normal();

    Dataset data;
    data.classes = classes_;
    data.scale = kScale;
    data.shift = kShift;
    std::vector<int64_t> sizes(static_cast<size_t>(users_));
    for (int64_t& size : sizes) size = 1 + rng.below(samples_);
    for (int64_t user = 0; user < users_; ++user)
      data.owner.insert(data.owner.end(), static_cast<size_t>(sizes[static_cast<size_t>(user)]),
                        user);
    data.train = draw(std::ssize(data.owner), centres, rng);
    data.test = draw(kTest, centres, rng);
    return data;
  }

 private:
  Samples draw(int64_t n, const std::vector<double>& centres, Rng& rng) const {
    Samples samples{torch::empty({n, features_}, torch::kUInt8), torch::empty({n}, torch::kInt64)};
    uint8_t* x = samples.inputs.data_ptr<uint8_t>();
    int64_t* y = samples.labels.data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i) {
      y[i] = rng.below(classes_);
      for (int64_t j = 0; j < features_; ++j) {
        const double value =
            centres[static_cast<size_t>(y[i] * features_ + j)] + 4 * rng.uniform() - 2;
        x[i * features_ + j] =
            static_cast<uint8_t>(std::clamp(std::lround((value - kShift) / kScale), 0L, 255L));
      }
    }
    return samples;
  }

  uint64_t seed_;
  int64_t users_, samples_, features_, classes_;
};

FL_REGISTER(DatasetSource, "population", Population);

}  // namespace
}  // namespace fl_sim
