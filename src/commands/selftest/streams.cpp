// Streams of chance are part of a rule: the papers' steps on single samples, in the order that the
// stream of this name deals them. Another stream would train as well, but be another job's result.
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "commands/selftest/experiments.h"
#include "network/layers.h"

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
        "fedbabu", message("fedbabu.finetune-epochs = 2\nfedbabu.part = ", whole ? "all" : "head"),
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

// Dropout and noise ----------------------------------------------------------------------------

// A softmax classifier, half of whose inputs are dropped at a time.
class ThinnedClassifier final : public Network {
 public:
  explicit ThinnedClassifier(const Problem& problem)
      : dropout_(0.5),
        fc_(layout_, "fc", problem.classifier->features, problem.classifier->classes),
        start_(problem.start) {}

  torch::Tensor initial_row(Rng&) const override { return row_of(start_, layout_); }
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc_(weights, dropout_(weights, x));
  }

 private:
  Dropout dropout_;
  Linear fc_;
  Vector start_;
};

class EveryonesView final : public Partitioner {
 public:
  Partition split(const PartitionRequest&, Rng&) const override { return {}; }
};

constexpr double kNoise = 0.25;

// A round of `algorithm` on the classifier above, with noise on its inputs.
struct Thinned {
  Vector weights;
  std::map<int64_t, Vector> personal;  // the clients' own models
};
Thinned thinned(const Problem& problem, const std::string& algorithm, const std::string& lines,
                int64_t epochs = 2) {
  std::vector<float> values;
  std::vector<int64_t> labels;
  for (const auto& points : problem.clients) {
    for (const Point& point : points) {
      for (const double value : point.a) values.push_back(static_cast<float>(value));
      labels.push_back(point.label);
    }
  }
  const Samples samples{torch::tensor(values).view({std::ssize(labels), -1}),
                        torch::tensor(labels)};
  const Partition own = own_samples(problem);
  std::vector<std::vector<int64_t>> lists;
  for (int64_t k = 0; k < own.clients(); ++k) {
    lists.emplace_back(own.of(k).begin(), own.of(k).end());
  }
  Experiment e = hand_made_experiment(message(single_samples(epochs), "algorithm = ", algorithm,
                                              "\nrounds = 1\ncohort = ", problem.cohort(1).size(),
                                              "\naugment.noise = ", kNoise, "\n", lines),
                                      samples, problem.classifier->classes, std::move(lists),
                                      std::make_unique<ThinnedClassifier>(problem));
  e.sampler = std::make_unique<FixedCohorts>(problem.cohorts);
  e.input_changes =
      InputChanges(e.job, EveryonesView(), e.partition.clients(), {problem.classifier->features});
  const Finished finished = run(e);
  Thinned result{numbers(finished.server.weights, e.network->layout()), {}};
  for (const auto& [k, state] : finished.states) {
    if (state.contains("personal")) {
      result.personal[k] = numbers(state.at("personal"), e.network->layout());
    }
  }
  return result;
}

// How a client's samples look to the network in one training: noise on the inputs from one stream,
// half of them dropped from another.
class Looks {
 public:
  Looks(const std::string& inputs, const std::string& dropout, int64_t round, int64_t k)
      : noise_(kStreamSeed, inputs, round, k), dropout_(kStreamSeed, dropout, round, k) {}

  Point of(Point point) {
    for (double& a : point.a) a += static_cast<float>(kNoise * noise_.normal());
    for (double& a : point.a) a *= dropout_.bits() < (uint32_t{1} << 31) ? 0 : 2;
    return point;
  }

 private:
  Rng noise_, dropout_;
};

// Two epochs of client k's single samples in this order, as they look.
Vector in_looks(const Problem& problem, int64_t k, Vector w, const std::string& order, Looks looks,
                const Pull& pull = {}) {
  for (const size_t i : dealt(problem, k, order, 1, 2)) {
    Vector g = problem.gradient(looks.of(problem.clients[static_cast<size_t>(k)][i]), w);
    if (pull) g += pull(w);
    w -= kStepRate * g;
  }
  return w;
}

Vector mean_of_cohort(const Problem& problem, const std::function<Vector(int64_t k)>& trained) {
  Vector mean(0.0, problem.start.size());
  for (const int64_t k : problem.cohort(1)) {
    mean += problem.share(k, problem.cohort(1)) * trained(k);
  }
  return mean;
}

FL_SELFTEST("engine", "equals", "noise and dropout come from streams of their own", [] {
  const Problem problem = classifier_problem(0);
  std::vector<Result> results;
  for (const char* group : {"group-size = 1", "group-size = 3"}) {
    const Vector w = thinned(problem, "fedavg", group).weights;
    results.push_back(compare(w, mean_of_cohort(problem, [&](int64_t k) {
                                return in_looks(problem, k, problem.start, "shuffle",
                                                {"inputs for dropout", "dropout", 1, k});
                              })));
  }
  return all_of(results);
});

FL_SELFTEST("ditto", "equals", "own models have noise and dropout of their own", [] {
  const Problem problem = classifier_problem(0);
  const Thinned finished = thinned(problem, "ditto", "ditto.lambda = 0.5");
  std::vector<Result> results;
  for (const int64_t k : problem.cohort(1)) {
    results.push_back(
        compare(finished.personal.at(k),
                in_looks(problem, k, problem.start, "personal",
                         {"inputs for dropout personal", "dropout personal", 1, k},
                         [&](const Vector& y) { return Vector(0.5 * (y - problem.start)); })));
  }
  return all_of(results);
});

FL_SELFTEST("perfedavg", "equals", "each batch of a step has noise and dropout of its own", [] {
  const Problem problem = classifier_problem(0);
  const double alpha = 0.25;
  const Vector w = thinned(problem, "perfedavg",
                           message("perfedavg.alpha = ", alpha, "\nperfedavg.variant = fo"))
                       .weights;
  return compare(w, mean_of_cohort(problem, [&](int64_t k) {
                   const auto& points = problem.clients[static_cast<size_t>(k)];
                   const auto outer = dealt(problem, k, "shuffle", 1, 2),
                              inner = dealt(problem, k, "shuffle.1", 1, 2);
                   Looks first("inputs for dropout.1", "dropout.1", 1, k),
                       second("inputs for dropout", "dropout", 1, k);
                   Vector own = problem.start;
                   for (size_t i = 0; i < outer.size(); ++i) {
                     const Vector y =
                         own - alpha * problem.gradient(first.of(points[inner[i]]), own);
                     own -= kStepRate * problem.gradient(second.of(points[outer[i]]), y);
                   }
                   return own;
                 }));
});

// The samples in the order of the client's list.
FL_SELFTEST("fedsgd", "equals", "full gradients have noise and dropout of their own", [] {
  const Problem problem = classifier_problem(0);
  const Vector w = thinned(problem, "fedsgd", "", 1).weights;
  return compare(w, mean_of_cohort(problem, [&](int64_t k) {
                   Looks looks("inputs for gradient", "gradient dropout", 1, k);
                   Vector own = problem.start;
                   for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
                     own -= kStepRate / static_cast<double>(problem.size(k)) *
                            problem.gradient(looks.of(point), problem.start);
                   }
                   return own;
                 }));
});

}  // namespace
}  // namespace fl_sim::selftest
