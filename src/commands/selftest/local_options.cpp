// Options that go with any algorithm: local optimisers and their rates, weights by loss, stragglers
// and clients that are away, and clients' evaluations.
#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "base/rng.h"
#include "commands/selftest/experiments.h"
#include "learning/client_metrics.h"

namespace fl_sim::selftest {
namespace {

// Optimisers and rates ---------------------------------------------------------------------------

FL_CLOSED_FORM("fedavg", "local Adam", Local{.adam = true}, "", fedavg, 1);
FL_CLOSED_FORM("fedavg", "local Adam with other rates, weight decay and clipped gradients",
               Local{.steps = 5,
                     .lr = 0.0625,
                     .weight_decay = 0.125,
                     .clip = 0.5,
                     .adam = true,
                     .beta1 = 0.5,
                     .beta2 = 0.75,
                     .epsilon = 0.125},
               "", fedavg, 1);
FL_CLOSED_FORM("fedprox", "local Adam sees the proximal term as a part of the gradient",
               Local{.adam = true, .epsilon = 0.125}, "fedprox.mu = 0.5", fedprox, 0.5);

// FedAvg whose local rate in round t is lr * factor(t).
Vector with_rates(const Problem& problem, const Local& local, int64_t rounds,
                  const std::function<double(int64_t)>& factor) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    Local of_round = local;
    of_round.lr *= factor(t);
    w += mean_delta(problem, of_round, t, w);
  }
  return w;
}

FL_CLOSED_FORM("fedavg", "a local rate that falls after every round", Local{},
               "local.lr-decay = 0.5", [](const Problem& p, const Local& l, int64_t rounds) {
                 return with_rates(p, l, rounds, [](int64_t t) { return std::pow(0.5, t - 1); });
               });
FL_CLOSED_FORM("fedavg", "a local rate that falls after every second round", Local{.momentum = 0.5},
               "local.lr-schedule = step\nlocal.lr-step = 2\nlocal.lr-decay = 0.25",
               [](const Problem& p, const Local& l, int64_t rounds) {
                 return with_rates(p, l, rounds, [](int64_t t) { return t < 3 ? 1 : 0.25; });
               });
FL_CLOSED_FORM("fedavg", "a local rate along a cosine", Local{}, "local.lr-schedule = cosine",
               [](const Problem& p, const Local& l, int64_t rounds) {
                 return with_rates(p, l, rounds, [rounds](int64_t t) {
                   return (1 + std::cos(std::numbers::pi * static_cast<double>(t - 1) /
                                        static_cast<double>(rounds))) /
                          2;
                 });
               });

// FedAvg whose clients go on with the velocity that they had when they last took part.
Vector with_kept_momentum(const Problem& problem, const Local& local, int64_t rounds) {
  Vector w = problem.start;
  std::map<int64_t, Vector> velocities;
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector delta(0.0, w.size());
    for (const int64_t k : cohort) {
      Vector& v = velocities.try_emplace(k, 0.0, w.size()).first->second;
      Vector y = w;
      for (int64_t step = 0; step < local.steps; ++step) {
        const Vector g = problem.gradient(k, y);
        v = local.momentum * v + g;
        y -= local.lr * (local.nesterov ? Vector(g + local.momentum * v) : v);
      }
      delta += problem.share(k, cohort) * (y - w);
    }
    w += delta;
  }
  return w;
}

FL_CLOSED_FORM("fedavg", "local momentum that survives the round", Local{.momentum = 0.75},
               "local.keep-momentum = true", with_kept_momentum);
FL_CLOSED_FORM("fedavg", "Nesterov's momentum that survives the round",
               Local{.momentum = 0.5, .nesterov = true}, "local.keep-momentum = true",
               with_kept_momentum);

FL_SELFTEST("engine", "mistakes", "local momentum is fresh in every round unless it is kept", [] {
  const Problem problem = example_problem();
  const std::string lines = Local{.momentum = 0.75}.lines();
  const std::string kept = lines + "local.keep-momentum = true";
  return all_of(
      {compare(solve(problem, "fedavg", kept, 1), solve(problem, "fedavg", lines, 1), 0),
       differ(solve(problem, "fedavg", kept, 2), solve(problem, "fedavg", lines, 2), 0.01)});
});

