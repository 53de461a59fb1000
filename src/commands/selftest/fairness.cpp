// Fairness: qffl, afl.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

// Four clients, all of them in every round.
Problem everybody(Problem problem) {
  problem.cohorts = {{0, 1, 2, 3}};
  return problem;
}

// Two clients of one sample each, at 1 and at -1, with these curvatures.
Problem opposed(double at_plus, double at_minus) {
  return {
      .clients = {{{{1}, {at_plus}}}, {{{-1}, {at_minus}}}}, .start = {0.5}, .cohorts = {{0, 1}}};
}

// That the job is refused, with a message that names `what`.
Result refuses(const Problem& problem, const std::string& algorithm, const std::string& lines,
               const std::string& what) {
  try {
    experiment_of(problem, algorithm, Local().lines() + lines, 1);
  } catch (const Error& error) {
    return require(std::string(error.what()).find(what) != std::string::npos,
                   message("refused without a word of ", what, ": ", error.what()));
  }
  return require(false, message("not refused: ", lines));
}

// qffl -----------------------------------------------------------------------------------------

// Li et al. 2020, Algorithm 2, as it stands there; `decay` of the local rate a round, on which L
// depends.
Vector qffl(const Problem& problem, Local local, int64_t rounds, double q, double server_lr = 1,
            double decay = 1) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t, local.lr *= decay) {
    const double L = 1 / local.lr;
    Vector top(0.0, w.size());
    double h = 0;
    for (const int64_t k : problem.survivors(t)) {
      const Vector u = L * (w - problem.train(k, w, local));
      const double F = problem.loss(k, w) + 1e-10;
      top += std::pow(F, q) * u;
      h += q * std::pow(F, q - 1) * (u * u).sum() + L * std::pow(F, q);
    }
    w -= server_lr * top / h;
  }
  return w;
}

FL_CLOSED_FORM("qffl", "the paper's q", Local{}, "", qffl, 0.1, 1, 1);
FL_CLOSED_FORM("qffl", "q 2, with local momentum and a server rate of a half",
               Local{.momentum = 0.5}, "qffl.q = 2\nserver.lr = 0.5", qffl, 2, 0.5, 1);
FL_CLOSED_FORM("qffl", "q 1, with a local rate that falls", Local{},
               "qffl.q = 1\nlocal.lr-decay = 0.5", qffl, 1, 1, 0.5);
FL_CLOSED_FORM("qffl", "a classifier with a hidden layer", classifier_problem(), Local{},
               "qffl.q = 3", qffl, 3, 1, 1);

FL_SELFTEST("qffl", "equals", "q 0 is FedAvg with uniform weights, bit for bit", [] {
  const Problem problem = example_problem();
  const std::string lines = Local{.momentum = 0.5}.lines();
  return compare(solve(problem, "qffl", lines + "qffl.q = 0", 3),
                 solve(problem, "fedavg", lines + "weighting = uniform", 3), 0);
});

// One local step: Σ F_k^q ∇F_k = 0. With curvatures c₊ and c₋ of the clients at 1 and -1 and
// r = (1 - w) / (1 + w), that is c₊^(1+q) (1 - w)^(1+2q) = c₋^(1+q) (1 + w)^(1+2q).
FL_SELFTEST("qffl", "fixed point", "one local step: the optimum of the sum of F_k^(q+1)", [] {
  const Problem problem = opposed(0.5, 2);
  std::vector<Result> results;
  for (const double q : {0.0, 0.5, 1.0, 4.0}) {
    const double r = std::pow(2 / 0.5, (1 + q) / (1 + 2 * q));
    results.push_back(compare(
        solve(problem, "qffl", message(Local{.steps = 1, .lr = 0.25}.lines(), "qffl.q = ", q), 600),
        {(1 - r) / (1 + r)}));
    results.back().note = message("q ", q);
  }
  return all_of(results);
});

// Not the loss of a batch, not that after training, not that of a single sample.
FL_SELFTEST("qffl", "mistakes", "F_k is w's loss on all of a client's samples", [] {
  const Problem problem = example_problem();
  std::vector<Result> results;
  for (const char* group_size : {"1", "3"}) {
    Experiment e = experiment_of(problem, "qffl",
                                 message("local.batch-size = 2\nlocal.lr = 0.125\nqffl.q = 2\n"
                                         "group-size = ",
                                         group_size),
                                 1);
    const Finished finished = run_recorded(e);
    results.push_back(require(finished.clients.size() == 3, "a cohort of three"));
    for (const ClientRecord& record : finished.clients) {
      const double F = problem.loss(record.client, problem.start) + 1e-10;
      const double u = record.delta_norm / 0.125;
      results.push_back({std::abs(record.scalars[1] - F), kTolerance, "the loss"});
      results.push_back({std::abs(record.scalars[0] - (2 * F * u * u + 8 * F * F)), 1e-7, "h"});
    }
  }
  return all_of(results);
});

