// Clients that are worth most: of whose samples the model knows least, and who are not slow.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

struct OortOptions {
  explicit OortOptions(const Job& job)
      : explore(job.get<double>("oort.exploration")),
        decay(job.get<double>("oort.exploration-decay")),
        least(job.get<double>("oort.exploration-min")),
        cut(job.get<double>("oort.cut")),
        pool(job.get<double>("oort.pool")),
        clip(job.get<double>("oort.clip")),
        alpha(job.get<double>("oort.alpha")),
        scale(job.get<bool>("oort.scale")),
        by_seconds(job.get<std::string>("oort.pacer") == "seconds"),
        window(job.get<int64_t>("oort.window")),
        step(job.get<double>("oort.step")),
        quantile(by_seconds ? 0 : job.get<double>("oort.quantile")),
        by(job.get<std::string>("oort.explore")) {}

  double explore, decay, least, cut, pool, clip, alpha;
  bool scale, by_seconds;
  int64_t window;
  double step, quantile;
  std::string by;
};

class Oort final : public Sampler {
 public:
  explicit Oort(const Setup& setup) : o_(setup.job), counts_(setup.job) {
    FL_CHECK(o_.step > 0 || o_.alpha == 0 || setup.job.get<std::string>("devices") == "none",
             "oort.step is 0, but there is virtual time, whose preferred duration begins with it "
             "and moves by it (set it: seconds, such as a usual task's duration, for oort.pacer "
             "seconds; points of a hundred, such as 5, for oort.pacer quantile; or set oort.alpha "
             "to 0)");
  }

  static PluginInfo describe() {
    const auto number = [](const char* name, const char* value, const char* meaning, Range range) {
      return Option{.name = name,
                    .type = Option::Type::kNumber,
                    .default_value = value,
                    .meaning = meaning,
                    .range = range};
    };
    return {
        .summary = "prefers clients with high losses and many samples, not those that are slow",
        .source =
            "Lai et al., Oort: Efficient federated learning via guided participant selection, "
            "OSDI 2021",
        .rule =
            "A client whose update has come in time is explored, and has U_k = |B_k| sqrt(mean of "
            "the squared losses of all samples that it went through then), |B_k| how many there "
            "are, clipped to the `oort.clip` quantile over explored candidates. In round R its "
            "utility is U_k + sqrt(0.1 ln R / L_k), L_k the round of its last report; times (T* / "
            "t_k)^alpha where its last task took t_k > T*. (1 - eps) m clients are drawn without "
            "replacement, in proportion to utility, from those that have at least `oort.cut` "
            "times the utility of the (1 - eps) m-th; eps m from those that are not explored, and "
            "what is missing uniformly. eps = max(exploration-min, exploration * "
            "exploration-decay^(R - 1)). Nobody is explored: uniform.\n"
            "`pacer seconds`: T* begins as `oort.step` seconds, and where the utilities of the "
            "last `oort.window` rounds' reports come to less than those of the window before, T* "
            "grows by it. `pacer quantile`: T* is a quantile of the durations that are known, "
            "`oort.quantile` percent at first, `oort.step` points more where the sums differ by 10 "
            "% at most, and less where one is five times more than the other.\n"
            "`explore oracle-speed`: in proportion to 1 / the planned duration of the task, which "
            "an oracle knows; `oracle-size`: of the best 5 eps m by samples times (T* / "
            "t_k)^alpha, in proportion to that; `uniform`. Without devices the last two terms of "
            "time are not there, and speeds are equal. Biased: clients count by the job's "
            "weighting.",
        .options =
            {number("exploration", "0.9", "share of the cohort for unexplored clients",
                    between(0, 1)),
             number("exploration-decay", "0.98", "factor on that after each round",
                    {.low = 0, .high = 1, .open_low = true}),
             number("exploration-min", "0.2", "its least value", between(0, 1)),
             number("cut", "0.95", "share of the last one's utility that is enough", between(0, 1)),
             number("pool", "0",
                    "at least so many times the places stay above the cut; FedScale: 10",
                    at_least(0)),
             number("clip", "0.95", "quantile to which utilities are clipped", between(0, 1)),
             number("alpha", "2", "exponent of the penalty on slow clients; 0: none", at_least(0)),
             {.name = "scale",
              .type = Option::Type::kFlag,
              .default_value = "false",
              .meaning = "U_k is scaled to 0 to 1 before the other terms"},
             {.name = "pacer",
              .default_value = "seconds",
              .meaning = "what the preferred duration T* is",
              .choices = {"seconds", "quantile"}},
             {.name = "window",
              .type = Option::Type::kInteger,
              .default_value = "20",
              .meaning = "rounds that the pacer compares",
              .range = at_least(1)},
             number("step", "0",
                    "how far the pacer goes: seconds, or points of a hundred; must be set "
                    "where there are devices",
                    at_least(0)),
             {.name = "quantile",
              .type = Option::Type::kNumber,
              .default_value = "10",
              .meaning = "percent of known durations that T* begins with",
              .range = between(0, 100),
              .only_with = {"oort.pacer", {"quantile"}}},
             {.name = "explore",
              .default_value = "oracle-speed",
              .meaning = "which of the unexplored are drawn",
              .choices = {"oracle-speed", "oracle-size", "uniform"}}},
        .reads = Counts::keys(),
        .elsewhere =
            "Oort's repository: exploration-decay 0.95, cut 0.7, clip 0.98, scale true, pacer "
            "quantile with step 5, explore oracle-size.\n"
            "FedScale: exploration-min 0.3, cut 0.05 with pool 10, clip 0.9, scale true, pacer "
            "quantile with quantile 30 and step 5, explore oracle-size. Beside that it takes the "
            "losses of the last mini-batch alone, knows durations of clients that it has never "
            "seen, and counts stragglers that never trained as explored.\n"
            "flame: exploration-min 0.2, pacer quantile 30 and step 10, explore uniform.",
        .example = "--devices lognormal --oort.step 10"};
  }