// Weights by loss --------------------------------------------------------------------------------

// p_k is n_k / (1 + loss_k), loss_k the mean over the round's steps, before each.
Vector weighted_by_loss(const Problem& problem, const Local& local, int64_t rounds) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    Vector top(0.0, w.size());
    double bottom = 0;
    for (const int64_t k : problem.survivors(t)) {
      double loss = 0;
      Local until = local;
      for (until.steps = 0; until.steps < local.steps; ++until.steps) {
        loss += problem.loss(k, problem.train(k, w, until)) / static_cast<double>(local.steps);
      }
      const double weight = static_cast<double>(problem.size(k)) / (1 + loss);
      top += weight * (problem.train(k, w, local) - w);
      bottom += weight;
    }
    w += top / bottom;
  }
  return w;
}

// Weights travel as floats.
FL_SELFTEST("fedavg", "closed form", "weights n_k / (1 + loss_k)", [] {
  std::vector<Result> results;
  for (const Problem& problem : {example_problem(), classifier_problem()}) {
    const Local local{.momentum = 0.5};
    for (const char* group_size : {"1", "3"}) {
      const Vector actual =
          solve(problem, "fedavg",
                message(local.lines(), "weighting = loss\ngroup-size = ", group_size), 3);
      results.push_back(compare(actual, weighted_by_loss(problem, local, 3), 1e-6));
      results.push_back(differ(actual, fedavg(problem, local, 3), 1e-3));
    }
  }
  return all_of(results);
});

// Stragglers and clients that are away -----------------------------------------------------------

constexpr uint64_t kSeed = 5;

// Eight clients of the example's samples: two each.
Problem eight_clients() {
  const Problem example = example_problem();
  Problem problem{.clients = {}, .start = example.start, .cohorts = {{0, 1, 2, 3, 4, 5, 6, 7}}};
  std::vector<Point> all;
  for (const auto& points : example.clients) all.insert(all.end(), points.begin(), points.end());
  for (size_t k = 0; k < 8; ++k) problem.clients.push_back({all[2 * k], all[2 * k + 1]});
  return problem;
}

// The clients of a round with this status, ascending.
std::vector<int64_t> with_status(const Finished& finished, int64_t round, ClientStatus status) {
  std::vector<int64_t> clients;
  for (const ClientRecord& record : finished.clients) {
    if (record.round == round && record.is(status)) clients.push_back(record.client);
  }
  std::sort(clients.begin(), clients.end());
  return clients;
}

// A quarter of eight: the first two of the stream's permutation.
FL_SELFTEST("engine", "closed form", "late stragglers are left out, the others' mean counts", [] {
  Problem problem = eight_clients();
  const Local local;
  Experiment e =
      experiment_of(problem, "fedavg",
                    message(local.lines(), "seed = ", kSeed, "\nstragglers.fraction = 0.25"), 3);
  const Finished finished = run_recorded(e);
  std::vector<Result> results;
  for (int64_t t = 1; t <= 3; ++t) {
    const std::vector<int64_t> order = Rng(kSeed, "stragglers", t).permutation(8);
    std::vector<int64_t> late(order.begin(), order.begin() + 2);
    for (const int64_t k : late) problem.refused.emplace(t, k);
    std::sort(late.begin(), late.end());
    results.push_back(require(with_status(finished, t, ClientStatus::kStraggler) == late, "who"));
    results.push_back(require(with_status(finished, t, ClientStatus::kTrained).size() == 6, "all"));
    results.push_back(require(finished.rounds.at(static_cast<size_t>(t - 1)).failed == 2 &&
                                  finished.rounds.at(static_cast<size_t>(t - 1)).cohort == 8,
                              "counts"));
  }
  results.push_back(
      compare(numbers(finished.server.weights, e.network->layout()), fedavg(problem, local, 3)));
  return all_of(results);
});

