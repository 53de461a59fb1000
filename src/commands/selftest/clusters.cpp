// Personalisation by several models: ifca, cfl, fml, fedem; and the inner products of clients'
// deltas, by which cfl compares them.
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "fl_sim.h"
#include "storage/results.h"

namespace fl_sim::selftest {
namespace {

// A problem with a start for each of several models.
struct Several {
  Problem problem;
  std::vector<Vector> starts;
};

// The first model starts where the problem does, the others elsewhere.
Several several(Problem problem, int64_t models) {
  Several result{std::move(problem), {}};
  for (int64_t m = 0; m < models; ++m) {
    Vector start = result.problem.start;
    for (size_t i = 0; i < start.size() && m > 0; ++i) {
      start[i] += (static_cast<double>((static_cast<int64_t>(i) * 5 + m * 7) % 8) - 3.5) / 2;
    }
    result.starts.push_back(start);
  }
  return result;
}

Vector joined(const std::vector<Vector>& vectors) {
  std::vector<double> all;
  for (const Vector& v : vectors) all.insert(all.end(), std::begin(v), std::end(v));
  return Vector(all.data(), all.size());
}

// Networks of problems start every model alike; this run's start as it is said.
Finished run_from(const std::vector<Vector>& starts, Experiment& e, Results* results = nullptr) {
  Simulation simulation(e, one_rank(), trackers_of(results));
  const ParameterLayout& layout = e.network->layout();
  for (int64_t m = 0; m < std::ssize(starts); ++m) {
    int64_t next = 0;
    for (int64_t i = 0; i < std::ssize(layout.parameters()); ++i) {
      const int64_t size = layout.parameters()[static_cast<size_t>(i)].size;
      const double* values = &starts[static_cast<size_t>(m)][static_cast<size_t>(next)];
      torch::Tensor part = layout.view(simulation.weights().narrow(0, m, 1), i);
      part.copy_(
          torch::tensor(at::ArrayRef<double>(values, static_cast<size_t>(size)), torch::kFloat64)
              .view_as(part));
      next += size;
    }
  }
  simulation.run();
  Finished finished{to_vector(simulation.weights()), simulation.server(), {}};
  for (const int64_t client : simulation.host().store().clients()) {
    finished.states[client]["all"] = simulation.host().store().get(client).clone();
  }
  return finished;
}

Finished run_recorded_from(const std::vector<Vector>& starts, Experiment& e) {
  e.test = e.partition;  // clients evaluate on what they train with
  const auto path =
      std::filesystem::temp_directory_path() / message("fl_sim_selftest_", ::getpid(), ".h5");
  Results results(path.string(), /*overwrite=*/true);
  Finished finished = run_from(starts, e, &results);
  std::filesystem::remove(path);
  finished.clients = results.client_rows();
  finished.evaluations = results.evaluation_rows();
  return finished;
}

Vector solve_from(const Several& s, const std::string& algorithm, const std::string& lines,
                  int64_t rounds, torch::ScalarType type = torch::kFloat64) {
  Experiment e = experiment_of(s.problem, algorithm, lines, rounds);
  e.dtype = type;
  return numbers(run_from(s.starts, e).server.weights, e.network->layout());
}

// add_closed_form() of several models: `rule` returns all of them, one after the other.
using SeveralRule =
    std::function<std::vector<Vector>(const Several&, const Local&, int64_t rounds)>;
bool add_several(const std::string& algorithm, const std::string& text, const Several& s,
                 const Local& local, const std::string& lines, const SeveralRule& rule) {
  const std::string job = local.lines() + lines;
  add_check({algorithm, "closed form", text, [=] {
               std::vector<Result> results;
               for (const int64_t rounds : {1, 2, 3}) {
                 const Vector expected = joined(rule(s, local, rounds));
                 const Vector actual = solve_from(s, algorithm, job, rounds);
                 results.push_back(compare(actual, expected));
                 results.back().note = message("after round ", rounds);
                 results.push_back(differ(actual, joined(s.starts), 0.01));
               }
               results.push_back(compare(solve_from(s, algorithm, job + "\ngroup-size = 3", 3),
                                         joined(rule(s, local, 3))));
               results.back().note = "after round 3, in groups of three clients";
               return all_of(results);
             }});
  return add_check({algorithm, "float32", text, [=] {
                      const Vector expected = joined(rule(s, local, 3));
                      const Vector actual = solve_from(s, algorithm, job, 3, torch::kFloat32);
                      const Vector start = joined(s.starts);
                      return Result{norm(actual - expected) / norm(expected - start), 1e-4,
                                    "relative to the change of the weights in three rounds"};
                    }});
}
#define FL_CLOSED_FORMS(...) \
  [[maybe_unused]] static const bool FL_SELFTEST_UNIQUE(__LINE__) = add_several(__VA_ARGS__)

// Of one client's optimiser, as Problem::train has it.
struct Descent {
  const Local& local;
  Vector velocity;

