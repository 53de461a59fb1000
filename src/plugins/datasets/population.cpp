// Many users with hardly any samples each: what a phone keyboard's population looks like to an
// engine, in as little memory as possible. For measuring, not for learning something new.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "data/dataset.h"

namespace fl_sim {
namespace {

constexpr int64_t kTest = 1000;
constexpr double kScale = 1.0 / 32, kShift = -4;  // bytes stand for -4 to 4

class Population final : public DatasetSource {
 public:
  explicit Population(const Setup& setup)
      : seed_(setup.job.seed()),
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
            "in bytes that stand for -4 to 4. Test: 1,000 samples more. A user's samples are drawn "
            "from a stream of its own: more users change nobody's.",
        .options = {{"users", Type::kInteger, "1000000", "users", between(1, 1e8)},
                    {"samples", Type::kInteger, "2", "most samples of a user", between(1, 1e6)},
                    {"features", Type::kInteger, "8", "numbers in a sample", between(1, 1e6)},
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
    // Once for the sizes, once more for the samples: a stream costs less than to remember it.
    const auto begin_user = [&](int64_t user) {
      Rng stream(seed_, "population", 0, user + 1);
      const int64_t size = 1 + stream.below(samples_);
      return std::pair(size, stream);
    };
    for (int64_t user = 0; user < users_; ++user)
      data.owner.insert(data.owner.end(), static_cast<size_t>(begin_user(user).first), user);
    data.train = empty(std::ssize(data.owner));
    for (int64_t user = 0, i = 0; user < users_; ++user) {
      auto [size, stream] = begin_user(user);
      for (const int64_t end = i + size; i < end; ++i) draw(data.train, i, centres, stream);
    }
    data.test = empty(kTest);
    for (int64_t i = 0; i < kTest; ++i) draw(data.test, i, centres, rng);
    return data;
  }

 private:
  Samples empty(int64_t n) const {
    return {torch::empty({n, features_}, torch::kUInt8), torch::empty({n}, torch::kInt64)};
  }

  // Sample i.
  void draw(Samples& samples, int64_t i, const std::vector<double>& centres, Rng& rng) const {
    uint8_t* x = samples.inputs.data_ptr<uint8_t>() + i * features_;
    const int64_t label = rng.below(classes_);
    samples.labels.data_ptr<int64_t>()[i] = label;
    for (int64_t j = 0; j < features_; ++j) {
      const double value =
          centres[static_cast<size_t>(label * features_ + j)] + 4 * rng.uniform() - 2;
      x[j] = static_cast<uint8_t>(std::clamp(std::lround((value - kShift) / kScale), 0L, 255L));
    }
  }

  uint64_t seed_;
  int64_t users_, samples_, features_, classes_;
};

FL_REGISTER(DatasetSource, "population", Population);

}  // namespace
}  // namespace fl_sim
