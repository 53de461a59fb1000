// Each client has the same chance in each round, whatever it was before.
#include "base/rng.h"
#include "learning/availability.h"

namespace fl_sim {
namespace {

class Chance final : public Availability {
 public:
  explicit Chance(const Setup& setup)
      : seed_(setup.job.seed()), chance_(setup.job.get<double>("availability.probability")) {}

  static PluginInfo describe() {
    return {.summary = "the same chance for each client in each round",
            .rule =
                "A client can be drawn in a round with `availability.probability`, whatever "
                "it was before, and is there to the round's end.",
            .reads = {"availability.probability"}};
  }

  bool everybody() const override { return chance_ >= 1; }
  bool follows_time() const override { return false; }
  bool online(int64_t client, int64_t round, Micros) const override {
    return Rng(seed_, "availability", round, client).uniform() < chance_;
  }

 private:
  uint64_t seed_;
  double chance_;
};

FL_REGISTER(Availability, "chance", Chance);

}  // namespace
}  // namespace fl_sim