  bool biased() const override { return true; }
  bool draws_anytime() const override { return true; }
  bool needs_squared_loss() const override { return true; }

  void init(State& memory, int64_t ids) const override {
    for (const char* name : {kUtility, kSeconds})
      memory[name] = torch::full({ids}, kNotMeasured, torch::kFloat64);
    memory[kRound] = torch::zeros({ids}, torch::kInt64);
    // Rounds, sums of utilities of this window and the last one, and T* or its percentage.
    memory[kPace] =
        torch::tensor({0.0, 0.0, 0.0, o_.by_seconds ? o_.step : o_.quantile}, torch::kFloat64);
    counts_.init(memory, ids);
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* utility = memory.at(kUtility).data_ptr<double>();
    double* seconds = memory.at(kSeconds).data_ptr<double>();
    int64_t* round = memory.at(kRound).data_ptr<int64_t>();
    double sum = 0;
    for (const ClientRecord& one : records) {
      if (!one.counts() || one.samples_seen == 0) continue;  // it has not trained
      FL_CHECK(!std::isnan(one.loss) && !std::isnan(one.squared_loss),
               "sampler oort needs the squared losses of samples, which this algorithm does not "
               "measure (choose another sampler, or an algorithm that trains by mini-batches)");
      const auto samples = static_cast<double>(std::min(one.samples, one.samples_seen));
      utility[one.client] = samples * std::sqrt(one.squared_loss);
      seconds[one.client] = one.finish_seconds - one.start_seconds;
      round[one.client] = one.round;
      sum += utility[one.client];
    }
    counts_.learn(memory, records);
    pace(memory.at(kPace).data_ptr<double>(), sum);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const std::vector<int64_t> ids = counts_.within_cap(request.memory, ids_of(request.candidates));
    const double* utility = request.memory.at(kUtility).data_ptr<double>();
    std::vector<int64_t> explored, unexplored;
    for (const int64_t id : ids) (std::isnan(utility[id]) ? unexplored : explored).push_back(id);
    const int64_t m = std::min(request.cohort, std::ssize(ids));
    std::vector<int64_t> cohort;
    if (request.memory.at(kRound).max().item<int64_t>() > 0) {  // somebody has reported
      const double share = std::max(
          o_.least, o_.explore * std::pow(o_.decay, static_cast<double>(request.round - 1)));
      const auto wanted = places_for(request, share * static_cast<double>(m), rng);
      const int64_t explores = std::min(wanted, std::ssize(unexplored));
      const double preferred = preferred_seconds(request.memory);
      cohort = exploit(request, explored, m - explores, preferred, rng);
      for (const int64_t id : explore(request, unexplored, explores, preferred, rng))
        cohort.push_back(id);
    }
    fill_up(cohort, ids, m - std::ssize(cohort), rng);
    return cohort_of(std::move(cohort));
  }

 private:
  static constexpr const char* kUtility = "oort.utility";  // [ids] U_k; NaN: not explored
  static constexpr const char* kSeconds = "oort.seconds";  // [ids] of the last task
  static constexpr const char* kRound = "oort.round";      // [ids] of the last report
  static constexpr const char* kPace = "oort.pace";

  // After a round whose reports' utilities come to `sum`.
  void pace(double* state, double sum) const {
    double &rounds = state[0], &now = state[1], &before = state[2], &preferred = state[3];
    rounds += 1;
    now += sum;
    const auto window = static_cast<double>(o_.window);
    if (std::fmod(rounds, window) != 0) return;
    if (rounds >= 2 * window) {
      const double change = std::abs(now - before);
      if (o_.by_seconds) {
        if (now < before) preferred += o_.step;
      } else if (change <= 0.1 * before) {
        preferred = std::min(100.0, preferred + o_.step);
      } else if (change >= 5 * before) {
        preferred = std::max(o_.step, preferred - o_.step);
      }
    }
    before = now;
    now = 0;
  }

