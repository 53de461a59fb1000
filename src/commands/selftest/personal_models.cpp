// Personalisation by whole models of the clients' own: ditto, mrmtl, pfedme, perfedavg, apfl.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "network/layers.h"

namespace fl_sim::selftest {
namespace {

// What a personal algorithm comes to.
struct Outcome {
  Vector weights;
  std::map<int64_t, std::map<std::string, Vector>> kept = {};  // of the clients that took part
  std::vector<Vector> models = {};                             // with which each client evaluates
};
using PersonalRule = std::function<Outcome(const Problem&, const Local&, int64_t rounds)>;

// Every client evaluates, after every round, on the samples that it trains on.
Experiment evaluated(const Problem& problem, const std::string& algorithm, const std::string& lines,
                     int64_t rounds) {
  Experiment e = experiment_of(
      problem, algorithm, message(lines, "\nevaluate-clients = 1\nevaluate-every = 1"), rounds);
  e.test = e.partition;
  return e;
}

// What clients kept and evaluated with, as far as it is off the rule.
Result own_models(const Problem& problem, const std::string& algorithm, const std::string& lines,
                  const Outcome& expected, int64_t rounds, torch::ScalarType type,
                  double tolerance) {
  Experiment e = evaluated(problem, algorithm, lines, rounds);
  e.dtype = type;
  const Finished actual = run_recorded(e);
  std::vector<Result> results = {require(actual.states.size() == expected.kept.size(),
                                         "other clients than those of the "
                                         "cohorts have kept something")};
  for (const auto& [client, vectors] : expected.kept) {
    for (const auto& [name, vector] : vectors) {
      const torch::Tensor held = actual.states.at(client).at(name);
      results.push_back(
          compare(vector.size() == 1 ? to_vector(held) : numbers(held, e.network->layout()), vector,
                  tolerance));
      results.back().note = message("state ", name, " of client ", client);
    }
  }
  int64_t seen = 0;
  for (const ClientEvaluation& row : actual.evaluations) {
    if (row.round != rounds) continue;
    ++seen;
    const Vector& model = expected.models.at(static_cast<size_t>(row.client));
    results.push_back({std::abs(row.loss - problem.loss(row.client, expected.weights)), tolerance});
    results.push_back({std::abs(row.personal_loss - problem.loss(row.client, model)), tolerance});
    results.back().note = message("evaluation of client ", row.client);
  }
  results.push_back(require(seen == problem.population(), "not all clients evaluate"));
  return all_of(results);
}

// A closed form, and beside the global weights: the clients' states after 1, 2 and 3 rounds and
// what they evaluate with, alone and in groups of three.
bool add_personal_form(const std::string& algorithm, const std::string& text,
                       const Problem& problem, const Local& local, const std::string& lines,
                       const PersonalRule& rule) {
  add_closed_form(algorithm, text, problem, local, lines, rule);
  const std::string job = local.lines() + lines;
  add_check({algorithm, "closed form", message("the clients' own models: ", text), [=] {
               std::vector<Result> results;
               for (const char* group : {"\ngroup-size = 1", "\ngroup-size = 3"}) {
                 for (const int64_t rounds : {1, 2, 3}) {
                   const Outcome expected = rule(problem, local, rounds);
                   results.push_back(own_models(problem, algorithm, job + group, expected, rounds,
                                                torch::kFloat64, kTolerance));
                   for (const int64_t k : problem.cohort(rounds)) {
                     results.push_back(
                         differ(expected.models[static_cast<size_t>(k)], expected.weights, 0.001));
                   }
                 }
               }
               return all_of(results);
             }});
  return add_check({algorithm, "float32", message("the clients' own models: ", text), [=] {
                      return own_models(problem, algorithm, job, rule(problem, local, 3), 3,
                                        torch::kFloat32, 1e-4);
                    }});
}

template <class Rule, class... Arguments>
bool add_personal_form(const std::string& algorithm, const std::string& text,
                       const Problem& problem, const Local& local, const std::string& lines,
                       const Rule& rule, const Arguments&... arguments) {
  const PersonalRule form = [=](const Problem& p, const Local& l, int64_t rounds) {
    return rule(p, l, rounds, arguments...);
  };
  return add_personal_form(algorithm, text, problem, local, lines, form);
}

std::vector<Vector> everybody(const Problem& problem, const Vector& model) {
  return std::vector<Vector>(problem.clients.size(), model);
}

// The weights of a round's clients: p_k, or all the same.
double share(const Problem& problem, int64_t k, int64_t round, bool uniform) {
  const std::vector<int64_t>& cohort = problem.cohort(round);
  return uniform ? 1 / static_cast<double>(cohort.size()) : problem.share(k, cohort);
}

// The coordinate-wise optimum Σ c_k a_k / Σ c_k of quadratics, c_k = weight(A_k), with the clients'
// mean curvatures and the minima of their mean losses.
struct Bowl {
  Vector curvature, centre;
};
Bowl bowl(const Problem& problem, int64_t k) {
  Vector curvature(0.0, problem.start.size()), top(0.0, problem.start.size());
  for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
    curvature += point.curvature;
    top += point.curvature * point.a;
  }
  return {curvature / static_cast<double>(problem.size(k)), top / curvature};
}
Vector optimum(const Problem& problem, const std::function<Vector(const Vector&)>& weight) {
  Vector top(0.0, problem.start.size()), bottom(0.0, problem.start.size());
  for (int64_t k = 0; k < problem.population(); ++k) {
    const auto [curvature, centre] = bowl(problem, k);
    const Vector c = weight(curvature);
    top += c * centre;
    bottom += c;
  }
  return top / bottom;
}

Problem everybody_always() {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  return problem;
}

// The weights and the clients' own vectors where a long run ends, against what is known.
Result ends_at(const Problem& problem, const std::string& algorithm, const std::string& lines,
               int64_t rounds, const Vector& weights,
               const std::function<Vector(const Bowl&)>& model) {
  Outcome expected{.weights = weights};
  for (int64_t k = 0; k < problem.population(); ++k) {
    expected.models.push_back(model(bowl(problem, k)));
  }
  Experiment e = evaluated(problem, algorithm, lines, rounds);
  const Finished actual = run_recorded(e);
  std::vector<Result> results = {
      compare(numbers(actual.server.weights, e.network->layout()), weights)};
  for (const ClientEvaluation& row : actual.evaluations) {
    if (row.round != rounds) continue;
    const Vector& own = expected.models[static_cast<size_t>(row.client)];
    results.push_back({std::abs(row.personal_loss - problem.loss(row.client, own)), kTolerance});
  }
  return all_of(results);
}

// Where own models, tied to w by ½ λ |v - w|², come to rest.
std::function<Vector(const Bowl&)> tied(double lambda, const Vector& w) {
  return [=](const Bowl& b) {
    return Vector((b.curvature * b.centre + lambda * w) / (b.curvature + lambda));
  };
}

// Of all rounds, the clients whose own models diverged, and that everything else is FedAvg's.
Result own_models_diverge(const std::string& algorithm, const std::string& lines) {
  const Problem problem = example_problem();
  const std::string local = Local{.steps = 12}.lines();
  Experiment e = evaluated(problem, algorithm, local + lines, 3);
  const Finished actual = run_recorded(e);
  const Vector w = numbers(actual.server.weights, e.network->layout());
  std::vector<Result> results = {
      compare(w, solve(problem, "fedavg", local, 3), 0),
      require(actual.states.empty(), "a diverged model is kept"),
      require(actual.clients.size() == 9, "not all clients are recorded")};
  for (const ClientRecord& record : actual.clients) {
    results.push_back(
        require(record.is(ClientStatus::kPersonalDiverged) && std::isfinite(record.loss),
                message("client ", record.client, " has status ", record.status)));
  }
  for (const ClientEvaluation& row : actual.evaluations) {
    results.push_back({std::abs(row.personal_loss - row.loss), 0, "not the global model's loss"});
  }
  return all_of(results);
}

// ditto ----------------------------------------------------------------------------------------

// Li et al. 2021, Algorithm 1.
Outcome ditto(const Problem& problem, const Local& local, int64_t rounds, double lambda,
              int64_t own_steps) {
  Outcome outcome{.weights = problem.start};
  Local own = local;
  own.steps = own_steps;
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector w = outcome.weights;
    for (const int64_t k : problem.cohort(t)) {
      auto& v = outcome.kept[k].try_emplace("personal", w).first->second;
      v = problem.train(k, v, own, [&](const Vector& y) { return Vector(lambda * (y - w)); });
    }
    outcome.weights += mean_delta(problem, local, t, w);
  }
  outcome.models = everybody(problem, outcome.weights);
  for (const auto& [k, own_vectors] : outcome.kept) {
    outcome.models[static_cast<size_t>(k)] = own_vectors.at("personal");
  }
  return outcome;
}