// Half of eight run 1 to 4 epochs, drawn after the permutation; what they did counts in full.
FL_SELFTEST("engine", "closed form", "partial work counts, for the epochs that were drawn", [] {
  const Problem problem = eight_clients();
  const Local local{.steps = 4, .momentum = 0.5};
  Vector w = problem.start;
  std::vector<std::map<int64_t, int64_t>> epochs;
  for (int64_t t = 1; t <= 2; ++t) {
    Rng rng(kSeed, "stragglers", t);
    const std::vector<int64_t> order = rng.permutation(8);
    std::map<int64_t, int64_t>& drawn = epochs.emplace_back();
    for (size_t i = 0; i < 4; ++i) drawn[order[i]] = 1 + rng.below(4);
    Vector delta(0.0, w.size());
    for (int64_t k = 0; k < 8; ++k) {
      Local own = local;
      if (drawn.contains(k)) own.steps = drawn.at(k);
      delta += (problem.train(k, w, own) - w) / 8.0;
    }
    w += delta;
  }
  std::vector<Result> results;
  for (const char* group_size : {"1", "3"}) {
    Experiment e =
        experiment_of(problem, "fedavg",
                      message(local.lines(), "seed = ", kSeed, "\nstragglers.fraction = 0.5\n",
                              "stragglers.policy = partial\ngroup-size = ", group_size),
                      2);
    const Finished finished = run_recorded(e);
    results.push_back(compare(numbers(finished.server.weights, e.network->layout()), w));
    for (const ClientRecord& record : finished.clients) {
      const auto& drawn = epochs.at(static_cast<size_t>(record.round - 1));
      const bool partial = drawn.contains(record.client);
      results.push_back(
          require(record.steps == (partial ? drawn.at(record.client) : 4) &&
                      record.is(partial ? ClientStatus::kPartial : ClientStatus::kTrained),
                  message("client ", record.client, " in round ", record.round)));
    }
  }
  return all_of(results);
});

FL_SELFTEST("engine", "closed form", "clients that are lost are left out, by chance", [] {
  Problem problem = eight_clients();
  const Local local;
  Experiment e =
      experiment_of(problem, "fedavg",
                    message(local.lines(), "seed = ", kSeed, "\navailability.dropout = 0.375"), 3);
  const Finished finished = run_recorded(e);
  std::vector<Result> results;
  for (int64_t t = 1; t <= 3; ++t) {
    std::vector<int64_t> lost;
    for (int64_t k = 0; k < 8; ++k) {
      if (Rng(kSeed, "lost", t, k).uniform() < 0.375) lost.push_back(k);
    }
    for (const int64_t k : lost) problem.refused.emplace(t, k);
    results.push_back(require(with_status(finished, t, ClientStatus::kLost) == lost, "who"));
  }
  results.push_back(require(problem.refused.size() > 3, "hardly anybody is lost"));
  results.push_back(
      compare(numbers(finished.server.weights, e.network->layout()), fedavg(problem, local, 3)));
  return all_of(results);
});

// Takes whoever is there.
class Everybody final : public Sampler {
 public:
  std::vector<Drawn> sample(const SampleRequest& request, Rng&) const override {
    std::vector<Drawn> all;
    for (int64_t place = 0; place < request.candidates.size(); ++place)
      all.push_back({request.candidates.id(place)});
    return all;
  }
};

FL_SELFTEST("engine", "closed form", "cohorts are drawn among the clients that are there", [] {
  Problem problem = eight_clients();
  const Local local;
  Experiment e = experiment_of(
      problem, "fedavg",
      message(local.lines(), "seed = ", kSeed, "\navailability.probability = 0.5"), 3);
  e.sampler = std::make_unique<Everybody>();
  const Finished finished = run_recorded(e);
  std::vector<Result> results;
  problem.cohorts.clear();
  for (int64_t t = 1; t <= 3; ++t) {
    std::vector<int64_t> there;
    for (int64_t k = 0; k < 8; ++k) {
      if (Rng(kSeed, "availability", t, k).uniform() < 0.5) there.push_back(k);
    }
    problem.cohorts.push_back(there);
    results.push_back(require(!there.empty() && there.size() < 8, "all or nobody"));
    results.push_back(require(with_status(finished, t, ClientStatus::kTrained) == there, "who"));
  }
  results.push_back(
      compare(numbers(finished.server.weights, e.network->layout()), fedavg(problem, local, 3)));
  return all_of(results);
});

