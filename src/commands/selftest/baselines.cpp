// The baselines: local, centralized.
#include <cmath>
#include <map>

#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

// local ----------------------------------------------------------------------------------------

// Each client's own model after so many rounds; of those that took part.
std::map<int64_t, Vector> alone(const Problem& problem, const Local& local, int64_t rounds) {
  std::map<int64_t, Vector> models;
  for (int64_t t = 1; t <= rounds; ++t) {
    for (const int64_t k : problem.survivors(t)) {
      models[k] = problem.train(k, models.contains(k) ? models.at(k) : problem.start, local);
    }
  }
  return models;
}

Result keeps_own_models(const Problem& problem, const Local& local) {
  std::vector<Result> results;
  for (const int64_t rounds : {1, 2, 3}) {
    for (const char* group_size : {"1", "3"}) {
      Experiment e = experiment_of(problem, "local",
                                   message(local.lines(), "group-size = ", group_size), rounds);
      const Finished finished = run(e);
      const auto expected = alone(problem, local, rounds);
      results.push_back(require(finished.states.size() == expected.size(), "who has a model"));
      for (const auto& [client, model] : expected) {
        results.push_back(
            compare(numbers(finished.states.at(client).at("model"), e.network->layout()), model));
        results.back().note = message("client ", client, " after round ", rounds);
        results.push_back(differ(model, problem.start, 0.01));
      }
      results.push_back(
          compare(numbers(finished.server.weights, e.network->layout()), problem.start, 0));
    }
  }
  return all_of(results);
}

FL_SELFTEST("local", "closed form", "every client descends on its own, the global model rests",
            [] { return keeps_own_models(example_problem(), Local()); });
FL_SELFTEST("local", "closed form", "a classifier, with local momentum and weight decay", [] {
  return keeps_own_models(classifier_problem(), Local{.momentum = 0.5, .weight_decay = 0.125});
});
FL_SELFTEST("local", "float32", "a classifier's own models", [] {
  const Problem problem = classifier_problem();
  const Local local;
  std::vector<Result> results;
  Experiment e = experiment_of(problem, "local", local.lines(), 3);
  e.dtype = torch::kFloat32;
  const Finished finished = run(e);
  for (const auto& [client, model] : alone(problem, local, 3)) {
    const Vector actual = numbers(finished.states.at(client).at("model"), e.network->layout());
    results.push_back({norm(actual - model) / norm(model - problem.start), 1e-4});
  }
  return all_of(results);
});

FL_SELFTEST("local", "equals", "a population of one: its own model is FedAvg's", [] {
  Problem problem = example_problem();
  problem.clients = {problem.clients[3]};
  problem.cohorts = {{0}};
  const std::string lines = Local{.momentum = 0.5}.lines();
  Experiment e = experiment_of(problem, "local", lines, 3);
  return compare(numbers(run(e).states.at(0).at("model"), e.network->layout()),
                 solve(problem, "fedavg", lines, 3));
});

// All of a client's rounds together end where its own loss is least.
FL_SELFTEST("local", "fixed point", "each client's own optimum", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  Experiment e = experiment_of(problem, "local", Local{.steps = 5, .lr = 0.25}.lines(), 100);
  const Finished finished = run(e);
  std::vector<Result> results;
  for (int64_t k = 0; k < problem.population(); ++k) {
    Vector top(0.0, 3), bottom(0.0, 3);
    for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
      top += point.curvature * point.a;
      bottom += point.curvature;
    }
    results.push_back(compare(numbers(finished.states.at(k).at("model"), e.network->layout()),
                              Vector(top / bottom)));
  }
  return all_of(results);
});

// Sample lists 0 to 15 as the clients hold them: each evaluates on the next one's.
Partition neighbours(const Problem& problem) {
  std::vector<std::vector<int64_t>> own(problem.clients.size()), lists;
  int64_t next = 0;
  for (size_t k = 0; k < own.size(); ++k) {
    for (size_t i = 0; i < problem.clients[k].size(); ++i) own[k].push_back(next++);
  }
  for (size_t k = 0; k < own.size(); ++k) lists.push_back(own[(k + 1) % own.size()]);
  return make_partition(std::move(lists));
}