[[maybe_unused]] const bool kDitto[] = {
    add_personal_form(
        "ditto", "lambda 1", example_problem(), Local{}, "",
        [](const Problem& p, const Local& l, int64_t t) { return ditto(p, l, t, 1, l.steps); }),
    add_personal_form("ditto", "own epochs, local momentum, weight decay and clipping",
                      example_problem(), Local{.momentum = 0.5, .weight_decay = 0.125, .clip = 1},
                      "ditto.lambda = 0.25\nditto.epochs = 5", ditto, 0.25, 5),
    add_personal_form(
        "ditto", "a classifier with a hidden layer", classifier_problem(), Local{.steps = 4},
        "ditto.lambda = 0.5",
        [](const Problem& p, const Local& l, int64_t t) { return ditto(p, l, t, 0.5, l.steps); })};

FL_SELFTEST("ditto", "equals", "the global model is FedAvg's, bit for bit", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const auto type : {torch::kFloat64, torch::kFloat32}) {
    for (const char* more : {"group-size = 1", "group-size = 3\nlocal.momentum = 0.5"}) {
      const std::string lines =
          message("local.epochs = 3\nlocal.batch-size = 2\nlocal.lr = 0.125\n", more, "\n");
      results.push_back(
          compare(solve(problem, "ditto", lines + "ditto.lambda = 0.5\nditto.epochs = 2", 3, type),
                  solve(problem, "fedavg", lines, 3, type), 0));
    }
  }
  return all_of(results);
});