FL_SELFTEST("engine", "mistakes", "a round without any update leaves the model as it is", [] {
  const Problem problem = eight_clients();
  Experiment e = experiment_of(problem, "fedavg", Local().lines() + "stragglers.fraction = 1", 2);
  const Finished finished = run_recorded(e);
  return all_of({compare(numbers(finished.server.weights, e.network->layout()), problem.start, 0),
                 require(finished.rounds.size() == 2 && finished.rounds[1].failed == 8, "rounds")});
});

// A client whose update passes the exact sum's 2048, and one whose own model is not finite. 1e38
// times the rate 0.125 to the power of 10 is more than a double holds.
FL_SELFTEST("engine", "mistakes", "what became of clients that diverge", [] {
  Problem problem = eight_clients();
  problem.clients[2] = {{{1e5, 0, 0}, {1, 1, 1}}};
  problem.clients[5] = {{{0, 0, 0}, {1e38, 1, 1}}};
  const Local local{.steps = 10};
  Experiment average = experiment_of(problem, "fedavg", local.lines(), 2);
  const Finished averaged = run_recorded(average);
  Experiment single = experiment_of(problem, "local", local.lines(), 2);
  const Finished alone = run_recorded(single);
  const std::vector<int64_t> both = {2, 5}, one = {5};
  std::vector<Result> results;
  for (const int64_t t : {1, 2}) {
    results.push_back(require(with_status(averaged, t, ClientStatus::kDiverged) == both, "global"));
    results.push_back(
        require(with_status(alone, t, ClientStatus::kPersonalDiverged) == one, "personal"));
    for (const int64_t k : both) problem.refused.emplace(t, k);
  }
  results.push_back(compare(numbers(averaged.server.weights, average.network->layout()),
                            fedavg(problem, local, 2)));
  results.push_back(require(alone.states.size() == 7 && !alone.states.contains(5),
                            "a model that is not finite must not be kept"));
  return all_of(results);
});

// Evaluations ------------------------------------------------------------------------------------

double accuracy(const Problem& problem, int64_t k, const Vector& w) {
  double correct = 0;
  for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
    const Vector scores = problem.classifier->scores(w, point.a);
    correct += scores.max() == scores[static_cast<size_t>(point.label)] ? 1 : 0;
  }
  return correct / static_cast<double>(problem.size(k));
}

Result near(double actual, double expected, const char* what) {
  return {std::abs(actual - expected), 1e-6, what};
}

// Four clients: a tenth of them is one, and the p-th percentile lies at 3 p of the sorted values.
FL_SELFTEST("engine", "closed form", "clients' evaluations and the figures of fairness", [] {
  const Problem problem = classifier_problem();
  const Local local;
  const Vector w = fedavg(problem, local, 3);
  Experiment e =
      experiment_of(problem, "fedavg", local.lines() + "evaluate-clients = 1\ngroup-size = 3", 3);
  e.test = own_samples(problem);
  const Finished finished = run_recorded(e);
  std::vector<Result> results = {require(finished.evaluations.size() == 4, "four evaluations")};
  std::vector<double> sorted;
  double mean = 0, whole = 0, mean_loss = 0, whole_loss = 0, square = 0;
  for (const ClientEvaluation& evaluation : finished.evaluations) {
    const int64_t k = evaluation.client;
    const double a = accuracy(problem, k, w), share = static_cast<double>(problem.size(k)) / 16;
    const double loss = problem.loss(k, w);
    results.push_back(near(evaluation.accuracy, a, "accuracy"));
    results.push_back(near(evaluation.loss, loss, "loss"));
    results.push_back(require(std::isnan(evaluation.personal_loss), "no models of their own"));
    sorted.push_back(a);
    mean += a / 4, square += a * a / 4, whole += share * a;
    mean_loss += loss / 4, whole_loss += share * loss;
  }
  std::sort(sorted.begin(), sorted.end());
  const EvaluationSummary& clients = finished.rounds.back().clients;
  results.push_back(require(sorted.front() < sorted.back(), "clients fare alike"));
  results.push_back(require(clients.clients == 4, "clients"));
  results.push_back(near(clients.accuracy, whole, "weighted accuracy"));
  results.push_back(near(clients.mean_accuracy, mean, "mean accuracy"));
  results.push_back(near(clients.loss, whole_loss, "weighted loss"));
  results.push_back(near(clients.mean_loss, mean_loss, "mean loss"));
  results.push_back(near(clients.variance, square - mean * mean, "variance"));
  results.push_back(near(clients.worst_tenth, sorted[0], "worst"));
  results.push_back(near(clients.best_tenth, sorted[3], "best"));
  results.push_back(near(clients.percentile_10, 0.7 * sorted[0] + 0.3 * sorted[1], "10 %"));
  results.push_back(near(clients.percentile_50, (sorted[1] + sorted[2]) / 2, "median"));
  results.push_back(near(clients.percentile_90, 0.3 * sorted[2] + 0.7 * sorted[3], "90 %"));
  results.push_back(require(std::isnan(finished.rounds.front().clients.accuracy),
                            "only the last round is evaluated"));
  return all_of(results);
});