  void step(Vector& w, Vector g) {
    if (local.clip > 0) g *= std::min(1.0, local.clip / (norm(g) + 1e-6));
    g += local.weight_decay * w;
    velocity = local.momentum * velocity + g;
    if (local.nesterov) g += local.momentum * velocity;
    w -= local.lr * (local.nesterov ? g : velocity);
  }
};

size_t best_of(const Problem& problem, int64_t k, const std::vector<Vector>& models) {
  size_t best = 0;
  for (size_t j = 1; j < models.size(); ++j) {
    if (problem.loss(k, models[j]) < problem.loss(k, models[best])) best = j;
  }
  return best;
}

// Six clients of two samples each in two groups that want opposite things: those with even ids
// around (2, -2), those with odd ids around the opposite. The mean over each group is exact.
Problem two_groups() {
  Problem problem{.clients = {}, .start = {0.125, 0.0625}, .cohorts = {{0, 1, 2, 3, 4, 5}}};
  for (int64_t k = 0; k < 6; ++k) {
    const int64_t pair = k / 2;
    const double sign = k % 2 == 0 ? 1 : -1, shift = static_cast<double>(pair - 1) / 4;
    problem.clients.push_back({{{sign * 2 + shift, -sign * 2}, {1, 1}},
                               {{sign * 2 - shift / 2, -sign * 2 + shift}, {1, 1}}});
  }
  return problem;
}

// The mean of a group's samples: where its model has to end, since all curvatures are alike.
Vector centre(const Problem& problem, const std::vector<int64_t>& clients) {
  Vector sum(0.0, problem.start.size());
  double count = 0;
  for (const int64_t k : clients) {
    for (const Point& point : problem.clients[static_cast<size_t>(k)]) sum += point.a, ++count;
  }
  return sum / count;
}

// ifca -----------------------------------------------------------------------------------------

// Ghosh et al. 2020, Algorithm 1, option II, with the server's momentum per model.
std::vector<Vector> ifca(const Several& s, const Local& local, int64_t rounds, double server_lr = 1,
                         double beta = 0) {
  const Problem& problem = s.problem;
  std::vector<Vector> w = s.starts, u(w.size(), Vector(0.0, problem.start.size()));
  for (int64_t t = 1; t <= rounds; ++t) {
    std::vector<std::vector<int64_t>> takers(w.size());
    for (const int64_t k : problem.survivors(t)) takers[best_of(problem, k, w)].push_back(k);
    for (size_t j = 0; j < w.size(); ++j) {
      if (takers[j].empty()) continue;
      u[j] *= beta;
      for (const int64_t k : takers[j]) {
        u[j] += problem.share(k, takers[j]) * (problem.train(k, w[j], local) - w[j]);
      }
      w[j] += server_lr * u[j];
    }
  }
  return w;
}

const auto kIfca = [](const Several& s, const Local& l, int64_t t) { return ifca(s, l, t); };

FL_CLOSED_FORMS("ifca", "two clusters on quadratics", several(example_problem(), 2), Local{}, "",
                kIfca);
FL_CLOSED_FORMS("ifca", "three clusters, local momentum and weight decay, server momentum",
                several(example_problem(), 3), (Local{.momentum = 0.5, .weight_decay = 0.125}),
                "ifca.clusters = 3\nserver.optimizer = momentum\nserver.lr = 0.5\n"
                "server.momentum = 0.5",
                [](const Several& s, const Local& l, int64_t t) {
                  return ifca(s, l, t, 0.5, 0.5);
                });
FL_CLOSED_FORMS("ifca", "two clusters of classifiers with a hidden layer",
                several(classifier_problem(), 2), Local{}, "", kIfca);

FL_SELFTEST("ifca", "equals", "one cluster is FedAvg, bit for bit", [] {
  std::vector<Result> results;
  for (const torch::ScalarType type : {torch::kFloat64, torch::kFloat32}) {
    for (const Problem& problem : {example_problem(), classifier_problem()}) {
      for (const char* size : {"", "\ngroup-size = 3"}) {
        const std::string lines = Local().lines() + size;
        results.push_back(compare(solve(problem, "ifca", lines + "\nifca.clusters = 1", 2, type),
                                  solve(problem, "fedavg", lines, 2, type), 0));
      }
    }
  }
  return all_of(results);
});

FL_SELFTEST("ifca", "fixed point", "two planted groups are found, each with its own optimum", [] {
  const Problem problem = two_groups();
  const std::vector<Vector> starts = {{-0.25, 0}, {0.25, 0}};
  Experiment e = experiment_of(problem, "ifca", Local{.lr = 0.25}.lines(), 30);
  const Finished end = run_recorded_from(starts, e);
  bool found = end.clients.size() == 6 * 30;
  for (const ClientRecord& record : end.clients) {
    found = found && record.model == (record.client % 2 == 0 ? 1 : 0);
  }
  return all_of({compare(numbers(end.server.weights, e.network->layout()),
                         joined({centre(problem, {1, 3, 5}), centre(problem, {0, 2, 4})}), 1e-8),
                 require(found, "a client trained the other group's model")});
});

FL_SELFTEST("ifca", "mistakes", "a model that nobody takes stays as it was", [] {
  const Several s{two_groups(), {{0.5, 0.25}, {100, 100}}};
  const Vector w =
      solve_from(s, "ifca", Local().lines() + "server.optimizer = momentum\nserver.lr = 0.5", 3);
  return all_of({compare(Vector(w[std::slice(2, 2, 1)]), {100, 100}, 0),
                 differ(Vector(w[std::slice(0, 2, 1)]), {0.5, 0.25}, 0.1)});
});

FL_SELFTEST("ifca", "mistakes", "a model that nobody takes in a round has no momentum in it", [] {
  Several s{two_groups(), {{-0.25, 0}, {0.25, 0}}};
  s.problem.cohorts = {{0, 1, 2, 3, 4, 5}, {1, 3, 5}};  // only even clients take the second model
  const std::string lines =
      Local().lines() + "server.optimizer = momentum\nserver.lr = 0.5\nserver.momentum = 0.5";
  const Vector first = solve_from(s, "ifca", lines, 1), second = solve_from(s, "ifca", lines, 2);
  const std::slice taken(0, 2, 1), left(2, 2, 1);
  return all_of({compare(Vector(second[left]), Vector(first[left]), 0),
                 differ(Vector(first[left]), s.starts[1], 1e-3),
                 differ(Vector(second[taken]), Vector(first[taken]), 1e-3)});
});

// What a client reports is of the model that it trained, and its own model is the one that fits
// best after the round.
FL_SELFTEST("ifca", "mistakes", "norms and evaluations are of the client's own model", [] {
  const Several s{two_groups(), {{-0.25, 0}, {0.25, 0}}};  // even clients take the second one
  const Problem& problem = s.problem;
  const Local local;
  std::vector<Result> results;
  for (const char* size : {"", "\ngroup-size = 3"}) {
    Experiment e = experiment_of(problem, "ifca", local.lines() + size, 3);
    const Finished end = run_recorded_from(s.starts, e);
    const std::vector<Vector> before = ifca(s, local, 2), after = ifca(s, local, 3);
    for (const ClientRecord& record : end.clients) {
      if (record.round != 3) continue;
      const Vector& w = before[best_of(problem, record.client, before)];
      results.push_back(
          {std::abs(record.delta_norm - norm(problem.train(record.client, w, local) - w)),
           kTolerance, "the norm of the delta"});
    }
    for (const ClientEvaluation& own : end.evaluations) {
      const double expected = problem.loss(own.client, after[best_of(problem, own.client, after)]);
      results.push_back({std::abs(own.personal_loss - expected), kTolerance, "the loss"});
    }
    results.push_back(require(results.size() >= 8, "nothing was recorded"));
  }
  return all_of(results);
});

// Whether building `algorithm` with these lines throws.
Result refuses(const Problem& problem, const std::string& algorithm, const std::string& lines) {
  try {
    experiment_of(problem, algorithm, Local().lines() + lines, 1);
  } catch (const Error&) {
    return require(true, "");
  }
  return require(false, "it is not refused");
}

FL_SELFTEST("ifca", "mistakes", "more clusters than clients are refused",
            [] { return refuses(two_groups(), "ifca", "ifca.clusters = 7"); });

// cfl ------------------------------------------------------------------------------------------

struct Clusters {
  std::vector<Vector> models;    // of all places, those not in use a copy of the first
  std::vector<int64_t> cluster;  // of each client
};

// Sattler et al. 2020, Algorithms 1 and 2 with weight updates. The bipartition is found by trying
// all of them.
Clusters cfl(const Problem& problem, const Local& local, int64_t rounds, double eps1, double eps2,
             size_t most, double beta = 0) {
  const auto n = static_cast<size_t>(problem.population());
  Clusters c{{problem.start}, std::vector<int64_t>(n, 0)};
  std::vector<Vector> u = {Vector(0.0, problem.start.size())};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    std::vector<Vector> delta(n);
    for (const int64_t k : cohort) {
      const Vector& w = c.models[static_cast<size_t>(c.cluster[static_cast<size_t>(k)])];
      delta[static_cast<size_t>(k)] = problem.train(k, w, local) - w;
    }
    const size_t before = c.models.size();
    for (size_t j = 0; j < before; ++j) {
      std::vector<int64_t> there, all;
      for (const int64_t k : cohort) {
        if (c.cluster[static_cast<size_t>(k)] == static_cast<int64_t>(j)) there.push_back(k);
      }
      for (size_t k = 0; k < n; ++k) {
        if (c.cluster[k] == static_cast<int64_t>(j)) all.push_back(static_cast<int64_t>(k));
      }
      if (there.empty()) continue;
      Vector mean(0.0, problem.start.size());
      double largest = 0;
      for (const int64_t k : there) {
        mean += problem.share(k, there) * delta[static_cast<size_t>(k)];
        largest = std::max(largest, norm(delta[static_cast<size_t>(k)]));
      }
      u[j] = beta * u[j] + mean;
      c.models[j] += u[j];
      if (there != all || there.size() < 2 || c.models.size() == most) continue;
      if (norm(mean) >= eps1 || largest <= eps2) continue;

      const auto similarity = [&](size_t a, size_t b) {
        const Vector &x = delta[static_cast<size_t>(there[a])],
                     &y = delta[static_cast<size_t>(there[b])];
        return (x * y).sum() / (norm(x) * norm(y));
      };
      double least = std::numeric_limits<double>::infinity();
      size_t best = 0;  // bit i: client i leaves
      for (size_t leaves = 2; leaves < size_t{1} << there.size(); leaves += 2) {
        double cross = -1;
        for (size_t a = 0; a < there.size(); ++a) {
          for (size_t b = 0; b < there.size(); ++b) {
            if ((leaves >> a & 1) < (leaves >> b & 1)) cross = std::max(cross, similarity(a, b));
          }
        }
        if (cross < least) least = cross, best = leaves;
      }
      for (size_t a = 0; a < there.size(); ++a) {
        if (best >> a & 1) {
          c.cluster[static_cast<size_t>(there[a])] = static_cast<int64_t>(c.models.size());
        }
      }
      c.models.push_back(c.models[j]), u.push_back(u[j]);
    }
  }
  c.models.resize(most, c.models[0]);
  return c;
}

// All clients of example_problem() in every round, with places for so many clusters.
Several whole_example(size_t most) {
  const Problem problem = example_problem();
  Several s{problem, std::vector<Vector>(most, problem.start)};
  s.problem.cohorts = {{0, 1, 2, 3}};
  return s;
}

FL_CLOSED_FORMS("cfl", "splits in the first and in the second round", whole_example(3), Local{},
                "cfl.eps1 = 0.75\ncfl.eps2 = 0.25\ncfl.max-clusters = 3",
                [](const Several& s, const Local& l, int64_t t) {
                  return cfl(s.problem, l, t, 0.75, 0.25, 3).models;
                });
FL_CLOSED_FORMS("cfl", "server momentum, which a new cluster takes along", whole_example(4),
                Local{.momentum = 0.5},
                "cfl.eps1 = 2\ncfl.eps2 = 0.25\nserver.optimizer = momentum\n"
                "server.momentum = 0.5",
                [](const Several& s, const Local& l, int64_t t) {
                  return cfl(s.problem, l, t, 2, 0.25, 4, 0.5).models;
                });

// The cluster of each client after a run of cfl.
std::vector<int64_t> clusters_after(const Problem& problem, const std::string& lines,
                                    int64_t rounds, Vector* weights = nullptr) {
  Experiment e = experiment_of(problem, "cfl", lines, rounds);
  const Finished end = run(e);
  if (weights != nullptr) *weights = numbers(end.server.weights, e.network->layout());
  std::vector<int64_t> result;
  for (const double c : to_vector(end.server.shared.at("cluster"))) {
    result.push_back(static_cast<int64_t>(c));
  }
  return result;
}

FL_SELFTEST("cfl", "closed form", "who is in which cluster", [] {
  const Problem problem = whole_example(3).problem;
  const std::string lines = "cfl.eps1 = 0.75\ncfl.eps2 = 0.25\ncfl.max-clusters = 3";
  std::vector<Result> results;
  for (const int64_t rounds : {1, 2, 3}) {
    const auto expected = cfl(problem, Local{}, rounds, 0.75, 0.25, 3).cluster;
    results.push_back(require(clusters_after(problem, Local().lines() + lines, rounds) == expected,
                              message("other clusters after round ", rounds)));
    const auto last = *std::max_element(expected.begin(), expected.end());
    results.push_back(require(last == std::min(rounds, int64_t{2}),
                              message(last, " splits after round ", rounds)));
  }
  return all_of(results);
});

FL_SELFTEST("cfl", "equals", "without a split it is FedAvg, bit for bit, in every place", [] {
  const Several s = whole_example(4);
  const std::string lines = Local().lines();
  const Vector fedavg = solve(s.problem, "fedavg", lines, 3);
  return all_of({compare(solve(s.problem, "cfl", lines + "cfl.max-clusters = 1", 3), fedavg, 0),
                 compare(solve(s.problem, "cfl", lines + "cfl.eps2 = 100", 3),
                         joined({fedavg, fedavg, fedavg, fedavg}), 0)});
});

FL_SELFTEST("cfl", "fixed point", "two planted groups are found, each with its own optimum", [] {
  const Problem problem = two_groups();
  Vector w;
  const auto clusters =
      clusters_after(problem, Local{.lr = 0.25}.lines() + "cfl.eps1 = 0.5\ncfl.eps2 = 1", 30, &w);
  const Vector even = centre(problem, {0, 2, 4}), odd = centre(problem, {1, 3, 5});
  return all_of({require(clusters == std::vector<int64_t>{0, 1, 0, 1, 0, 1}, "other clusters"),
                 compare(w, joined({even, odd, even, even}), 1e-8)});
});

// Four groups, found by two splits one after the other.
Problem four_groups() {
  Problem problem{.clients = {}, .start = {0, 0}, .cohorts = {{0, 1, 2, 3, 4, 5, 6, 7}}};
  for (int64_t k = 0; k < 8; ++k) {
    const double x = k % 2 == 0 ? 4 : -4, y = k / 2 % 2 == 0 ? 1 : -1;
    problem.clients.push_back({{{x, y + (k < 4 ? 0 : 0.125)}, {1, 1}}});
  }
  return problem;
}

// In every round, so also in those in which another cluster than the first is split.
FL_SELFTEST("cfl", "closed form", "four clusters, each split's models", [] {
  const Problem problem = four_groups();
  const Local local{.lr = 0.25};
  std::vector<Result> results;
  size_t splits = 0;
  for (int64_t rounds = 1; rounds <= 12; ++rounds) {
    const Clusters expected = cfl(problem, local, rounds, 0.1, 0.4, 4);
    Vector w;
    const auto clusters =
        clusters_after(problem, local.lines() + "cfl.eps1 = 0.1\ncfl.eps2 = 0.4", rounds, &w);
    results.push_back(compare(w, joined(expected.models)));
    results.push_back(require(clusters == expected.cluster, "other clusters"));
    splits = static_cast<size_t>(*std::max_element(clusters.begin(), clusters.end()));
  }
  results.push_back(require(splits == 3, message(splits, " splits instead of 3")));
  return all_of(results);
});

// Whoever was held out of training is evaluated with the model that fits it best.
FL_SELFTEST("cfl", "mistakes", "a client that never trains gets the best model", [] {
  Problem problem = two_groups();
  problem.cohorts = {{0, 1, 2, 3}};
  int64_t others = 0;  // whose model is not the first
  std::vector<Result> results;
  for (const int seed : {1, 2, 3, 4, 5, 6}) {
    Experiment e = experiment_of(
        problem, "cfl",
        message(Local{.lr = 0.25}.lines(), "cfl.eps1 = 0.5\ncfl.eps2 = 1\nseed = ", seed,
                "\nholdout-clients = 2\nevaluate-clients = 1\ncfl.max-clusters = 2"),
        30);
    e.test = own_samples(problem);
    const Finished end = run_recorded(e);
    const Vector w = numbers(end.server.weights, e.network->layout());
    const std::vector<Vector> models = {w[std::slice(0, 2, 1)], w[std::slice(2, 2, 1)]};
    for (const ClientEvaluation& own : end.evaluations) {
      if (own.holdout == 0) continue;
      const auto best = best_of(problem, own.client, models);
      others += best == 1 ? 1 : 0;
      results.push_back({std::abs(own.personal_loss - problem.loss(own.client, models[best])),
                         kTolerance, "the loss"});
    }
  }
  results.push_back(require(others > 0, "all fit the first model"));
  return all_of(results);
});

// The second splits are among clients whose ids are not their places in the cluster.
FL_SELFTEST("cfl", "mistakes", "a cluster of a cluster consists of the right clients", [] {
  const Problem problem = four_groups();
  const auto clusters =
      clusters_after(problem, Local{.lr = 0.25}.lines() + "cfl.eps1 = 0.1\ncfl.eps2 = 0.4", 30);
  return all_of(
      {require(clusters == std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3}, "other clusters"),
       require(cfl(problem, Local{.lr = 0.25}, 30, 0.1, 0.4, 4).cluster == clusters,
               "the rule finds others")});
});