// Gradient descent from the start, by whoever trains alone.
FL_SELFTEST("ditto", "equals", "lambda 0: a client's own model is trained alone", [] {
  const Problem problem = everybody_always();
  const Local local{.momentum = 0.5};
  Outcome alone{.weights = fedavg(problem, local, 2)};
  for (int64_t k = 0; k < problem.population(); ++k) {
    const Vector once = problem.train(k, problem.start, local);
    alone.kept[k]["personal"] = problem.train(k, once, local);
    alone.models.push_back(alone.kept[k]["personal"]);
  }
  return own_models(problem, "ditto", local.lines() + "ditto.lambda = 0", alone, 2, torch::kFloat64,
                    kTolerance);
});

// Without mini-batches of its own the personal model would repeat the global one's steps.
FL_SELFTEST("ditto", "equals", "a client's own model sees other batches than the global one", [] {
  Problem problem = example_problem();
  problem.cohorts = {{3}};
  Experiment e = evaluated(problem, "ditto",
                           "local.epochs = 1\nlocal.batch-size = 1\nlocal.lr = 0.125\n"
                           "ditto.lambda = 0",
                           1);
  const Finished finished = run(e);
  return differ(numbers(finished.states.at(3).at("personal"), e.network->layout()),
                numbers(finished.server.weights, e.network->layout()), 1e-3);
});

FL_SELFTEST("ditto", "fixed point", "own models rest between their minima and the global one", [] {
  const Problem problem = everybody_always();
  const Vector w = optimum(problem, [](const Vector& a) { return a; });
  return ends_at(problem, "ditto",
                 Local{.steps = 1, .lr = 0.25}.lines() +
                     "weighting = uniform\nditto.lambda = 0.5\nditto.epochs = 4",
                 200, w, tied(0.5, w));
});

FL_SELFTEST("ditto", "mistakes", "a client's own model that diverges spoils nothing else",
            [] { return own_models_diverge("ditto", "ditto.lambda = 1e40"); });

// Stragglers' numbers of epochs sort a group otherwise than ditto.epochs does.
FL_SELFTEST("ditto", "mistakes", "own epochs where stragglers do a part of theirs", [] {
  const Problem problem = example_problem();
  const auto run_in_groups = [&](const char* size) {
    Experiment e =
        experiment_of(problem, "ditto",
                      message("local.epochs = 6\nlocal.batch-size = 1\nlocal.lr = 0.125\n"
                              "stragglers.fraction = 0.5\nstragglers.policy = partial\n"
                              "ditto.epochs = 1\nditto.lambda = 0.5\ngroup-size = ",
                              size),
                      3);
    const Finished finished = run(e);
    std::vector<Vector> all = {numbers(finished.server.weights, e.network->layout())};
    for (const auto& [client, state] : finished.states) {
      all.push_back(numbers(state.at("personal"), e.network->layout()));
    }
    return all;
  };
  const auto alone = run_in_groups("1"), together = run_in_groups("4");
  std::vector<Result> results = {require(together.size() == 5, "not all clients keep a model")};
  for (size_t i = 0; i < together.size(); ++i) {
    results.push_back(compare(together[i], alone.at(i)));
  }
  return all_of(results);
});