// Accuracies 0, 0.05, ..., 0.95 of 1, 2, ..., 20 samples. Mean (0 + 0.95) / 2; variance
// (20² - 1) / 12 / 20²; weighted mean Σ i (i-1) / 20 / Σ i = 2660 / 20 / 210. A tenth are two.
FL_SELFTEST("engine", "closed form", "the figures of fairness of twenty clients, by hand", [] {
  std::vector<ClientEvaluation> evaluations;
  for (int64_t i = 0; i < 20; ++i) {
    const int64_t place = i * 7 % 20;
    evaluations.push_back({.client = i,
                           .samples = place + 1,
                           .loss = 1,
                           .accuracy = static_cast<double>(place) / 20});
  }
  evaluations.push_back({.client = 20, .samples = 50, .holdout = 1, .loss = 3, .accuracy = 1});
  const EvaluationSummary seen = summarize(evaluations, false, false),
                          unseen = summarize(evaluations, true, false);
  return all_of({require(seen.clients == 20 && unseen.clients == 1, "clients"),
                 near(seen.mean_accuracy, 0.475, "mean"), near(seen.variance, 0.083125, "variance"),
                 near(seen.accuracy, 2660.0 / 4200, "weighted"),
                 near(seen.worst_tenth, 0.025, "worst"), near(seen.best_tenth, 0.925, "best"),
                 near(seen.percentile_10, 0.095, "10 %"), near(seen.percentile_50, 0.475, "50 %"),
                 near(seen.percentile_90, 0.855, "90 %"), near(unseen.accuracy, 1, "held out"),
                 near(unseen.mean_loss, 3, "loss of those held out")});
});

// (1 * 2 + 3 * 4) / 4 = 3.5 and (2 + 4) / 2 = 3.
FL_SELFTEST("engine", "closed form", "clients that predict a number have losses, no accuracies",
            [] {
              const EvaluationSummary s = summarize(
                  {{.client = 0, .samples = 1, .loss = 2}, {.client = 1, .samples = 3, .loss = 4}},
                  false, false);
              return all_of(
                  {require(s.clients == 2, "clients"), near(s.loss, 3.5, "weighted"),
                   near(s.mean_loss, 3, "mean"),
                   require(std::isnan(s.accuracy) && std::isnan(s.variance), "an accuracy")});
            });

