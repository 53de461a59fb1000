// Phones: a long session in the night, on the charger, and some short ones by day.
#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "learning/availability.h"

namespace fl_sim {
namespace {

constexpr Micros kHour = 3600 * kSecond, kDay = 24 * kHour;
// No session of two days before is left then.
constexpr Micros kLongestSession = 20 * kHour;

class Sessions final : public Availability {
 public:
  explicit Sessions(const Setup& setup)
      : seed_(setup.job.seed()),
        nights_(number(setup, "nights")),
        night_{number(setup, "night-start"), number(setup, "night-spread"),
               number(setup, "night-hours"), number(setup, "night-sigma")},
        sessions_(number(setup, "day-sessions")),
        day_{number(setup, "day-start"), number(setup, "day-spread"),
             number(setup, "day-minutes") / 60, number(setup, "day-sigma")},
        zones_(setup.job.get<int64_t>("sessions.zones")) {
    const double mean = std::min(20.0, day_.hours * std::exp(day_.sigma * day_.sigma / 2));
    const double load = sessions_ * mean / 24;
    FL_CHECK(load <= 5, "sessions.day-sessions of sessions.day-minutes come to ", load,
             " at a time (must be at most 5, where clients are on for 99.3 % of the time)");
  }

  static PluginInfo describe() {
    const auto option = [](const char* name, const char* value, const char* meaning, Range range) {
      return Option{.name = name,
                    .type = Option::Type::kNumber,
                    .default_value = value,
                    .meaning = meaning,
                    .range = range};
    };
    return {
        .summary = "phones: a session on the charger each night, and short ones by day",
        .rule =
            "Each client has in each day, with chance `sessions.nights`, a night's session, and a "
            "Poisson number of mean `sessions.day-sessions` of others. Starts are normal, in hours "
            "of the client's own time, modulo 24; lengths are lognormal, at most 20 h; the client "
            "is on while any of them lasts, those of the day before among them. Its time zone is "
            "drawn from `sessions.zones` whole hours. The run begins at midnight in the first "
            "one.\n"
            "The defaults are ours, not measured. A client and a day have a stream of their own, "
            "so that nothing is kept.",
        .options = {
            option("nights", "1", "chance of a night's session", between(0, 1)),
            option("night-start", "22.5", "hour at which it begins, the mean", between(0, 24)),
            option("night-spread", "1.5", "its standard deviation, hours", between(0, 100)),
            option("night-hours", "6", "median of its length, hours", between(0.001, 20)),
            option("night-sigma", "0.4", "standard deviation of the length's logarithm",
                   between(0, 5)),
            option("day-sessions", "2", "mean number of other sessions in a day", between(0, 500)),
            option("day-start", "14", "hour at which they begin, the mean", between(0, 24)),
            option("day-spread", "4", "its standard deviation, hours", between(0, 100)),
            option("day-minutes", "10", "median of their length, minutes", between(0.001, 1200)),
            option("day-sigma", "1", "standard deviation of the length's logarithm", between(0, 5)),
            {.name = "zones",
             .type = Option::Type::kInteger,
             .default_value = "24",
             .meaning = "time zones that clients live in, an hour apart",
             .range = between(1, 24)}}};
  }

  bool online(int64_t client, int64_t, Micros time) const override {
    const Micros local = time + zone(client);
    return last_end(client, local) > local;
  }

  Micros next_on(int64_t client, Micros time) const override {
    const Micros local = time + zone(client);
    if (last_end(client, local) > local) return time;
    if (nights_ == 0 && sessions_ == 0) return kNever;
    for (int64_t day = local / kDay; day < kEndOfTime / kDay; ++day) {
      Micros first = kNever;
      each_session(client, day, [&](Micros start, Micros) {
        if (start > local) first = std::min(first, start);
      });
      if (first != kNever) return first - zone(client);
    }
    return kNever;
  }

  Micros next_off(int64_t client, Micros time) const override {
    Micros local = time + zone(client);
    for (Micros end = 0; (end = last_end(client, local)) > local;) local = end;
    return local - zone(client);
  }

 private:
  struct Kind {
    double start, spread;  // hours
    double hours, sigma;   // median of the length
  };

  static double number(const Setup& setup, const std::string& name) {
    return setup.job.get<double>("sessions." + name);
  }

  // What the client's clock shows at the run's start.
  Micros zone(int64_t client) const {
    return zones_ == 1 ? 0 : Rng(seed_, "time-zone", 0, client).below(zones_) * kHour;
  }

  // use(start, end) for each of a day's sessions, in the client's own time.
  template <class Use>
  void each_session(int64_t client, int64_t day, const Use& use) const {
    Rng rng(seed_, "sessions", day + 1, client);
    const auto session = [&](const Kind& kind) {
      const double hour = kind.start + kind.spread * rng.normal();
      const double length = kind.hours * std::exp(kind.sigma * rng.normal());
      const double of_day = (hour - 24 * std::floor(hour / 24)) * static_cast<double>(kHour);
      const Micros start = day * kDay + std::min<Micros>(std::llround(of_day), kDay - 1);
      const double longest = static_cast<double>(kLongestSession);
      const double exact = std::clamp(length * static_cast<double>(kHour), 1.0, longest);
      use(start, start + std::llround(exact));
    };
    if (rng.uniform() < nights_) session(night_);
    // As many as there are arrivals of rate 1 before `sessions_`.
    for (double at = -std::log1p(-rng.uniform()); at < sessions_; at -= std::log1p(-rng.uniform()))
      session(day_);
  }

  // The last end of the sessions that are on at a time, all in the client's own; that time if there
  // are none.
  Micros last_end(int64_t client, Micros local) const {
    Micros last = local;
    for (const int64_t day : {local / kDay - 1, local / kDay}) {
      each_session(client, day, [&](Micros start, Micros end) {
        if (start <= local) last = std::max(last, end);
      });
    }
    return last;
  }

  uint64_t seed_;
  double nights_;
  Kind night_;
  double sessions_;
  Kind day_;
  int64_t zones_;
};

FL_REGISTER(Availability, "sessions", Sessions);

}  // namespace
}  // namespace fl_sim