// mrmtl ----------------------------------------------------------------------------------------

// Liu et al. 2022: own models, each pulled towards the mean as received.
Outcome mrmtl(const Problem& problem, const Local& local, int64_t rounds, double lambda,
              bool uniform) {
  Outcome outcome{.weights = problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector mean = outcome.weights;
    Vector next(0.0, mean.size());
    for (const int64_t k : problem.cohort(t)) {
      auto& w = outcome.kept[k].try_emplace("personal", mean).first->second;
      w = problem.train(k, w, local, [&](const Vector& y) { return Vector(lambda * (y - mean)); });
      next += share(problem, k, t, uniform) * w;
    }
    outcome.weights = next;
  }
  outcome.models = everybody(problem, outcome.weights);
  for (const auto& [k, own_vectors] : outcome.kept) {
    outcome.models[static_cast<size_t>(k)] = own_vectors.at("personal");
  }
  return outcome;
}

[[maybe_unused]] const bool kMrMtl[] = {
    add_personal_form("mrmtl", "lambda 1", example_problem(), Local{}, "", mrmtl, 1, true),
    add_personal_form("mrmtl", "weights by samples, local momentum and weight decay",
                      example_problem(), Local{.momentum = 0.5, .weight_decay = 0.125},
                      "mrmtl.lambda = 0.25\nweighting = samples", mrmtl, 0.25, false),
    add_personal_form("mrmtl", "a classifier with a hidden layer", classifier_problem(),
                      Local{.steps = 4}, "mrmtl.lambda = 0.5", mrmtl, 0.5, true)};

FL_SELFTEST("mrmtl", "equals", "lambda 0: every client trains alone", [] {
  const Problem problem = everybody_always();
  const Local local{.momentum = 0.5};
  Outcome alone{.weights = Vector(0.0, 3)};
  for (int64_t k = 0; k < problem.population(); ++k) {
    const Vector once = problem.train(k, problem.start, local);
    alone.kept[k]["personal"] = problem.train(k, once, local);
    alone.models.push_back(alone.kept[k]["personal"]);
    alone.weights += alone.models.back() / 4.0;
  }
  return own_models(problem, "mrmtl", local.lines() + "mrmtl.lambda = 0", alone, 2, torch::kFloat64,
                    kTolerance);
});

FL_SELFTEST("mrmtl", "equals", "its first round is FedProx's: all models are the same", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "weighting = uniform\n";
  return all_of({compare(solve(problem, "mrmtl", lines + "mrmtl.lambda = 0.5", 1),
                         solve(problem, "fedprox", lines + "fedprox.mu = 0.5", 1), 0),
                 differ(solve(problem, "mrmtl", lines + "mrmtl.lambda = 0.5", 2),
                        solve(problem, "fedprox", lines + "fedprox.mu = 0.5", 2), 1e-3)});
});

// Σ ∇F_k(w_k) = 0 with w_k = (A_k a_k + λ w) / (A_k + λ).
FL_SELFTEST("mrmtl", "fixed point", "own models rest between their minima and their mean", [] {
  const Problem problem = everybody_always();
  const Vector w = optimum(problem, [](const Vector& a) { return Vector(a / (a + 0.5)); });
  return ends_at(problem, "mrmtl", Local{.steps = 4, .lr = 0.25}.lines() + "mrmtl.lambda = 0.5",
                 300, w, tied(0.5, w));
});

// pfedme ---------------------------------------------------------------------------------------

// Dinh et al. 2020, Algorithm 1.
Outcome pfedme(const Problem& problem, const Local& local, int64_t rounds, double lambda,
               double personal_lr, int64_t inner_steps, double beta, bool uniform) {
  Outcome outcome{.weights = problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector w = outcome.weights;
    for (const int64_t k : problem.cohort(t)) {
      Vector theta;
      const Vector trained = problem.train(k, w, local, [&](const Vector& y) {
        theta = y;
        for (int64_t i = 0; i < inner_steps; ++i) {
          theta -= personal_lr * (problem.gradient(k, theta) + lambda * (theta - y));
        }
        return Vector(lambda * (y - theta) - problem.gradient(k, y));
      });
      outcome.weights += beta * share(problem, k, t, uniform) * (trained - w);
      outcome.kept[k]["personal"] = theta;
    }
  }
  outcome.models = everybody(problem, outcome.weights);
  for (const auto& [k, own_vectors] : outcome.kept) {
    outcome.models[static_cast<size_t>(k)] = own_vectors.at("personal");
  }
  return outcome;
}