// The bipartition's largest similarity across counts (single linkage); complete linkage, as in the
// authors' code, would put 55 and 85 of these degrees with 130.
FL_SELFTEST("cfl", "mistakes", "the halves are those of the optimal bipartition", [] {
  Problem problem{.clients = {}, .start = {0, 0}, .cohorts = {{0, 1, 2, 3, 4}}};
  for (const double degrees : {0, 25, 55, 85, 130}) {
    const double angle = degrees / 180 * std::acos(-1.0);
    const auto rounded = [](double x) { return std::round(x * 64) / 64; };
    problem.clients.push_back({{{rounded(std::cos(angle)), rounded(std::sin(angle))}, {1, 1}}});
  }
  const std::string lines = Local().lines() + "cfl.eps1 = 10\ncfl.eps2 = 0\ncfl.max-clusters = 2";
  const auto clusters = clusters_after(problem, lines, 1);
  return all_of(
      {require(clusters == std::vector<int64_t>{0, 0, 0, 0, 1}, "other halves"),
       require(cfl(problem, Local{}, 1, 10, 0, 2).cluster == clusters, "the rule finds others")});
});

FL_SELFTEST("cfl", "mistakes", "no split where a client is missing, or before it is allowed", [] {
  Problem problem = two_groups();
  const std::vector<int64_t> all = problem.cohorts[0];
  const std::string lines = Local{.lr = 0.03125}.lines() + "cfl.eps1 = 0.5\ncfl.eps2 = 0.1";
  const auto together = std::vector<int64_t>(6, 0);
  const auto late = [&](int64_t rounds) {
    return clusters_after(problem, lines + "\ncfl.first-split = 2", rounds);
  };
  std::vector<Result> results = {
      require(clusters_after(problem, lines, 1) != together, "no split in round 1"),
      require(late(1) == together, "a split before the first one is allowed"),
      require(late(2) != together, "no split in round 2")};
  problem.cohorts = {all, {0, 1, 2, 3, 4}, all};
  results.push_back(require(late(2) == together, "a split without all clients"));
  results.push_back(require(late(3) != together, "no split in round 3"));
  problem.cohorts = {{0, 1, 2}};
  results.push_back(refuses(problem, "cfl", ""));
  return all_of(results);
});

