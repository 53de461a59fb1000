// Clients whose samples the model did badly on when they took part last.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "learning/selection.h"

namespace fl_sim {
namespace {

class Active final : public Sampler {
 public:
  explicit Active(const Setup& setup)
      : counts_(setup.job),
        lowest_(setup.job.get<double>("active.lowest")),
        sharpness_(setup.job.get<double>("active.sharpness")),
        uniform_(setup.job.get<double>("active.uniform")) {}

  static PluginInfo describe() {
    return {.summary = "prefers clients with many samples and a high loss",
            .source = "Goetz et al., Active federated learning, arXiv 1909.12641, 2019",
            .rule =
                "V_k = sqrt(n_k) times the mean loss of client k's last training; of a client that "
                "has not trained yet, times the mean over those that have (before anybody has: 1). "
                "The `active.lowest` share of the candidates with the lowest V is left out of this "
                "draw. (1 - `active.uniform`) cohort clients are drawn without replacement, in "
                "proportion to exp(`active.sharpness` V); the rest uniformly from all others. "
                "Biased: clients count by the job's weighting.",
            .options = {{.name = "lowest",
                         .type = Option::Type::kNumber,
                         .default_value = "0.75",
                         .meaning = "alpha_1: share of the candidates with the lowest value that "
                                    "is left out",
                         .range = from_below(0, 1)},
                        {.name = "sharpness",
                         .type = Option::Type::kNumber,
                         .default_value = "0.01",
                         .meaning = "alpha_2: factor on the value in the exponent",
                         .range = at_least(0)},
                        {.name = "uniform",
                         .type = Option::Type::kNumber,
                         .default_value = "0.1",
                         .meaning = "alpha_3: share of the cohort that is drawn uniformly",
                         .range = between(0, 1)}},
            .reads = Counts::keys(),
            .elsewhere =
                "Plato takes the mean loss over sqrt(n_k), and a client that was among the lowest "
                "once is never drawn by its value again."};
  }

  bool biased() const override { return true; }
  bool draws_anytime() const override { return true; }

  void init(State& memory, int64_t ids) const override {
    memory[kLoss] = torch::full({ids}, kNotMeasured, torch::kFloat64);
    counts_.init(memory, ids);
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* losses = memory.at(kLoss).data_ptr<double>();
    for (const ClientRecord& record : records) {
      if (record.answers() && std::isfinite(record.loss)) losses[record.client] = record.loss;
    }
    counts_.learn(memory, records);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const std::vector<int64_t> ids = counts_.within_cap(request.memory, ids_of(request.candidates));
    const int64_t m = std::min(request.cohort, std::ssize(ids));
    std::vector<double> weights = values(request, ids);
    counts_.mix_in(request.memory, ids, weights);

    std::vector<size_t> order(ids.size());
    std::iota(order.begin(), order.end(), size_t{0});
    rng.shuffle(std::span(order));  // chance decides among equals
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return weights[a] < weights[b]; });
    const auto left_out = static_cast<size_t>(lowest_ * static_cast<double>(ids.size()));
    const double most = weights[order.back()];
    for (double& weight : weights) weight = std::exp(sharpness_ * (weight - most));
    const auto by_value = m - places_for(request, uniform_ * static_cast<double>(m), rng);
    std::vector<int64_t> open;  // places that may be drawn by their value
    std::vector<double> chances;
    for (size_t i = left_out; i < order.size(); ++i) {
      open.push_back(ids[order[i]]);
      chances.push_back(weights[order[i]]);
    }
    std::vector<int64_t> cohort;
    for (const int64_t place : draw_in_proportion(chances, by_value, rng))
      cohort.push_back(open[static_cast<size_t>(place)]);
    fill_up(cohort, ids, m - std::ssize(cohort), rng);
    return cohort_of(std::move(cohort));
  }

 private:
  static constexpr const char* kLoss = "active.loss";  // [ids] float64; NaN: has not trained

  static std::vector<double> values(const SampleRequest& request, const std::vector<int64_t>& ids) {
    const torch::Tensor known = request.memory.at(kLoss);
    const double* losses = known.data_ptr<double>();
    double sum = 0;
    int64_t seen = 0;
    for (int64_t id = 0; id < known.size(0); ++id) {
      if (std::isnan(losses[id])) continue;
      sum += losses[id];
      ++seen;
    }
    const double usual = seen > 0 ? sum / static_cast<double>(seen) : 1;
    std::vector<double> values;
    for (const int64_t id : ids) {
      values.push_back(std::sqrt(static_cast<double>(request.partition.size(id))) *
                       (std::isnan(losses[id]) ? usual : losses[id]));
    }
    return values;
  }

  Counts counts_;
  double lowest_, sharpness_, uniform_;
};

FL_REGISTER(Sampler, "active", Active);

}  // namespace
}  // namespace fl_sim
