// Clients that are worth most and whose updates do not come late, for asynchronous runs.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Pisces final : public Sampler {
 public:
  explicit Pisces(const Setup& setup)
      : beta_(setup.job.get<double>("pisces.beta")),
        explore_(setup.job.get<double>("pisces.exploration")),
        counts_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "prefers clients with high losses and many samples whose updates are not stale",
        .source =
            "Jiang et al., Pisces: Efficient federated learning via guided asynchronous training, "
            "SoCC 2022",
        .rule =
            "A client that has reported has the utility |B_k| sqrt(mean of the squared losses of "
            "all samples that it went through) / (1 + s_k)^beta, |B_k| how many there are and s_k "
            "the mean staleness of its last five updates. Whoever has not reported yet is drawn "
            "first, by chance (`exploration` 1; else a place is for one of them with that chance, "
            "as long as there are others); then those with the greatest utility, chance deciding "
            "between equals. A report is known when the version that it is in is made. Biased. "
            "The paper's weights (n_k / n) / (1 + s_k)^beta are async.staleness recent with "
            "async.a beta, and weighting samples.",
        .options = {{.name = "beta",
                     .type = Option::Type::kNumber,
                     .default_value = {},
                     .meaning = "exponent of what staleness takes away; 0: nothing",
                     .range = at_least(0)},
                    {.name = "exploration",
                     .type = Option::Type::kNumber,
                     .default_value = "1",
                     .meaning = "share of the places that is for clients without a report",
                     .range = between(0, 1)}},
        .reads = Counts::keys(),
        .elsewhere =
            "Plato's exploration is 0.3, times 0.99 after each draw, at least 0.1; it takes who "
            "was drawn for explored before it reports, and multiplies utilities by a power of the "
            "duration, too.",
        .example =
            "--algorithm fedbuff --devices halfnormal --pisces.beta 0.5 --async.staleness recent "
            "--weighting samples"};
  }

  bool biased() const override { return true; }
  bool draws_anytime() const override { return true; }
  bool needs_squared_loss() const override { return true; }

  void init(State& memory, int64_t ids) const override {
    memory[kUtility] = torch::full({ids}, kNotMeasured, torch::kFloat64);
    memory[kStaleness] = torch::zeros({ids, kRecent}, torch::kInt64);
    memory[kReports] = torch::zeros({ids}, torch::kInt64);
    counts_.init(memory, ids);
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* utility = memory.at(kUtility).data_ptr<double>();
    int64_t* staleness = memory.at(kStaleness).data_ptr<int64_t>();
    int64_t* reports = memory.at(kReports).data_ptr<int64_t>();
    for (const ClientRecord& one : records) {
      if (!one.counts() || one.samples_seen == 0) continue;  // it has not trained
      FL_CHECK(!std::isnan(one.squared_loss),
               "sampler pisces needs the squared losses of samples, which this algorithm does not "
               "measure (choose another sampler, or an algorithm that trains by mini-batches)");
      const auto samples = static_cast<double>(std::min(one.samples, one.samples_seen));
      utility[one.client] = samples * std::sqrt(one.squared_loss);
      staleness[one.client * kRecent + reports[one.client]++ % kRecent] = one.staleness;
    }
    counts_.learn(memory, records);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const std::vector<int64_t> ids = counts_.within_cap(request.memory, ids_of(request.candidates));
    const int64_t* reports = request.memory.at(kReports).data_ptr<int64_t>();
    std::vector<int64_t> explored, unexplored;
    for (const int64_t id : ids) (reports[id] > 0 ? explored : unexplored).push_back(id);
    const int64_t m = std::min(request.cohort, std::ssize(ids));
    // As many as there are places for them, and as others leave.
    int64_t explores = places_for(request, explore_ * static_cast<double>(m), rng);
    explores = std::min(std::max(explores, m - std::ssize(explored)), std::ssize(unexplored));
    std::vector<int64_t> cohort;
    fill_up(cohort, unexplored, explores, rng);
    for (const int64_t id : best(request, explored, m - explores, rng)) cohort.push_back(id);
    return cohort_of(std::move(cohort));
  }

 private:
  static constexpr int64_t kRecent = 5;
  static constexpr const char* kUtility = "pisces.utility";      // [ids]; NaN: no report
  static constexpr const char* kStaleness = "pisces.staleness";  // [ids, kRecent], a ring
  static constexpr const char* kReports = "pisces.reports";      // [ids] how many so far

  std::vector<int64_t> best(const SampleRequest& request, const std::vector<int64_t>& ids,
                            int64_t count, Rng& rng) const {
    const double* utility = request.memory.at(kUtility).data_ptr<double>();
    const int64_t* staleness = request.memory.at(kStaleness).data_ptr<int64_t>();
    const int64_t* reports = request.memory.at(kReports).data_ptr<int64_t>();
    std::vector<double> values;
    for (const int64_t id : ids) {
      const int64_t known = std::min(reports[id], kRecent);
      double sum = 0;
      for (int64_t i = 0; i < known; ++i) sum += static_cast<double>(staleness[id * kRecent + i]);
      values.push_back(utility[id] / std::pow(1 + sum / static_cast<double>(known), beta_));
    }
    counts_.mix_in(request.memory, ids, values);
    std::vector<std::pair<double, int64_t>> order;
    for (size_t i = 0; i < ids.size(); ++i) order.emplace_back(-values[i], ids[i]);
    rng.shuffle(std::span(order));  // chance decides among equals
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < count; ++i) chosen.push_back(order[static_cast<size_t>(i)].second);
    return chosen;
  }

  double beta_, explore_;
  Counts counts_;
};

FL_REGISTER(Sampler, "pisces", Pisces);

}  // namespace
}  // namespace fl_sim