[[maybe_unused]] const bool kPFedMe[] = {
    add_personal_form("pfedme", "lambda 15, 5 inner steps", example_problem(), Local{.lr = 0.0625},
                      "pfedme.personal-lr = 0.03125", pfedme, 15, 0.03125, 5, 1, true),
    add_personal_form("pfedme", "beta 2, local momentum, weights by samples", example_problem(),
                      Local{.lr = 0.0625, .momentum = 0.5},
                      "pfedme.lambda = 2\npfedme.personal-lr = 0.25\npfedme.inner-steps = 2\n"
                      "pfedme.beta = 2\nweighting = samples",
                      pfedme, 2, 0.25, 2, 2, false),
    add_personal_form("pfedme", "a classifier with a hidden layer", classifier_problem(),
                      Local{.steps = 4},
                      "pfedme.lambda = 4\npfedme.personal-lr = 0.125\npfedme.inner-steps = 3",
                      pfedme, 4, 0.125, 3, 1, true)};

// One inner step from w_k moves theta by -personal-lr g, whatever lambda's pull, which is 0 there.
FL_SELFTEST("pfedme", "equals", "one inner step: FedAvg at rate local.lr lambda personal-lr", [] {
  const Problem problem = example_problem();
  return compare(solve(problem, "pfedme",
                       Local{.lr = 0.25}.lines() +
                           "pfedme.lambda = 4\npfedme.personal-lr = 0.125\npfedme.inner-steps = 1",
                       3),
                 solve(problem, "fedavg", Local{.lr = 0.125}.lines() + "weighting = uniform", 3));
});

// With one local step and exact thetas: the minimum of the mean envelope, whose curvatures are
// λ A / (A + λ).
FL_SELFTEST("pfedme", "fixed point", "the mean Moreau envelope's minimum, and its thetas", [] {
  const Problem problem = everybody_always();
  const Vector w = optimum(problem, [](const Vector& a) { return Vector(2 * a / (a + 2)); });
  return ends_at(problem, "pfedme",
                 Local{.steps = 1, .lr = 0.5}.lines() +
                     "pfedme.lambda = 2\npfedme.personal-lr = 0.25\npfedme.inner-steps = 60",
                 200, w, tied(2, w));
});

// perfedavg ------------------------------------------------------------------------------------

// Fallah et al. 2020, Algorithm 1: `delta` 0 for the first-order rule.
Outcome perfedavg(const Problem& problem, const Local& local, int64_t rounds, double alpha,
                  double delta) {
  Outcome outcome{.weights = problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector w = outcome.weights;
    for (const int64_t k : problem.cohort(t)) {
      const auto g = [&](const Vector& at) { return problem.gradient(k, at); };
      const Vector trained = problem.train(k, w, local, [&](const Vector& y) {
        const Vector u = g(y - alpha * g(y));
        Vector step = u;
        if (delta > 0) step -= alpha * (g(y + delta * u) - g(y - delta * u)) / (2 * delta);
        return Vector(step - g(y));
      });
      outcome.weights += share(problem, k, t, false) * (trained - w);
    }
  }
  for (int64_t k = 0; k < problem.population(); ++k) {
    outcome.models.push_back(outcome.weights - alpha * problem.gradient(k, outcome.weights));
  }
  return outcome;
}

[[maybe_unused]] const bool kPerFedAvg[] = {
    add_personal_form("perfedavg", "first order", example_problem(), Local{},
                      "perfedavg.alpha = 0.25", perfedavg, 0.25, 0),
    add_personal_form("perfedavg", "Hessian-free, local momentum and weight decay",
                      example_problem(), Local{.momentum = 0.5, .weight_decay = 0.25},
                      "perfedavg.alpha = 0.25\nperfedavg.variant = hf", perfedavg, 0.25, 1e-3),
    add_personal_form("perfedavg", "first order, a classifier with a hidden layer",
                      classifier_problem(), Local{.steps = 4}, "perfedavg.alpha = 0.25", perfedavg,
                      0.25, 0),
    add_personal_form("perfedavg", "Hessian-free, a classifier with a hidden layer",
                      classifier_problem(), Local{.steps = 4},
                      "perfedavg.alpha = 0.25\nperfedavg.variant = hf\nperfedavg.delta = 0.0625",
                      perfedavg, 0.25, 0.0625)};

