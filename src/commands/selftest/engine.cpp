// The round loop itself, whatever the algorithm.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "commands/selftest/networks.h"

namespace fl_sim::selftest {
namespace {

// The last batch of an epoch, a single sample, is neither dropped nor weighted like a full one: of
// three samples in batches of two the result is one of the three orders' closed forms.
FL_SELFTEST("engine", "mistakes", "the last small batch counts with its own mean", [] {
  const Problem problem{
      .clients = {{{{1}, {1}}, {{-2}, {0.5}}, {{0.5}, {2}}}}, .start = {0.25}, .cohorts = {{0}}};
  const auto& points = problem.clients[0];
  const double lr = 0.25;
  const auto g = [&](size_t i, double w) { return points[i].curvature[0] * (w - points[i].a[0]); };
  const double w =
      solve(problem, "fedavg", "local.epochs = 1\nlocal.batch-size = 2\nlocal.lr = 0.25", 1)[0];
  double right = 1, wrong = 1;  // distance to the nearest of either
  for (size_t last = 0; last < 3; ++last) {
    const size_t i = (last + 1) % 3, j = (last + 2) % 3;
    const double after_first = 0.25 - lr * (g(i, 0.25) + g(j, 0.25)) / 2;
    right = std::min(right, std::abs(w - (after_first - lr * g(last, after_first))));
    for (const double mistake : {after_first, after_first - lr * g(last, after_first) / 2}) {
      wrong = std::min(wrong, std::abs(w - mistake));
    }
  }
  return all_of({{right, kTolerance}, require(wrong > 0.01, "right and wrong look alike")});
});

// Remembers the cohorts that another sampler draws.
class RecordingSampler final : public Sampler {
 public:
  RecordingSampler(std::unique_ptr<Sampler> sampler, std::vector<std::vector<int64_t>>& drawn)
      : sampler_(std::move(sampler)), drawn_(drawn) {}
  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const std::vector<Drawn> cohort = sampler_->sample(request, rng);
    drawn_.emplace_back();
    for (const Drawn& drawn : cohort) drawn_.back().push_back(drawn.client);
    return cohort;
  }

 private:
  std::unique_ptr<Sampler> sampler_;
  std::vector<std::vector<int64_t>>& drawn_;
};

FL_SELFTEST("engine", "mistakes", "cohorts depend on the seed and on the round", [] {
  const Problem problem{.clients = std::vector<std::vector<Point>>(20, {{{1}, {1}}}),
                        .start = {0},
                        .cohorts = {{0, 1, 2, 3, 4}}};
  const auto cohorts = [&](int64_t seed) {
    std::vector<std::vector<int64_t>> drawn;
    Experiment e = experiment_of(problem, "fedavg", message(Local().lines(), "seed = ", seed), 5);
    e.sampler = std::make_unique<RecordingSampler>(make<Sampler>("uniform", {e.job, 20}), drawn);
    run(e);
    return drawn;
  };
  const auto first = cohorts(1), second = cohorts(2);
  bool all_differ = first.size() == 5;
  for (size_t round = 0; round < first.size(); ++round) {
    all_differ = all_differ && first[round] != second[round];
    for (size_t other = 0; other < round; ++other) {
      all_differ = all_differ && first[round] != first[other];
    }
  }
  return all_of({require(first == cohorts(1), "one seed draws different cohorts"),
                 require(all_differ, "two seeds or two rounds draw the same cohort")});
});

// Running statistics after one round of 3 full-batch steps: (1 - 0.9^3) of a client's mean and
// unbiased variance over 0.9^3 of the initial 0 and 1, averaged over clients of 2 and 6 samples
// with weights 1/4 and 3/4, whatever the server does with the trainable part.
FL_SELFTEST("engine", "mistakes", "running statistics are averaged by weight", [] {
  torch::Tensor inputs = torch::arange(24).mul(7).remainder(16).sub(7.5).div(8).view({8, 3});
  const Samples data{inputs.to(torch::kFloat32), torch::arange(8).remainder(2)};
  const double kept = 0.9 * 0.9 * 0.9;
  torch::Tensor mean = torch::zeros({3}, torch::kFloat64),
                var = torch::full({3}, kept, torch::kFloat64);
  for (const auto& [first, count] : {std::pair{0, 2}, std::pair{2, 6}}) {
    const torch::Tensor x = data.inputs.narrow(0, first, count).to(torch::kFloat64);
    const torch::Tensor deviation = x - x.mean(0);
    mean += (1 - kept) * (count / 8.0) * x.mean(0);
    var += (1 - kept) * (count / 8.0) * deviation.square().sum(0) / (count - 1);
  }
  const Vector expected = to_vector(torch::cat({mean, var}));
  std::vector<Result> results;
  for (const char* lines :
       {"algorithm = fedavg", "algorithm = fedavg\nserver.lr = 0.25",
        "algorithm = fedavg\ngroup-size = 2", "algorithm = fedadam",
        "algorithm = fedprox\nfedprox.mu = 1", "algorithm = scaffold\nweighting = samples"}) {
    Experiment e = hand_made_experiment(
        message(Local{.momentum = 0.5, .weight_decay = 0.25, .clip = 0.125}.lines(), lines,
                "\nrounds = 1\ncohort = 2"),
        data, 2, {{0, 1}, {2, 3, 4, 5, 6, 7}}, std::make_unique<NormalisedLinear>(3, 2));
    const torch::Tensor weights = run(e).server.weights;
    std::vector<torch::Tensor> statistics;
    for (size_t i = 0; i < e.network->layout().parameters().size(); ++i) {
      if (e.network->layout().parameters()[i].trainable) continue;
      statistics.push_back(e.network->layout().view(weights, static_cast<int64_t>(i)).flatten());
    }
    results.push_back(compare(to_vector(torch::cat(statistics)), expected));
    results.back().note = lines;
  }
  return all_of(results);
});

}  // namespace
}  // namespace fl_sim::selftest