FL_SELFTEST("qffl", "mistakes", "the larger q, the nearer the clients' losses", [] {
  const Problem problem = everybody(example_problem());
  double last = 1e300;
  std::vector<Result> results;
  for (const char* q : {"0", "1", "5"}) {
    const Vector w =
        solve(problem, "qffl", message(Local{.lr = 0.0625}.lines(), "qffl.q = ", q), 100);
    double least = 1e300, most = 0;
    for (int64_t k = 0; k < 4; ++k) {
      least = std::min(least, problem.loss(k, w));
      most = std::max(most, problem.loss(k, w));
    }
    results.push_back(
        require(most - least < 0.98 * last,
                message("q ", q, ": losses of ", least, " to ", most, " after a gap of ", last)));
    last = most - least;
  }
  return all_of(results);
});

// A refused update has no h either.
FL_SELFTEST("qffl", "mistakes", "a client that diverges is in neither sum", [] {
  Problem problem = example_problem();
  problem.clients[1] = {{{2e5, 0, 0}, {1, 1, 1}}};  // its update passes the exact sum's 2048
  problem.refused = {{1, 1}, {2, 1}};
  const Local local;
  return compare(solve(problem, "qffl", local.lines() + "qffl.q = 1", 2),
                 qffl(problem, local, 2, 1));
});

FL_SELFTEST("qffl", "mistakes", "weights by samples or losses are refused", [] {
  return all_of({refuses(example_problem(), "qffl", "weighting = samples", "weighting"),
                 refuses(example_problem(), "qffl", "weighting = loss", "weighting")});
});

// afl ------------------------------------------------------------------------------------------

// max(v - θ, 0) that sums to 1, by bisection for θ.
Vector simplex_point(const Vector& v) {
  double low = v.min() - 1, high = v.max();
  for (int i = 0; i < 200; ++i) {
    const double theta = (low + high) / 2;
    double sum = 0;
    for (const double value : v) sum += std::max(value - theta, 0.0);
    (sum > 1 ? low : high) = theta;
  }
  Vector result = v - (low + high) / 2;
  for (double& value : result) value = std::max(value, 0.0);
  return result;
}

struct Mixture {
  Vector w, lambda;
};

// Mohri et al. 2019, Algorithm 1, with local steps for the gradient. Weights travel as floats.
Mixture afl(const Problem& problem, const Local& local, int64_t rounds, double gamma) {
  const auto clients = static_cast<size_t>(problem.population());
  Mixture m{problem.start, Vector(1 / static_cast<double>(clients), clients)};
  for (int64_t t = 1; t <= rounds; ++t) {
    Vector delta(0.0, m.w.size()), losses(0.0, clients);
    double total = 0;
    for (size_t k = 0; k < clients; ++k) {
      const auto id = static_cast<int64_t>(k);
      losses[k] = problem.loss(id, m.w);
      const double weight = static_cast<float>(m.lambda[k]);
      delta += weight * (problem.train(id, m.w, local) - m.w);
      total += weight;
    }
    m.w += delta / total;
    m.lambda = simplex_point(m.lambda + gamma * losses);
  }
  return m;
}

FL_CLOSED_FORM("afl", "the usual rate", everybody(example_problem()), Local{}, "", afl, 0.01);
FL_CLOSED_FORM("afl", "a rate at which clients lose all weight, with local momentum",
               everybody(example_problem()), Local{.momentum = 0.5}, "afl.gamma = 0.5", afl, 0.5);
FL_CLOSED_FORM("afl", "a classifier with a hidden layer", everybody(classifier_problem()), Local{},
               "afl.gamma = 0.25", afl, 0.25);