FL_SELFTEST("perfedavg", "equals", "first order, alpha 0 is FedAvg on the D2 batches", [] {
  const Problem problem = classifier_problem();
  const std::string lines =
      "local.epochs = 3\nlocal.batch-size = 2\nlocal.lr = 0.125\n"
      "local.momentum = 0.5\n";
  std::vector<Result> results;
  for (const char* group : {"group-size = 1\n", "group-size = 3\n"}) {
    results.push_back(compare(solve(problem, "perfedavg", lines + group + "perfedavg.alpha = 0", 3),
                              solve(problem, "fedavg", lines + group, 3), 0));
  }
  return all_of(results);
});

// MAML's gradient is (1 - α A) ∇F(w - α ∇F(w)): with one local step and full batches the rules end
// where Σ A_k (1 - α A_k)² (w - a_k) = 0, the first order's where one of these factors is missing.
FL_SELFTEST("perfedavg", "fixed point", "the meta-objective's minimum, and the first order's", [] {
  const Problem problem = everybody_always();
  const double alpha = 0.25;
  std::vector<Result> results;
  for (const bool exact : {false, true}) {
    const Vector w = optimum(problem, [&](const Vector& a) {
      return Vector(a * (1 - alpha * a) * (exact ? Vector(1 - alpha * a) : Vector(1.0, 3)));
    });
    results.push_back(ends_at(
        problem, "perfedavg",
        Local{.steps = 1, .lr = 0.5}.lines() +
            "weighting = uniform\nperfedavg.alpha = 0.25\nperfedavg.variant = " +
            (exact ? "hf" : "fo"),
        200, w, [&](const Bowl& b) { return Vector(w - alpha * b.curvature * (w - b.centre)); }));
  }
  return all_of(results);
});

// One step on batches of one sample: the result names the samples that it was made of. Three
// batches are drawn apart, so over some seeds all of their pairs differ.
FL_SELFTEST("perfedavg", "mistakes", "the batches of a step are drawn apart", [] {
  const Problem problem{
      .clients = {{{{1}, {1}}, {{-2}, {0.5}}, {{0.5}, {2}}}}, .start = {0.25}, .cohorts = {{0}}};
  const auto& points = problem.clients[0];
  const auto g = [&](size_t i, double w) { return points[i].curvature[0] * (w - points[i].a[0]); };
  std::vector<Result> results;
  bool apart[3] = {false, false, false};
  for (int seed = 1; seed <= 12; ++seed) {
    const double w =
        solve(problem, "perfedavg",
              message("local.steps = 1\nlocal.batch-size = 1\nlocal.lr = 0.25\nseed = ", seed,
                      "\nperfedavg.alpha = 0.25\nperfedavg.variant = hf"),
              1)[0];
    double nearest = 1;
    size_t chosen[3] = {0, 0, 0};
    for (size_t code = 0; code < 27; ++code) {
      const size_t d1 = code % 3, d2 = code / 3 % 3, d3 = code / 9;
      const double u = g(d2, 0.25 - 0.25 * g(d1, 0.25));
      const double expected = 0.25 - 0.25 * (u - 0.25 * points[d3].curvature[0] * u);
      if (std::abs(w - expected) >= nearest) continue;
      nearest = std::abs(w - expected);
      chosen[0] = d1, chosen[1] = d2, chosen[2] = d3;
    }
    results.push_back({nearest, kTolerance});
    for (size_t i = 0; i < 3; ++i) apart[i] = apart[i] || chosen[i] != chosen[(i + 1) % 3];
  }
  results.push_back(require(apart[0] && apart[1] && apart[2], "two of the batches are the same"));
  return all_of(results);
});