  // T*; infinite where no durations are known.
  double preferred_seconds(const State& memory) const {
    const double setting = memory.at(kPace)[3].item<double>();
    const torch::Tensor& known = memory.at(kSeconds);
    std::vector<double> sorted;
    for (int64_t id = 0; id < known.size(0); ++id) {
      const double seconds = known.data_ptr<double>()[id];
      if (!std::isnan(seconds)) sorted.push_back(seconds);
    }
    if (sorted.empty()) return std::numeric_limits<double>::infinity();
    if (o_.by_seconds) return setting;
    return quantile_of(sorted, setting / 100);
  }

  static double quantile_of(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    const auto place = static_cast<size_t>(q * static_cast<double>(values.size()));
    return values[std::min(place, values.size() - 1)];
  }

  std::vector<int64_t> exploit(const SampleRequest& request, const std::vector<int64_t>& ids,
                               int64_t count, double preferred, Rng& rng) const {
    count = std::min(count, std::ssize(ids));
    if (count <= 0) return {};
    const double* utility = request.memory.at(kUtility).data_ptr<double>();
    const double* seconds = request.memory.at(kSeconds).data_ptr<double>();
    const int64_t* last = request.memory.at(kRound).data_ptr<int64_t>();
    std::vector<double> values;
    for (const int64_t id : ids) values.push_back(utility[id]);
    const double most = quantile_of(values, o_.clip);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const double from = *low * 0.999, range = std::max(*high - from, 1e-4);
    for (size_t i = 0; i < ids.size(); ++i) {
      double statistical = std::min(values[i], most);
      if (o_.scale) statistical = (statistical - from) / range;
      const int64_t id = ids[i];
      values[i] =
          oort_utility(statistical, request.round, last[id], seconds[id], preferred, o_.alpha);
    }
    counts_.mix_in(request.memory, ids, values);
    std::vector<double> sorted = values;
    std::sort(sorted.rbegin(), sorted.rend());
    double least = o_.cut * sorted[static_cast<size_t>(count - 1)];
    const auto stay = std::min(
        sorted.size(), static_cast<size_t>(std::ceil(o_.pool * static_cast<double>(count))));
    if (stay > 0) least = std::min(least, sorted[stay - 1]);
    std::vector<int64_t> open, chosen;
    std::vector<double> weights;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (values[i] < least) continue;
      open.push_back(ids[i]);
      weights.push_back(values[i]);
    }
    for (const int64_t place : draw_in_proportion(weights, count, rng))
      chosen.push_back(open[static_cast<size_t>(place)]);
    return chosen;
  }

  std::vector<int64_t> explore(const SampleRequest& request, std::vector<int64_t> ids,
                               int64_t count, double preferred, Rng& rng) const {
    if (count <= 0) return {};
    rng.shuffle(std::span(ids));  // chance decides among equals
    std::vector<double> weights;
    for (const int64_t id : ids) {
      const PlannedTask task =
          request.oracle.task && o_.by != "uniform" ? request.oracle.task(id) : PlannedTask();
      const double seconds = task.seconds();
      double weight = 1;
      if (o_.by == "oracle-speed" && !std::isnan(seconds)) weight = 1 / seconds;
      if (o_.by == "oracle-size") {
        const int64_t holds = request.partition.size(id);
        weight = static_cast<double>(std::isnan(seconds) ? holds : std::min(holds, task.samples));
        if (seconds > preferred) weight *= std::pow(preferred / seconds, o_.alpha);
      }
      weights.push_back(weight);
    }
    if (o_.by == "oracle-size") {
      constexpr int64_t kTimes = 5;
      std::vector<double> sorted = weights;
      std::sort(sorted.rbegin(), sorted.rend());
      const auto stay = static_cast<size_t>(std::min(std::ssize(sorted), kTimes * count));
      int64_t above = std::count_if(weights.begin(), weights.end(),
                                    [&](double w) { return w > sorted[stay - 1]; });
      std::vector<int64_t> best;
      std::vector<double> of_best;
      for (size_t i = 0; i < ids.size(); ++i) {
        const bool equal = weights[i] == sorted[stay - 1];
        if (weights[i] < sorted[stay - 1] || (equal && above >= static_cast<int64_t>(stay)))
          continue;
        above += equal ? 1 : 0;
        best.push_back(ids[i]);
        of_best.push_back(weights[i]);
      }
      ids = std::move(best);
      weights = std::move(of_best);
    }
    std::vector<int64_t> chosen;
    for (const int64_t place : draw_in_proportion(weights, count, rng))
      chosen.push_back(ids[static_cast<size_t>(place)]);
    return chosen;
  }

  OortOptions o_;
  Counts counts_;
};

FL_REGISTER(Sampler, "oort", Oort);

}  // namespace
}  // namespace fl_sim
