// Clients first that will not be there later.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Refl final : public Sampler {
 public:
  explicit Refl(const Setup& setup)
      : seed_(setup.job.seed()),
        accuracy_(setup.job.get<double>("refl.oracle-accuracy")),
        factor_(setup.job.get<double>("refl.factor")) {
    FL_CHECK(setup.job.get<std::string>("devices") != "none",
             "sampler refl looks ahead by how long rounds take, but devices is none, so that there "
             "is no time (choose devices, such as --devices lognormal)");
  }

  static PluginInfo describe() {
    return {
        .summary = "clients first that will not be there later; an oracle of availability",
        .source = "Abdelmoniem et al., REFL: Resource-efficient federated learning, EuroSys 2023",
        .rule =
            "D is a moving average of rounds' lengths, D = (1 - f) D + f length, f "
            "`refl.factor`. Clients that can be reached in the whole of [T, T + D), but not in "
            "the whole of [T + D, T + 2 D), are drawn before others; which of them, and who "
            "else, by chance. Each client forecasts itself: rightly with chance "
            "`refl.oracle-accuracy`, the opposite otherwise. The first round is uniform. "
            "Biased: clients count by the job's weighting.",
        .options = {{.name = "oracle-accuracy",
                     .type = Option::Type::kNumber,
                     .default_value = "0.9",
                     .meaning = "chance that a client's forecast is right",
                     .range = between(0, 1)},
                    {.name = "factor",
                     .type = Option::Type::kNumber,
                     .default_value = "0.25",
                     .meaning = "weight of the last round's length in their average",
                     .range = between(0, 1)}},
        .example = "--devices lognormal --availability sessions"};
  }

  bool biased() const override { return true; }

  // When the last round began, and D before it, in virtual seconds.
  void init(State& memory, int64_t) const override {
    memory[kTimes] = torch::full({2}, kNotMeasured, torch::kFloat64);
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* times = memory.at(kTimes).data_ptr<double>();
    if (records.empty()) return;
    const double began = records.front().start_seconds;
    times[1] = average(times, began);
    times[0] = began;
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    FL_CHECK(request.oracle.online,
             "sampler refl has clients forecast whether they can be "
             "reached, but availability follows rounds, not time (choose one that follows time, "
             "such as --availability sessions)");
    const double ahead = average(request.memory.at(kTimes).data_ptr<double>(), request.now);
    const std::vector<int64_t> ids = ids_of(request.candidates);
    std::vector<int64_t> first, cohort;
    for (const int64_t id : ids) {
      if (!(ahead > 0)) break;
      Rng forecast(seed_, "forecast", request.round, id);
      const auto says = [&](double from) {
        const bool there = request.oracle.online(id, from, from + ahead);
        return forecast.uniform() < accuracy_ ? there : !there;
      };
      const bool now = says(request.now), later = says(request.now + ahead);
      if (now && !later) first.push_back(id);
    }
    for (const int64_t place : draw_places(std::ssize(first), request.cohort, rng))
      cohort.push_back(first[static_cast<size_t>(place)]);
    fill_up(cohort, ids, request.cohort - std::ssize(cohort), rng);
    return cohort_of(std::move(cohort));
  }

 private:
  static constexpr const char* kTimes = "refl.times";

  // D, where another round begins at `now`.
  double average(const double* times, double now) const {
    if (std::isnan(times[0])) return kNotMeasured;
    const double length = now - times[0];
    return std::isnan(times[1]) ? length : (1 - factor_) * times[1] + factor_ * length;
  }

  uint64_t seed_;
  double accuracy_, factor_;
};

FL_REGISTER(Sampler, "refl", Refl);

}  // namespace
}  // namespace fl_sim