FL_SELFTEST("perfedavg", "mistakes", "evaluation takes as many plain steps as the job says", [] {
  const Problem problem = example_problem();
  std::vector<Result> results;
  for (const int64_t steps : {0, 1, 3}) {
    for (const char* rule : {"local.optimizer = sgd\nlocal.momentum = 0.5",
                             "local.optimizer = adam\nlocal.beta1 = 0.5"}) {
      Experiment e =
          evaluated(problem, "perfedavg",
                    message("local.epochs = 2\nlocal.batch-size = 100\nlocal.lr = 0.125\n", rule,
                            "\nlocal.weight-decay = 0.5\nlocal.clip-norm = 0.5\n"
                            "perfedavg.alpha = 0.25\nperfedavg.evaluate-steps = ",
                            steps),
                    2);
      const Finished finished = run_recorded(e);
      for (const ClientEvaluation& row : finished.evaluations) {
        if (row.round != 2) continue;
        Vector w = numbers(finished.server.weights, e.network->layout());
        for (int64_t i = 0; i < steps; ++i) w -= 0.25 * problem.gradient(row.client, w);
        results.push_back({std::abs(row.personal_loss - problem.loss(row.client, w)), kTolerance});
      }
    }
  }
  return all_of(results);
});

// apfl -----------------------------------------------------------------------------------------

// Deng et al. 2020, Algorithm 1: y, v and, in a round's first step, alpha move by gradients at the
// same place.
Outcome apfl(const Problem& problem, const Local& local, int64_t rounds, double first_alpha,
             bool adaptive) {
  Outcome outcome{.weights = problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector w = outcome.weights;
    for (const int64_t k : problem.cohort(t)) {
      auto& v = outcome.kept[k].try_emplace("personal", w).first->second;
      auto& alpha = outcome.kept[k].try_emplace("alpha", Vector{first_alpha}).first->second;
      Vector velocity(0.0, w.size());
      int64_t step = 0;
      const Vector trained = problem.train(k, w, local, [&](const Vector& y) {
        const double a = alpha[0];
        const Vector g = problem.gradient(k, a * v + (1 - a) * y);
        if (adaptive && step++ == 0) {
          alpha[0] = std::clamp(a - local.lr * ((v - y) * g).sum(), 0.0, 1.0);
        }
        Vector own = a * g;
        if (local.clip > 0) own *= std::min(1.0, local.clip / (norm(own) + 1e-6));
        own += local.weight_decay * v;
        velocity = local.momentum * velocity + own;
        v -= local.lr * velocity;
        return Vector(0.0, y.size());
      });
      outcome.weights += share(problem, k, t, false) * (trained - w);
    }
  }
  outcome.models = everybody(problem, outcome.weights);
  for (const auto& [k, own] : outcome.kept) {
    const double a = own.at("alpha")[0];
    outcome.models[static_cast<size_t>(k)] = a * own.at("personal") + (1 - a) * outcome.weights;
  }
  return outcome;
}

[[maybe_unused]] const bool kApfl[] = {
    add_personal_form("apfl", "alpha 0.5, adaptive", example_problem(), Local{}, "", apfl, 0.5,
                      true),
    add_personal_form("apfl", "a fixed alpha, local momentum, weight decay and clipping",
                      example_problem(),
                      Local{.steps = 5, .momentum = 0.5, .weight_decay = 0.125, .clip = 1},
                      "apfl.alpha = 0.75\napfl.adaptive = false", apfl, 0.75, false),
    add_personal_form("apfl", "adaptive, a classifier with a hidden layer", classifier_problem(),
                      Local{.steps = 4, .lr = 0.25}, "apfl.alpha = 0.25", apfl, 0.25, true)};

FL_SELFTEST("apfl", "equals", "the global model is FedAvg's, whatever alpha", [] {
  const Problem problem = classifier_problem();
  const std::string lines =
      "local.epochs = 3\nlocal.batch-size = 2\nlocal.lr = 0.125\n"
      "local.momentum = 0.5\n";
  std::vector<Result> results;
  for (const char* group : {"group-size = 1\n", "group-size = 3\n"}) {
    for (const char* alpha : {"apfl.alpha = 0\napfl.adaptive = false", "apfl.alpha = 0.5"}) {
      results.push_back(compare(solve(problem, "apfl", lines + group + alpha, 3),
                                solve(problem, "fedavg", lines + group, 3), 0));
    }
  }
  return all_of(results);
});

// v moves until the mixture's gradient is 0, wherever the rest of it is.
FL_SELFTEST("apfl", "fixed point", "the mixtures end in the clients' own minima", [] {
  const Problem problem = everybody_always();
  return ends_at(problem, "apfl",
                 Local{.steps = 1, .lr = 0.5}.lines() +
                     "weighting = uniform\napfl.alpha = 0.75\napfl.adaptive = false",
                 300, optimum(problem, [](const Vector& a) { return a; }),
                 [](const Bowl& b) { return b.centre; });
});