// Own models are the clusters'; who never trains has the one that fits best.
FL_SELFTEST("cfl", "mistakes", "every client is evaluated with its cluster's model", [] {
  Problem problem = two_groups();
  problem.cohorts = {{0, 1, 2, 3, 4}};
  Experiment e = experiment_of(problem, "cfl",
                               Local{.lr = 0.25}.lines() +
                                   "cfl.eps1 = 1\ncfl.eps2 = 1\nholdout-clients = 1\n"
                                   "evaluate-clients = 1",
                               5);
  const Finished end = run_recorded_from({}, e);
  const Vector w = numbers(end.server.weights, e.network->layout());
  const Vector cluster = to_vector(end.server.shared.at("cluster"));
  std::vector<Result> results = {require(end.evaluations.size() == 6, "clients are missing")};
  for (const ClientEvaluation& own : end.evaluations) {
    double expected = std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < 4; ++j) {
      const double loss = problem.loss(own.client, Vector(w[std::slice(2 * j, 2, 1)]));
      if (own.holdout == 1 || cluster[static_cast<size_t>(own.client)] == static_cast<double>(j)) {
        expected = std::min(expected, loss);
      }
    }
    results.push_back({std::abs(own.personal_loss - expected), kTolerance, "a personal loss"});
    results.push_back(require(own.personal_loss < 1, "the other group's model"));
    results.push_back(require(own.holdout == (cluster[static_cast<size_t>(own.client)] < 0),
                              "a client that never trains has a cluster"));
  }
  return all_of(results);
});

