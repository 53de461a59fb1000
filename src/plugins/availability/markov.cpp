// Clients that come and go: a chain of two states in continuous time.
//
// Nobody walks from the beginning. Time is cut into epochs, and the state at their borders is found
// by bridges: borders so far apart that they know nothing of one another are drawn from the
// stationary law, and one in the middle between two others from the chain's law given both. Within
// an epoch the chain is run from its first state, again and again until it ends in its last one.
// All of that is the chain's law, so nothing is approximated. Random streams number epochs with 32
// bits: at the shortest, of 2 s, a client's path begins anew after 285 years.
#include <array>
#include <cmath>

#include "base/rng.h"
#include "learning/availability.h"

namespace fl_sim {
namespace {

// exp(-40) is nothing beside a probability of 2^-53.
constexpr double kForgotten = 40;

class Markov final : public Availability {
 public:
  explicit Markov(const Setup& setup)
      : seed_(setup.job.seed()),
        mean_{1e6 * setup.job.get<double>("markov.off"), 1e6 * setup.job.get<double>("markov.on")},
        rate_(1 / mean_[0] + 1 / mean_[1]) {
    while (static_cast<double>(Micros{1} << bits_) < mean_[0] + mean_[1]) ++bits_;
    while (rate_ * length(0) * static_cast<double>(int64_t{1} << levels_) < kForgotten) ++levels_;
  }

  static PluginInfo describe() {
    return {.summary = "clients that come and go, for exponential times",
            .rule =
                "A Markov chain of two states in continuous time: on for an exponential time "
                "of mean `markov.on`, off for one of mean `markov.off`, each client by itself. "
                "It is stationary: at the run's start, and at any time, a client is on with "
                "probability on / (on + off). Whatever time is asked for takes a few draws, as "
                "the chain is drawn from coarse to fine, by bridges; that is exact, to the "
                "microsecond.",
            .options = {{.name = "on",
                         .type = Option::Type::kNumber,
                         .default_value = {},
                         .meaning = "mean seconds that a client stays on",
                         .range = between(1, 1e9)},
                        {.name = "off",
                         .type = Option::Type::kNumber,
                         .default_value = {},
                         .meaning = "mean seconds that it stays off",
                         .range = between(1, 1e9)}}};
  }

  bool online(int64_t client, int64_t, Micros time) const override {
    bool on = false;
    change(client, time, on);
    return on;
  }
  Micros next_on(int64_t client, Micros time) const override { return next(client, time, true); }
  Micros next_off(int64_t client, Micros time) const override { return next(client, time, false); }

 private:
  Micros epoch_length() const { return Micros{1} << bits_; }
  double length(int level) const {
    return static_cast<double>(epoch_length()) * static_cast<double>(int64_t{1} << level);
  }
  double stationary(bool on) const { return mean_[on] / (mean_[0] + mean_[1]); }

  // The chance to be in `to` so many microseconds after one was in `from`.
  double transition(bool from, bool to, double after) const {
    const double forgotten = -std::expm1(-rate_ * after);
    return from == to ? 1 - stationary(!to) * forgotten : stationary(to) * forgotten;
  }

  // Whether the client is on at the border before this epoch.
  bool border(int64_t client, int64_t epoch) const {
    const auto draw = [&](int64_t at) {
      return Rng(seed_, "markov", at & UINT32_MAX, client).uniform();
    };
    int64_t left = epoch >> levels_ << levels_;
    bool at_left = draw(left) < stationary(true);
    if (left == epoch) return at_left;
    const int64_t right = left + (int64_t{1} << levels_);
    bool at_right = draw(right) < stationary(true);
    for (int level = levels_ - 1;; --level) {
      const int64_t middle = left + (int64_t{1} << level);
      const auto weight = [&](bool state) {
        return transition(at_left, state, length(level)) *
               transition(state, at_right, length(level));
      };
      const double on = weight(true), off = weight(false);
      const bool at_middle = draw(middle) * (on + off) < on;
      if (middle == epoch) return at_middle;
      if (epoch > middle) {
        left = middle;
        at_left = at_middle;
      } else {
        at_right = at_middle;
      }
    }
  }

  // `on`: whether the client is on at `time`. Returns the first time behind it, within its epoch or
  // at its end, at which that changes; kNever if there is none.
  Micros change(int64_t client, Micros time, bool& on) const {
    const int64_t epoch = time >> bits_;
    const Micros begin = epoch << bits_, phase = time - begin;
    const bool first = border(client, epoch), last = border(client, epoch + 1);
    Rng rng(seed_, "markov-epoch", epoch & UINT32_MAX, client);
    for (;;) {
      bool state = first;
      on = first;
      double real = 0;        // when it changes, in microseconds since the epoch's begin
      Micros found = kNever;  // the first time behind `time` at which it is not as it was then
      for (;;) {
        real -= mean_[state] * std::log1p(-rng.uniform());
        if (real > length(0)) break;
        state = !state;
        // It is what it is at whole microseconds; changes between two of them may cancel out.
        const auto at = static_cast<Micros>(std::ceil(real));
        if (at <= phase) {
          on = state;
        } else if (found == kNever) {
          found = at;
        } else if (found == at && state == on) {
          found = kNever;
        }
      }
      if (state == last) return found == kNever ? kNever : begin + found;
    }
  }

  Micros next(int64_t client, Micros time, bool wanted) const {
    bool on = false;
    Micros changes = change(client, time, on);
    if (on == wanted) return time;
    while (changes == kNever) {
      time = ((time >> bits_) + 1) << bits_;
      changes = change(client, time, on);
      if (on == wanted) return time;
    }
    return changes;
  }

  uint64_t seed_;
  std::array<double, 2> mean_;  // microseconds off and on
  double rate_;                 // at which the chain forgets, per microsecond
  int bits_ = 0;                // an epoch has 2^bits_ microseconds, about a stay on and one off
  int levels_ = 0;              // borders 2^levels_ epochs apart are independent
};

FL_REGISTER(Availability, "markov", Markov);

}  // namespace
}  // namespace fl_sim