FL_SELFTEST("apfl", "mistakes", "alpha stays within 0 and 1, and is a column of the results", [] {
  const Problem problem = example_problem();
  const Local local{.lr = 0.5};
  const double start = 0.0625;
  Experiment e = evaluated(problem, "apfl", message(local.lines(), "apfl.alpha = ", start), 3);
  const Finished finished = run_recorded(e);
  const Outcome expected = apfl(problem, local, 3, start, true);
  std::vector<Result> results;
  bool cut = false;
  for (const ClientRecord& record : finished.clients) {
    const double alpha = record.scalars[0];
    if (record.round == 1) {  // v is still w
      results.push_back({std::abs(alpha - start), 0, "alpha of round 1"});
    }
    cut = cut || alpha == 0 || alpha == 1;
    if (record.round != 3) continue;
    results.push_back(
        {std::abs(alpha - expected.kept.at(record.client).at("alpha")[0]), kTolerance});
  }
  results.push_back(require(cut, "nothing was cut"));
  return all_of(results);
});

// running statistics ---------------------------------------------------------------------------

// Batch normalisation of the inputs, then a linear layer.
class NormalisedInputs final : public Network {
 public:
  NormalisedInputs() : norm_(layout_, "norm", 3), fc_(layout_, "fc", 3, 2) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc_(weights, norm_(weights, x));
  }

 private:
  BatchNorm norm_;
  Linear fc_;
};

// One client, two rounds of three full-batch steps: n passes leave 1 - 0.9^n of the inputs' mean in
// the running one, which began at 0. pFedMe's last theta has its inner steps' passes as well.
Result running_means(const std::string& algorithm, const std::string& lines, bool kept,
                     int64_t passes) {
  const torch::Tensor inputs = torch::arange(18).mul(7).remainder(16).sub(5.5).div(8).view({6, 3});
  const Samples data{inputs.to(torch::kFloat32), torch::arange(6).remainder(2)};
  Experiment e = hand_made_experiment(
      message(Local{}.lines(), "algorithm = ", algorithm, "\nrounds = 2\ncohort = 1\n", lines),
      data, 2, {{0, 1, 2, 3, 4, 5}}, std::make_unique<NormalisedInputs>());
  const Finished finished = run(e);
  const torch::Tensor row =
      kept ? finished.states.at(0).at("personal") : finished.server.weights[0];
  const Vector expected = (1 - std::pow(0.9, static_cast<double>(passes))) *
                          to_vector(data.inputs.to(torch::kFloat64).mean(0));
  const ParameterLayout& layout = e.network->layout();
  for (int64_t i = 0; i < std::ssize(layout.parameters()); ++i) {
    if (layout.parameters()[static_cast<size_t>(i)].name != "norm.running_mean") continue;
    return compare(to_vector(layout.view(row.unsqueeze(0), i)), expected, 1e-6);
  }
  return require(false, "there is no running mean");
}

FL_SELFTEST("ditto", "mistakes", "both models have running statistics of their own", [] {
  return all_of({running_means("ditto", "ditto.epochs = 2", false, 6),
                 running_means("ditto", "ditto.epochs = 2", true, 4)});
});
FL_SELFTEST("mrmtl", "mistakes", "a client keeps its running statistics", [] {
  return all_of({running_means("mrmtl", "", false, 6), running_means("mrmtl", "", true, 6)});
});
FL_SELFTEST("pfedme", "mistakes", "theta's inner steps leave w's running statistics alone", [] {
  const std::string lines = "pfedme.personal-lr = 0.03125\npfedme.inner-steps = 4";
  return all_of(
      {running_means("pfedme", lines, false, 6), running_means("pfedme", lines, true, 9)});
});
FL_SELFTEST("perfedavg", "mistakes", "of a step's batches one goes into running statistics", [] {
  return all_of({running_means("perfedavg", "", false, 6),
                 running_means("perfedavg", "perfedavg.variant = hf", false, 6)});
});
FL_SELFTEST("apfl", "mistakes", "the mixture has running statistics of its own", [] {
  return all_of({running_means("apfl", "", false, 6), running_means("apfl", "", true, 6)});
});

}  // namespace
}  // namespace fl_sim::selftest