FL_SELFTEST("afl", "closed form", "the mixture, in the simplex and at its edge", [] {
  const Problem problem = everybody(example_problem());
  const Local local;
  std::vector<Result> results;
  for (const double gamma : {0.01, 0.5, 4.0}) {
    Experiment e = experiment_of(problem, "afl", message(local.lines(), "afl.gamma = ", gamma), 3);
    const Vector lambda = to_vector(run(e).server.shared.at("lambda"));
    results.push_back(compare(lambda, afl(problem, local, 3, gamma).lambda));
    results.back().note = message("gamma ", gamma);
    results.push_back({std::abs(lambda.sum() - 1), 1e-12, "the sum"});
    results.push_back(require((lambda.min() == 0) == (gamma > 0.1), "at the edge or inside"));
  }
  return all_of(results);
});

FL_SELFTEST("afl", "equals", "gamma 0 is FedAvg with uniform weights, bit for bit", [] {
  const Problem problem = everybody(example_problem());
  const std::string lines = Local{.momentum = 0.5}.lines();
  return compare(solve(problem, "afl", lines + "afl.gamma = 0", 3),
                 solve(problem, "fedavg", lines + "weighting = uniform", 3), 0);
});

// Both clients' losses are the same where |1 - w| = √2 |1 + w|; there the gradients cancel with
// λ₊ (1 - w) = 2 λ₋ (1 + w). Float weights move that by 1e-7.
FL_SELFTEST("afl", "fixed point", "one local step: the saddle point, where all losses agree", [] {
  const double root = std::sqrt(2.0), w = (1 - root) / (1 + root);
  const double odds = 2 * (1 + w) / (1 - w);  // λ₊ / λ₋
  Experiment e = experiment_of(opposed(1, 2), "afl",
                               Local{.steps = 1, .lr = 0.125}.lines() + "afl.gamma = 0.125", 600);
  const Finished finished = run(e);
  return all_of({compare(numbers(finished.server.weights, e.network->layout()), {w}, 1e-6),
                 compare(to_vector(finished.server.shared.at("lambda")),
                         {odds / (1 + odds), 1 / (1 + odds)}, 1e-6)});
});

FL_SELFTEST("afl", "mistakes", "clients that are held out have no share in the mixture", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2}};  // places among those that may train
  const Local local;
  Experiment e =
      experiment_of(problem, "afl", local.lines() + "holdout-clients = 1\nafl.gamma = 0.125", 3);
  const int64_t held_out = e.holdout.at(0);
  Problem rest = problem;
  rest.clients.erase(rest.clients.begin() + held_out);
  const Mixture expected = afl(rest, local, 3, 0.125);
  const Finished finished = run(e);
  const Vector all = to_vector(finished.server.shared.at("lambda"));
  Vector lambda(3);
  for (size_t i = 0; i < 3; ++i) lambda[i] = all[static_cast<size_t>(e.trained[i])];
  return all_of({compare(numbers(finished.server.weights, e.network->layout()), expected.w),
                 compare(lambda, expected.lambda)});
});

FL_SELFTEST("afl", "mistakes", "a client that diverges keeps its share, and the others go on", [] {
  Problem problem = everybody(example_problem());
  problem.clients[1] = {{{1e5, 0, 0}, {1, 1, 1}}};  // its update passes the exact sum's 2048
  const Local local;
  Experiment e = experiment_of(problem, "afl", local.lines() + "afl.gamma = 1e-12", 1);
  const Finished finished = run(e);
  problem.refused = {{1, 1}};
  Vector delta(0.0, 3), losses(0.0, 4);
  for (const int64_t k : {0, 2, 3}) {
    delta += (problem.train(k, problem.start, local) - problem.start) / 3.0;
  }
  for (int64_t k = 0; k < 4; ++k) losses[static_cast<size_t>(k)] = problem.loss(k, problem.start);
  return all_of(
      {compare(numbers(finished.server.weights, e.network->layout()), problem.start + delta),
       compare(to_vector(finished.server.shared.at("lambda")),
               simplex_point(0.25 + 1e-12 * losses))});
});

FL_SELFTEST("afl", "mistakes", "rounds without some of the clients are refused", [] {
  const Problem all = everybody(example_problem());
  return all_of({refuses(example_problem(), "afl", "", "cohort"),
                 refuses(all, "afl", "weighting = samples", "weighting"),
                 refuses(all, "afl", "availability.probability = 0.5", "availability"),
                 refuses(all, "afl", "availability.dropout = 0.5", "availability"),
                 refuses(all, "afl", "stragglers.fraction = 0.5", "stragglers")});
});

}  // namespace
}  // namespace fl_sim::selftest