// FedAvg that keeps what the inner products of a round's deltas were.
class ProductsOf final : public Algorithm {
 public:
  ProductsOf(const Setup& setup, torch::Tensor& products) : local_(setup), products_(products) {}
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global);
  }
  Needs needs() const override {
    Needs needs = local_.needs();
    needs.keeps_deltas = true;
    return needs;
  }
  bool wants_products(const ServerState&, const Sum&) const override { return true; }
  void aggregate(ServerState&, const Sum& sum) const override { products_ = sum.products; }

 private:
  LocalTraining local_;
  torch::Tensor& products_;
};

// Rounding may change a block's products by 2^-33; the last problem has two blocks of 2^16
// coordinates.
FL_SELFTEST("engine", "closed form", "inner products of a round's deltas", [] {
  std::vector<Result> results;
  Problem long_one{.clients = {}, .start = Vector(0.0, 70000), .cohorts = {}};
  for (const int64_t k : {0, 1, 2, 3}) {
    Vector a(70000);
    for (size_t i = 0; i < a.size(); ++i)
      a[i] = static_cast<double>((i * 7 + i % 11 * k) % 16) / 16;
    long_one.clients.push_back({{a, Vector(0.5, a.size())}});
  }
  for (Problem problem : {example_problem(), classifier_problem(), long_one}) {
    problem.cohorts = {{0, 1, 3}};
    const Local local;
    std::vector<Vector> deltas;
    for (const int64_t k : problem.cohorts[0]) {
      deltas.push_back(problem.train(k, problem.start, local) - problem.start);
    }
    std::vector<double> expected;
    for (const Vector& a : deltas) {
      for (const Vector& b : deltas) expected.push_back((a * b).sum());
    }
    torch::Tensor alone;
    for (const char* size : {"1", "3"}) {
      torch::Tensor products;
      Experiment e =
          experiment_of(problem, "fedavg", message(local.lines(), "group-size = ", size), 1);
      e.algorithm = std::make_unique<ProductsOf>(
          Algorithm::Setup{e.job, *e.network, 4, problem.samples()}, products);
      run(e);
      results.push_back(
          compare(to_vector(products), Vector(expected.data(), expected.size()), 1e-9));
      results.push_back(require(products.sizes() == torch::IntArrayRef({3, 3}), "not 3 x 3"));
      if (!alone.defined()) alone = products;
      results.push_back(compare(to_vector(products), to_vector(alone), 1e-9));
    }
  }
  return all_of(results);
});