// (1 * 0.5 + 3 * 1) / 4 = 0.875 and (0.5 + 1) / 2 = 0.75; a client of one class has no such figure.
FL_SELFTEST("engine", "closed form", "means of clients' metrics are of those that have one", [] {
  const std::vector<ClientEvaluation> evaluations = {
      {.samples = 1,
       .accuracy = 1,
       .personal_accuracy = 1,
       .area_under_curve = 0.5,
       .personal_macro_f1 = 0.25},
      {.samples = 5, .accuracy = 1},
      {.samples = 3, .accuracy = 1, .area_under_curve = 1}};
  const EvaluationSummary s = summarize(evaluations, false, false),
                          own = summarize(evaluations, false, true);
  return all_of({require(s.clients == 3 && own.clients == 1, "clients"),
                 near(s.area_under_curve, 0.875, "weighted"),
                 near(s.mean_area_under_curve, 0.75, "mean"), near(own.macro_f1, 0.25, "own"),
                 require(std::isnan(s.macro_f1) && std::isnan(own.area_under_curve), "a figure")});
});

// Half of eight, but at least as many as the job says.
FL_SELFTEST("engine", "mistakes", "how many clients evaluate, and that they differ by round", [] {
  const Problem problem = eight_clients();
  const auto evaluators = [&](const char* lines) {
    Experiment e = experiment_of(problem, "fedavg",
                                 message(Local().lines(), "evaluate-every = 1\n", lines), 4);
    e.test = own_samples(problem);
    std::map<int64_t, std::vector<int64_t>> of_round;
    for (const ClientEvaluation& evaluation : run_recorded(e).evaluations) {
      of_round[evaluation.round].push_back(evaluation.client);
    }
    return of_round;
  };
  auto half = evaluators("evaluate-clients = 0.5"),
       few = evaluators("evaluate-clients = 0.01\nevaluate-min-clients = 3");
  bool right = half.size() == 4 && few.size() == 4;
  for (const int64_t t : {1, 2, 3, 4}) right = right && half[t].size() == 4 && few[t].size() == 3;
  return all_of({require(right, "numbers of clients"),
                 require(half[1] != half[2] || half[2] != half[3], "always the same clients"),
                 require(evaluators("evaluate-clients = 0").empty(), "nobody was asked")});
});

FL_SELFTEST("engine", "mistakes", "clients that are held out never train, and evaluate apart", [] {
  Problem problem = eight_clients();
  problem.cohorts = {{0, 2, 4}, {1, 3, 5}, {0, 1, 2, 3, 4, 5}};  // places among the six
  const Local local;
  Experiment e = experiment_of(
      problem, "fedavg",
      message(local.lines(), "seed = ", kSeed, "\nholdout-clients = 2\nevaluate-clients = 1"), 3);
  e.test = own_samples(problem);
  Problem same = problem;
  same.cohorts.clear();
  for (const auto& cohort : problem.cohorts) {
    same.cohorts.emplace_back();
    for (const int64_t place : cohort) {
      same.cohorts.back().push_back(e.trained.at(static_cast<size_t>(place)));
    }
  }
  const Finished finished = run_recorded(e);
  const Vector w = fedavg(same, local, 3);
  std::vector<Result> results = {
      compare(numbers(finished.server.weights, e.network->layout()), w),
      require(e.holdout.size() == 2 && e.trained.size() == 6, "six and two"),
      require(finished.evaluations.size() == 8, "all evaluate")};
  const auto held_out = [&](int64_t k) {
    return std::find(e.holdout.begin(), e.holdout.end(), k) != e.holdout.end();
  };
  for (const ClientRecord& record : finished.clients) {
    results.push_back(require(!held_out(record.client), "it trains"));
  }
  double seen = 0, unseen = 0;
  for (const ClientEvaluation& evaluation : finished.evaluations) {
    const int64_t k = evaluation.client;
    results.push_back(require((evaluation.holdout == 1) == held_out(k), "marked"));
    results.push_back(near(evaluation.loss, problem.loss(k, w), "loss"));
    (held_out(k) ? unseen : seen) += problem.loss(k, w) / (held_out(k) ? 2 : 6);
  }
  const RoundRecord& last = finished.rounds.back();
  results.push_back(near(last.clients.mean_loss, seen, "of those that train"));
  results.push_back(near(last.holdout_clients.mean_loss, unseen, "of those that do not"));
  results.push_back(
      require(last.clients.clients == 6 && last.holdout_clients.clients == 2, "sums"));
  return all_of(results);
});

}  // namespace
}  // namespace fl_sim::selftest
