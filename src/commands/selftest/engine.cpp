// The round loop itself, whatever the algorithm.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "commands/selftest/networks.h"
#include "learning/selection.h"

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

// Selection
// -----------------------------------------------------------------------------------------

// Hears what a sampler learns of its only client.
class Listener final : public Sampler {
 public:
  explicit Listener(double& squared_loss) : squared_loss_(squared_loss) {}
  std::vector<Drawn> sample(const SampleRequest&, Rng&) const override { return {{0}}; }
  bool needs_squared_loss() const override { return true; }
  void learn(State&, std::span<const ClientRecord> records) const override {
    squared_loss_ = records.front().squared_loss;
  }

 private:
  double& squared_loss_;
};

// Of three samples in batches of two, at weights that do not move.
FL_SELFTEST("engine", "mistakes", "squared losses are those of all batches, not of the last", [] {
  const std::vector<Point> points = {{{1}, {1}}, {{-2}, {0.5}}, {{0.5}, {2}}};
  const Problem problem{.clients = {points}, .start = {0.25}, .cohorts = {{0}}};
  double expected = 0, heard = 0;
  for (const Point& point : points) {
    const double distance = 0.25 - point.a[0];
    expected += std::pow(point.curvature[0] * distance * distance / 2, 2) / 3;
  }
  Experiment e = experiment_of(problem, "fedavg",
                               "local.epochs = 1\nlocal.batch-size = 2\nlocal.lr = 1e-30", 1);
  e.sampler = std::make_unique<Listener>(heard);
  run(e);
  return Result{std::abs(heard - expected), kTolerance};
});

// A sampler on its own, for clients of so many samples.
struct Selection {
  Selection(const std::string& name, const std::string& lines, const std::vector<int64_t>& sizes,
            int64_t cohort)
      : m(cohort), all(std::ssize(sizes)) {
    std::vector<std::vector<int64_t>> lists;
    int64_t next = 0;
    for (const int64_t size : sizes) {
      lists.emplace_back();
      for (int64_t i = 0; i < size; ++i) lists.back().push_back(next++);
    }
    partition = make_partition(std::move(lists));
    sampler = make<Sampler>(name, {any_job(message("sampler = ", name, "\nclients = ", sizes.size(),
                                                   "\ncohort = ", m, "\n", lines)),
                                   std::ssize(sizes)});
    sampler->init(memory, std::ssize(sizes));
  }

  // A client's report of a round in which it has gone through all its samples; or, being late, has
  // done nothing.
  void hear(int64_t client, int64_t round, double loss, bool late = false) {
    ClientRecord record;
    record.round = round;
    record.client = client;
    record.samples = partition.size(client);
    if (late) {
      record.status = static_cast<int64_t>(ClientStatus::kStraggler);
    } else {
      record.samples_seen = record.samples;
      record.loss = loss;
      record.squared_loss = loss * loss;
    }
    sampler->learn(memory, std::vector<ClientRecord>{record});
  }

  std::vector<int64_t> draw(const Candidates& who, int64_t round,
                            const std::map<int64_t, double>& answers = {}) const {
    Rng rng(1, "sampler", round);
    std::vector<int64_t> ids;
    for (const Drawn& one : sampler->sample({.round = round,
                            .cohort = m,
                            .candidates = who,
                            .partition = partition,
                            .memory = memory,
                            .answers = answers},
                                            rng))
      ids.push_back(one.client);
    return ids;
  }

  int64_t m;
  Candidates all;
  Partition partition;
  std::unique_ptr<Sampler> sampler;
  State memory;
};

FL_SELFTEST("engine", "closed form", "chances and utilities of samplers are the papers'", [] {
  const auto off = [](const std::vector<double>& values, const std::vector<double>& expected) {
    double most = values.size() == expected.size() ? 0 : 1;
    for (size_t i = 0; i < std::min(values.size(), expected.size()); ++i)
      most = std::max(most, std::abs(values[i] - expected[i]));
    return Result{most, 1e-12};
  };
  const auto urns = clustered_urns({6, 3, 1}, 2);
  const double third = 1.0 / 3;
  return all_of({off(urns[0], {1, 0, 0}),
                 off(urns[1], {0.2, 0.6, 0.2}),
                 off(optimal_chances({1, 2, 3, 4}, 2), {0.2, 0.4, 0.6, 0.8}),
                 off(optimal_chances({1, 1, 1, 9}, 2), {third, third, third, 1}),
                 off(tier_chances({.5, .7, .6, .9, .8}, std::vector<bool>(5, true)),
                     {5 / 15.0, 3 / 15.0, 4 / 15.0, 1 / 15.0, 2 / 15.0}),
                 {std::abs(oort_utility(10, 10, 1, 4, 2, 2) - 2.619963), 5e-7},
                 {std::abs(oort_utility(4, 10, 9, 1, 2, 2) - 4.159951), 5e-7}});
});

FL_SELFTEST("engine", "mistakes", "Oort credits nobody who did not train, and fills cohorts", [] {
  Selection oort("oort", "", std::vector<int64_t>(10, 5), 4);
  oort.hear(0, 1, 0, /*late=*/true);
  const bool credited = !oort.memory.at("oort.utility").isnan().all().item<bool>();
  for (int64_t k = 0; k < 8; ++k) oort.hear(k, 1, 1);
  bool full = true;  // those that are unexplored are away
  const Candidates who(std::vector<int64_t>{0, 1, 2, 3, 4, 5});
  for (int64_t round = 2; round < 50; ++round) {
    const std::vector<int64_t> cohort = oort.draw(who, round);
    full = full && cohort.size() == 4 &&
           std::set<int64_t>(cohort.begin(), cohort.end()).size() == 4 &&
           std::all_of(cohort.begin(), cohort.end(), [&](int64_t id) { return who.contains(id); });
  }
  Selection pace("oort", "devices = spread\noort.step = 3\noort.window = 2", {5}, 1);
  for (const double loss : {4, 4, 3}) pace.hear(0, 1, loss);
  const double before = pace.memory.at("oort.pace")[3].item<double>();
  pace.hear(0, 1, 3);
  const double after = pace.memory.at("oort.pace")[3].item<double>();
  return all_of({require(!credited, "a straggler that never trained is explored"),
                 require(full, "a cohort is short, has a client twice, or one that is away"),
                 require(before == 3 && after == 6, "the pacer does not wait for its windows")});
});

FL_SELFTEST("engine", "mistakes", "power-of-choice draws whose losses are largest", [] {
  Selection poc("poc", "poc.d = 4", std::vector<int64_t>(8, 5), 2);
  poc.hear(0, 1, 1);
  return require(
      poc.draw(poc.all, 2, {{1, 2}, {4, 9}, {6, 1}, {7, 3}}) == std::vector<int64_t>{4, 7},
      "others are drawn");
});

FL_SELFTEST("engine", "mistakes", "active selection values sqrt(n) loss, and forgets who was low",
            [] {
              Selection active("active", "active.uniform = 0", {1, 4, 9, 16}, 1);
              const std::vector<double> losses = {2, 1.2, 0.7, 0.5};
              for (int64_t k = 0; k < 4; ++k) active.hear(k, 1, losses[static_cast<size_t>(k)]);
              const bool first = active.draw(active.all, 2) == std::vector<int64_t>{1};
              active.hear(0, 2, 5);  // it was the lowest, and is the highest now
              return all_of(
                  {require(first, "by another value"),
                   require(active.draw(active.all, 3) == std::vector<int64_t>{0}, "it stays out")});
            });

}  // namespace
}  // namespace fl_sim::selftest