// fml ------------------------------------------------------------------------------------------

struct Mutual {
  Vector shared;
  std::map<int64_t, Vector> own;
};

// Shen et al. 2020. Both teachers as they were before the step.
Mutual fml(const Problem& problem, const Local& local, int64_t rounds, double alpha, double beta) {
  const Classifier& network = *problem.classifier;
  const auto gradient = [&](int64_t k, const Vector& w, const Vector& teacher, double share) {
    Vector sum(0.0, w.size());
    for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
      const Vector p = softmax(network.scores(w, point.a));
      Vector by_labels = p, by_teacher = p - softmax(network.scores(teacher, point.a));
      by_labels[static_cast<size_t>(point.label)] -= 1;
      sum += network.backward(w, point.a, share * by_labels + (1 - share) * by_teacher);
    }
    return Vector(sum / static_cast<double>(problem.size(k)));
  };
  Mutual result{problem.start, {}};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector mean(0.0, problem.start.size());
    for (const int64_t k : cohort) {
      Vector y = result.shared, &v = result.own.emplace(k, result.shared).first->second;
      Descent of_y{local, Vector(0.0, y.size())}, of_v{local, Vector(0.0, y.size())};
      for (int64_t step = 0; step < local.steps; ++step) {
        const Vector g_y = gradient(k, y, v, beta), g_v = gradient(k, v, y, alpha);
        of_y.step(y, g_y);
        of_v.step(v, g_v);
      }
      mean += problem.share(k, cohort) * (y - result.shared);
    }
    result.shared += mean;
  }
  return result;
}

FL_CLOSED_FORM("fml", "halves of labels and teachers", classifier_problem(), Local{}, "", fml, 0.5,
               0.5);
FL_CLOSED_FORM("fml", "unequal shares, with local momentum and weight decay", classifier_problem(),
               (Local{.steps = 5, .lr = 0.25, .momentum = 0.5, .weight_decay = 0.125}),
               "fml.alpha = 0.75\nfml.beta = 0.25", fml, 0.75, 0.25);
