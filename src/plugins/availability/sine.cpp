// Chances that rise and fall with the time of the day: FLGo's SLN, after Ribero et al.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/rng.h"
#include "learning/availability.h"
#include "plugins/availability/lognormal_share.h"

namespace fl_sim {
namespace {

// Smaller q_k make next_on() long, and are as good as never.
constexpr double kSmallestShare = 1e-4;

class Sine final : public Availability {
 public:
  explicit Sine(const Setup& setup)
      : seed_(setup.job.seed()),
        beta_(setup.job.get<double>("sine.beta")),
        period_(setup.job.get<double>("sine.period")),
        slot_(micros(setup.job.get<double>("sine.slot"))) {
    FL_CHECK(seconds_of(slot_) <= period_, "sine.slot is ", seconds_of(slot_),
             " (must be at most sine.period, ", period_, ")");
  }

  static PluginInfo describe() {
    return {.summary = "a chance that swings with the time of the day, lognormal over clients",
            .source =
                "Ribero et al., Federated Learning Under Intermittent Client Availability and "
                "Time-Varying Communication Constraints, IEEE JSTSP 2023; as in FLGo",
            .rule =
                "In each slot of `sine.slot` seconds client k can be reached with the chance q_k "
                "(0.4 sin(2 pi t / period) + 0.5), t being the slot's middle, whatever it was in "
                "others. q_k is drawn once from LN(0, -ln(1 - beta)) and divided by the largest, "
                "for which we take the law's 99.9 % quantile: a thousandth of the clients passes "
                "it and has q 1, and no client's chance depends on who else there is. q_k is at "
                "least 0.0001, and what stands at the 0.1 % quantile.",
            .options = {{.name = "beta",
                         .type = Option::Type::kNumber,
                         .default_value = "0.5",
                         .meaning = "how much clients differ; 0: not at all",
                         .range = from_below(0, 1)},
                        {.name = "period",
                         .type = Option::Type::kNumber,
                         .default_value = "86400",
                         .meaning = "seconds of a swing",
                         .range = between(1, 1e9)},
                        {.name = "slot",
                         .type = Option::Type::kNumber,
                         .default_value = "600",
                         .meaning = "seconds in which a client stays what it is",
                         .range = between(1, 1e9)}},
            .elsewhere =
                "FLGo's period is 24 rounds, each drawn anew; it divides by the largest of "
                "the clients that there are, and has beta in the mode's name, SLN-0.5; 0.5 is "
                "our choice"};
  }

  bool online(int64_t client, int64_t, Micros time) const override {
    return on_in(client, share(client), time / slot_);
  }
  Micros next_on(int64_t client, Micros time) const override { return next(client, time, true); }
  Micros next_off(int64_t client, Micros time) const override { return next(client, time, false); }

 private:
  double share(int64_t client) const {
    return std::max(kSmallestShare, lognormal_share(seed_, client, beta_));
  }

  bool on_in(int64_t client, double share, int64_t slot) const {
    const double turns = seconds_of(slot * slot_ + slot_ / 2) / period_;
    const double chance =
        share * (0.4 * std::sin(2 * std::numbers::pi * (turns - std::floor(turns))) + 0.5);
    return Rng(seed_, "availability", slot & UINT32_MAX, client).uniform() < chance;
  }

  Micros next(int64_t client, Micros time, bool on) const {
    const double q = share(client);
    int64_t slot = time / slot_;
    if (on_in(client, q, slot) == on) return time;
    while (on_in(client, q, ++slot) != on) continue;
    return slot * slot_;
  }

  uint64_t seed_;
  double beta_;
  double period_;  // seconds
  Micros slot_;
};

FL_REGISTER(Availability, "sine", Sine);

}  // namespace
}  // namespace fl_sim