FL_SELFTEST("local", "mistakes", "each client is evaluated with its own model", [] {
  Problem problem = classifier_problem();
  problem.cohorts = {{0, 1, 2}, {0, 1}};  // client 3 never takes part
  const Local local;
  const auto models = alone(problem, local, 2);
  std::vector<Result> results;
  for (const char* group_size : {"1", "4"}) {
    Experiment e =
        experiment_of(problem, "local", message(local.lines(), "group-size = ", group_size), 2);
    e.test = neighbours(problem);
    const Finished finished = run_recorded(e);
    results.push_back(require(finished.evaluations.size() == 4, "all clients evaluate"));
    for (const ClientEvaluation& evaluation : finished.evaluations) {
      const int64_t k = evaluation.client, judge = (k + 1) % 4;
      const Vector& own = models.contains(k) ? models.at(k) : problem.start;
      // Losses are summed in float32 where they are evaluated.
      results.push_back({std::abs(evaluation.personal_loss - problem.loss(judge, own)), 1e-6});
      results.push_back({std::abs(evaluation.loss - problem.loss(judge, problem.start)), 1e-6});
      results.push_back(require(evaluation.samples == problem.size(judge), "its test samples"));
    }
    for (const auto& [client, state] : finished.states) {
      results.push_back(
          compare(numbers(state.at("model"), e.network->layout()), models.at(client)));
      results.back().note = "evaluation must not train";
    }
  }
  return all_of(results);
});

// centralized ----------------------------------------------------------------------------------

// Gradient descent on all samples, in one row; three clients' steps are nine of it.
Vector pooled(const Problem& problem, const Local& local, int64_t rounds) {
  Problem one = problem;
  one.clients = {{}};
  for (const auto& points : problem.clients) {
    one.clients[0].insert(one.clients[0].end(), points.begin(), points.end());
  }
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    Local whole = local;
    whole.steps = local.steps * std::ssize(problem.cohort(t));
    w = one.train(0, w, whole);
  }
  return w;
}

FL_CLOSED_FORM("centralized", "gradient descent on everybody's samples", Local{}, "", pooled);
FL_CLOSED_FORM("centralized", "with momentum, weight decay and clipped gradients",
               Local{.momentum = 0.5, .weight_decay = 0.125, .clip = 0.5}, "", pooled);
FL_CLOSED_FORM("centralized", "a classifier with a hidden layer", classifier_problem(), Local{}, "",
               pooled);

FL_SELFTEST("centralized", "equals", "a population of one: FedAvg, bit for bit", [] {
  Problem problem = classifier_problem();
  problem.clients = {problem.clients[3]};
  problem.cohorts = {{0}};
  const std::string lines = "local.batch-size = 3\nlocal.lr = 0.125\nlocal.epochs = 2\n";
  return compare(solve(problem, "centralized", lines, 3), solve(problem, "fedavg", lines, 3), 0);
});

FL_SELFTEST("centralized", "equals", "weightings are all the same where there is one client", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines();
  const Vector plain = solve(problem, "centralized", lines, 2);
  return all_of({compare(solve(problem, "centralized", lines + "weighting = uniform", 2), plain, 0),
                 compare(solve(problem, "centralized", lines + "weighting = loss", 2), plain)});
});

FL_SELFTEST("centralized", "fixed point", "the optimum of the samples' mean loss", [] {
  const Problem problem = example_problem();
  Vector top(0.0, 3), bottom(0.0, 3);
  for (const auto& points : problem.clients) {
    for (const Point& point : points) {
      top += point.curvature * point.a;
      bottom += point.curvature;
    }
  }
  return compare(solve(problem, "centralized", Local{.lr = 0.25}.lines(), 40),
                 Vector(top / bottom));
});

// Batches of two of 1, 3, 4 and 8 samples: 1 + 2 + 2 + 4 steps, of a pool with 8 batches.
FL_SELFTEST("centralized", "mistakes", "as many steps as the cohort's, of the pool's batches", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}, {0, 3}};
  Experiment e = experiment_of(problem, "centralized",
                               "local.batch-size = 2\nlocal.lr = 0.125\nlocal.epochs = 1", 2);
  const Finished finished = run_recorded(e);
  if (finished.clients.size() != 2) return require(false, "one record a round");
  const auto &first = finished.clients[0], &second = finished.clients[1];
  return all_of({require(first.steps == 9 && second.steps == 5, "steps"),
                 require(first.samples_seen == 18 && second.samples_seen == 10, "samples seen"),
                 require(first.samples == 16 && second.samples == 16, "samples of the pool"),
                 require(first.is(ClientStatus::kTrained), "status")});
});

FL_SELFTEST("centralized", "mistakes", "samples of clients that are held out stay out", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1}};
  const Local local;
  Experiment e = experiment_of(problem, "centralized", local.lines() + "holdout-clients = 2", 2);
  Problem rest = problem;
  rest.clients.clear();
  for (const int64_t k : e.trained) rest.clients.push_back(problem.clients[static_cast<size_t>(k)]);
  return compare(numbers(run(e).server.weights, e.network->layout()), pooled(rest, local, 2));
});

}  // namespace
}  // namespace fl_sim::selftest