FL_CLOSED_FORM("fml", "a softmax regression, and a shared model that sees no labels",
               classifier_problem(0), (Local{.lr = 0.5, .clip = 0.5}),
               "fml.alpha = 1\nfml.beta = 0", fml, 1, 0);

FL_SELFTEST("fml", "closed form", "private models, kept and evaluated", [] {
  const Problem problem = classifier_problem();
  const Local local{.steps = 5, .lr = 0.25, .momentum = 0.5, .clip = 1};
  std::vector<Result> results;
  for (const char* size : {"", "\ngroup-size = 3"}) {
    Experiment e = experiment_of(
        problem, "fml",
        local.lines() + "fml.alpha = 0.75\nfml.beta = 0.25\nevaluate-clients = 1" + size, 2);
    const Finished end = run_recorded_from({}, e);
    const Mutual expected = fml(problem, local, 2, 0.75, 0.25);
    for (const auto& [client, own] : expected.own) {
      results.push_back(
          compare(numbers(end.states.at(client).at("all"), e.network->layout()), own));
      results.push_back(differ(own, expected.shared, 0.01));
    }
    results.push_back(require(end.states.size() == 3 && end.evaluations.size() == 4,
                              "not the clients that took part"));
    for (const ClientEvaluation& own : end.evaluations) {
      const auto found = expected.own.find(own.client);  // client 3 never took part
      const Vector& v = found == expected.own.end() ? expected.shared : found->second;
      results.push_back({std::abs(own.personal_loss - problem.loss(own.client, v)), kTolerance,
                         "a personal loss"});
      results.push_back({std::abs(own.loss - problem.loss(own.client, expected.shared)), kTolerance,
                         "a loss of the shared model"});
    }
  }
  return all_of(results);
});

// With momentum neither of them folds its step into its kernels.
FL_SELFTEST("fml", "equals", "alpha = beta = 1: the shared model is FedAvg's", [] {
  std::vector<Result> results;
  const std::string labels = "fml.alpha = 1\nfml.beta = 1\n";
  for (const torch::ScalarType type : {torch::kFloat64, torch::kFloat32}) {
    for (const Problem& problem : {example_problem(), classifier_problem()}) {
      for (const char* size : {"", "group-size = 3"}) {
        const std::string lines = Local{.momentum = 0.5}.lines() + size;
        results.push_back(compare(solve(problem, "fml", labels + lines, 2, type),
                                  solve(problem, "fedavg", lines, 2, type), 0));
        results.back().note = "bit for bit";
      }
    }
  }
  const std::string plain = Local().lines();
  results.push_back(compare(solve(example_problem(), "fml", labels + plain, 2),
                            solve(example_problem(), "fedavg", plain, 2)));
  return all_of(results);
});

// Labels alone: the private model is gradient descent that goes on where it stopped, from the
// model that the client received when it first took part.
FL_SELFTEST("fml", "equals", "alpha = 1: the private model trains alone", [] {
  const Problem problem = classifier_problem();
  const Local local;
  Experiment e = experiment_of(problem, "fml", local.lines() + "fml.alpha = 1", 3);
  const Finished end = run(e);
  const auto own = [&](int64_t k) {
    return numbers(end.states.at(k).at("private"), e.network->layout());
  };
  Vector first = problem.start;
  for (int round = 0; round < 3; ++round) first = problem.train(0, first, local);
  const Vector received = fml(problem, local, 2, 1, 0.5).shared;
  return all_of({compare(own(0), first), compare(own(3), problem.train(3, received, local))});
});

// fedem ----------------------------------------------------------------------------------------

struct Mixtures {
  std::vector<Vector> components;
  std::map<int64_t, Vector> pi;
};

// q [n][M] of client k's samples.
std::vector<Vector> expectation(const Problem& problem, int64_t k, const std::vector<Vector>& w,
                                const Vector& pi) {
  std::vector<Vector> q;
  for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
    Vector log_q = std::log(pi);
    for (size_t m = 0; m < w.size(); ++m) log_q[m] -= problem.loss(point, w[m]);
    q.push_back(softmax(log_q));
  }
  return q;
}

Vector mean_of(const std::vector<Vector>& vectors) {
  Vector sum(0.0, vectors.at(0).size());
  for (const Vector& v : vectors) sum += v;
  return sum / static_cast<double>(vectors.size());
}

// Marfoq et al. 2021, Algorithm 1.
Mixtures fedem(const Several& s, const Local& local, int64_t rounds) {
  const Problem& problem = s.problem;
  const size_t count = s.starts.size();
  Mixtures x{s.starts, {}};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    std::vector<Vector> mean(count, Vector(0.0, problem.start.size()));
    for (const int64_t k : cohort) {
      Vector& pi = x.pi.emplace(k, Vector(1 / static_cast<double>(count), count)).first->second;
      const std::vector<Vector> q = expectation(problem, k, x.components, pi);
      pi = mean_of(q);
      for (size_t m = 0; m < count; ++m) {
        const Vector y = problem.train(k, x.components[m], local, [&](const Vector& at) {
          Vector weighted(0.0, at.size());
          for (size_t i = 0; i < q.size(); ++i) {
            weighted += q[i][m] * problem.gradient(problem.clients[static_cast<size_t>(k)][i], at);
          }
          // In place of the plain mean.
          return Vector(weighted / static_cast<double>(q.size()) - problem.gradient(k, at));
        });
        mean[m] += problem.share(k, cohort) * (y - x.components[m]);
      }
    }
    for (size_t m = 0; m < count; ++m) x.components[m] += mean[m];
  }
  return x;
}

