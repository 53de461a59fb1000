// Streams of chance are part of a rule: the papers' steps on single samples, in the order that the
// stream of this name deals them. Another stream would train as well, but be another job's result.
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

constexpr uint64_t kStreamSeed = 5;
constexpr double kStepRate = 0.125;

std::string single_samples(int64_t epochs) {
  return message("local.epochs = ", epochs, "\nlocal.batch-size = 1\nlocal.lr = ", kStepRate,
                 "\nseed = ", kStreamSeed, "\n");
}

// Which of its samples client k takes in each step of so many epochs: every epoch shuffles the
// order of the one before.
std::vector<size_t> dealt(const Problem& problem, int64_t k, const std::string& purpose,
                          int64_t round, int64_t epochs) {
  Rng stream(kStreamSeed, purpose, round, k);
  std::vector<size_t> order(static_cast<size_t>(problem.size(k))), all;
  std::iota(order.begin(), order.end(), size_t{0});
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    stream.shuffle(std::span(order));
    all.insert(all.end(), order.begin(), order.end());
  }
  return all;
}

using Pull = std::function<Vector(const Vector& w)>;

// Steps on these samples; `part` [n] has zeros for what stays.
Vector in_steps(const Problem& problem, int64_t k, Vector w, const std::vector<size_t>& order,
                const Vector& part, const Pull& pull = {}) {
  for (const size_t i : order) {
    Vector g = problem.gradient(problem.clients[static_cast<size_t>(k)][i], w);
    if (pull) g += pull(w);
    w -= kStepRate * part * g;
  }
  return w;
}

Vector all_of_it(const Problem& problem) { return Vector(1.0, problem.start.size()); }
Vector head_of_it(const Problem& problem) {
  Vector part(0.0, problem.start.size());
  for (auto i = static_cast<size_t>(problem.classifier->head()); i < part.size(); ++i) part[i] = 1;
  return part;
}

// Rounds of FedAvg whose clients train `part` in the order of "shuffle".
Vector shuffled(const Problem& problem, int64_t rounds, int64_t epochs, const Vector& part) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    Vector next = w;
    for (const int64_t k : problem.cohort(t)) {
      const Vector own = in_steps(problem, k, w, dealt(problem, k, "shuffle", t, epochs), part);
      next += problem.share(k, problem.cohort(t)) * (own - w);
    }
    w = next;
  }
  return w;
}

FL_SELFTEST("engine", "equals", "local training takes samples in the order of 'shuffle'", [] {
  std::vector<Result> results;
  for (const char* group : {"group-size = 1", "group-size = 3"}) {
    const Problem problem = example_problem();
    results.push_back(compare(solve(problem, "fedavg", single_samples(2) + group, 3),
                              shuffled(problem, 3, 2, all_of_it(problem))));
  }
  return all_of(results);
});

FL_SELFTEST("ditto", "equals", "own models take samples in the order of 'personal'", [] {
  const Problem problem = example_problem();
  const double lambda = 0.5;
  std::vector<Result> results;
  for (const char* group : {"group-size = 1", "group-size = 3"}) {
    Experiment e = experiment_of(
        problem, "ditto",
        message(single_samples(2), "ditto.epochs = 3\nditto.lambda = ", lambda, "\n", group), 2);
    const Finished finished = run(e);
    std::map<int64_t, Vector> own;
    for (int64_t t = 1; t <= 2; ++t) {
      const Vector w = shuffled(problem, t - 1, 2, all_of_it(problem));
      for (const int64_t k : problem.cohort(t)) {
        Vector& v = own.try_emplace(k, w).first->second;
        v = in_steps(problem, k, v, dealt(problem, k, "personal", t, 3), all_of_it(problem),
                     [&](const Vector& y) { return Vector(lambda * (y - w)); });
      }
    }
    for (const auto& [k, v] : own) {
      results.push_back(
          compare(numbers(finished.states.at(k).at("personal"), e.network->layout()), v));
      results.back().note = message("client ", k);
    }
  }
  return all_of(results);
});