const auto kFedEm = [](const Several& s, const Local& l, int64_t t) {
  return fedem(s, l, t).components;
};

FL_CLOSED_FORMS("fedem", "three components of classifiers", several(classifier_problem(), 3),
                Local{}, "", kFedEm);
FL_CLOSED_FORMS("fedem", "two softmax regressions, with local momentum and weight decay",
                several(classifier_problem(0), 2),
                (Local{.steps = 5, .lr = 0.25, .momentum = 0.5, .weight_decay = 0.125}),
                "fedem.components = 2", kFedEm);
FL_CLOSED_FORMS("fedem", "two components of quadratics", several(example_problem(), 2), Local{},
                "fedem.components = 2", kFedEm);

FL_SELFTEST("fedem", "closed form", "weights of the mixtures, kept and evaluated", [] {
  const Several s = several(classifier_problem(), 3);
  const Problem& problem = s.problem;
  const Local local;
  std::vector<Result> results;
  for (const char* size : {"", "\ngroup-size = 3"}) {
    Experiment e =
        experiment_of(problem, "fedem", local.lines() + "evaluate-clients = 1" + size, 2);
    const Finished end = run_recorded_from(s.starts, e);
    Mixtures expected = fedem(s, local, 2);
    for (const auto& [client, pi] : expected.pi) {
      results.push_back(compare(to_vector(end.states.at(client).at("all")), pi));
      results.push_back(differ(pi, Vector(1.0 / 3, 3), 0.01));
    }
    results.push_back(require(end.states.size() == 3 && end.evaluations.size() == 4,
                              "not the clients that took part"));
    // Client 3 never took part.
    expected.pi[3] = mean_of(expectation(problem, 3, expected.components, Vector(1.0 / 3, 3)));
    for (const ClientEvaluation& own : end.evaluations) {
      double loss = 0;
      for (const Point& point : problem.clients[static_cast<size_t>(own.client)]) {
        double probability = 0;
        for (size_t m = 0; m < 3; ++m) {
          probability += expected.pi.at(own.client)[m] *
                         softmax(problem.classifier->scores(
                             expected.components[m], point.a))[static_cast<size_t>(point.label)];
        }
        loss -= std::log(probability) / static_cast<double>(problem.size(own.client));
      }
      results.push_back({std::abs(own.personal_loss - loss), kTolerance, "a personal loss"});
    }
  }
  return all_of(results);
});

FL_SELFTEST("fedem", "equals", "one component is FedAvg, bit for bit", [] {
  std::vector<Result> results;
  for (const torch::ScalarType type : {torch::kFloat64, torch::kFloat32}) {
    for (const Problem& problem : {example_problem(), classifier_problem()}) {
      for (const char* size : {"", "\ngroup-size = 3"}) {
        const std::string lines = Local().lines() + size;
        results.push_back(
            compare(solve(problem, "fedem", lines + "\nfedem.components = 1", 2, type),
                    solve(problem, "fedavg", lines, 2, type), 0));
      }
    }
  }
  return all_of(results);
});

// Components that start alike share every sample equally: each takes FedAvg's steps at a rate of
// 1 / M.
FL_SELFTEST("fedem", "equals", "components that start alike are FedAvg at a part of the rate", [] {
  const Problem problem = example_problem();
  const Local local{.lr = 0.25};
  const Vector slow = fedavg(problem, Local{.lr = 0.125}, 2);
  return compare(solve(problem, "fedem", local.lines() + "fedem.components = 2", 2),
                 joined({slow, slow}));
});

FL_SELFTEST("fedem", "mistakes", "components that start alike, and kept momentum, are refused", [] {
  const Problem problem = two_groups();
  return all_of({refuses(problem, "fedem", "init = x.h5"),
                 refuses(problem, "fedem", "local.momentum = 0.5\nlocal.keep-momentum = true")});
});

// Two groups far apart: each client ends with all its weight on its own group's component, which
// ends at the group's optimum.
FL_SELFTEST("fedem", "fixed point", "two planted groups are found, each with its own optimum", [] {
  const Problem problem = two_groups();
  Experiment e = experiment_of(problem, "fedem",
                               Local{.steps = 5, .lr = 0.25}.lines() + "fedem.components = 2", 60);
  const Finished end = run_from({{-0.25, 0}, {0.25, 0}}, e);
  std::vector<Result> results = {
      compare(numbers(end.server.weights, e.network->layout()),
              joined({centre(problem, {1, 3, 5}), centre(problem, {0, 2, 4})}), 1e-4)};
  for (const auto& [client, state] : end.states) {
    results.push_back(
        compare(to_vector(state.at("all")), client % 2 == 0 ? Vector{0, 1} : Vector{1, 0}, 1e-3));
  }
  return all_of(results);
});

}  // namespace
}  // namespace fl_sim::selftest