FL_SELFTEST("fedrep", "equals", "heads take samples in the order of 'head', bodies of 'shuffle'",
            [] {
              const Problem problem = classifier_problem();
              const Vector head = head_of_it(problem), body = 1.0 - head;
              Vector next = problem.start;
              for (const int64_t k : problem.cohort(1)) {
                const Vector own = in_steps(
                    problem, k,
                    in_steps(problem, k, problem.start, dealt(problem, k, "head", 1, 3), head),
                    dealt(problem, k, "shuffle", 1, 2), body);
                next += problem.share(k, problem.cohort(1)) * body * (own - problem.start);
              }
              const Vector w =
                  solve(problem, "fedrep", single_samples(2) + "fedrep.head-epochs = 3", 1);
              return compare(body * w, body * next);
            });

// The first of three batches of one sample gives y', the second the step, the third the curvature.
FL_SELFTEST("perfedavg", "equals", "batches are those of 'shuffle', 'shuffle.1', 'shuffle.2'", [] {
  const Problem problem = example_problem();
  const double alpha = 0.25;
  std::vector<Result> results;
  for (const bool exact : {false, true}) {
    Vector expected = problem.start;
    for (const int64_t k : problem.cohort(1)) {
      const auto& points = problem.clients[static_cast<size_t>(k)];
      const auto outer = dealt(problem, k, "shuffle", 1, 2),
                 inner = dealt(problem, k, "shuffle.1", 1, 2),
                 third = dealt(problem, k, "shuffle.2", 1, 2);
      Vector w = problem.start;
      for (size_t i = 0; i < outer.size(); ++i) {
        const Vector y = w - alpha * problem.gradient(points[inner[i]], w);
        Vector g = problem.gradient(points[outer[i]], y);
        if (exact) g -= Vector(alpha * points[third[i]].curvature * g);
        w -= kStepRate * g;
      }
      expected += problem.share(k, problem.cohort(1)) * (w - problem.start);
    }
    results.push_back(compare(solve(problem, "perfedavg",
                                    message(single_samples(2), "perfedavg.alpha = ", alpha,
                                            "\nperfedavg.variant = ", exact ? "hf" : "fo"),
                                    1),
                              expected));
  }
  return all_of(results);
});

// What clients make of the global model before they evaluate it, for themselves.
Result adapts(const std::string& algorithm, const std::string& lines, const Problem& problem,
              const std::function<Vector(int64_t k, const Vector& w,
                                         const std::vector<size_t>& order)>& adapted) {
  Experiment e = experiment_of(
      problem, algorithm,
      message(single_samples(1), lines, "\nevaluate-clients = 1\nevaluate-every = 1"), 2);
  e.test = e.partition;
  const Finished finished = run_recorded(e);
  const Vector w = numbers(finished.server.weights, e.network->layout());
  std::vector<Result> results;
  int64_t seen = 0;
  for (const ClientEvaluation& row : finished.evaluations) {
    if (row.round != 2) continue;
    ++seen;
    const Vector own = adapted(row.client, w, dealt(problem, row.client, "personal", 2, 2));
    results.push_back({std::abs(row.personal_loss - problem.loss(row.client, own)), kTolerance});
    results.back().note = message("client ", row.client);
  }
  results.push_back(require(seen == problem.population(), "not all clients evaluate"));
  return all_of(results);
}

FL_SELFTEST("finetune", "equals", "fine-tuning takes samples in the order of 'personal'", [] {
  const Problem problem = example_problem();
  return adapts("finetune", "finetune.epochs = 2", problem,
                [&](int64_t k, const Vector& w, const std::vector<size_t>& order) {
                  return in_steps(problem, k, w, order, all_of_it(problem));
                });
});

FL_SELFTEST("fedbabu", "equals", "fine-tuning takes samples in the order of 'personal'", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const bool whole : {false, true}) {
    results.push_back(adapts(
        "fedbabu",
        message("fedbabu.finetune-epochs = 2\nfedbabu.part = ", whole ? "all" : "head"),
        problem, [&](int64_t k, const Vector& w, const std::vector<size_t>& order) {
          return in_steps(problem, k, w, order, whole ? all_of_it(problem) : head_of_it(problem));
        }));
  }
  return all_of(results);
});

FL_SELFTEST("perfedavg", "equals", "an adaptation takes samples in the order of 'personal'", [] {
  const Problem problem = example_problem();
  return adapts("perfedavg",
                message("perfedavg.alpha = ", kStepRate, "\nperfedavg.evaluate-steps = 1"), problem,
                [&](int64_t k, const Vector& w, const std::vector<size_t>& order) {
                  return in_steps(problem, k, w, {order.front()}, all_of_it(problem));
                });
});

}  // namespace
}  // namespace fl_sim::selftest
