// Global optimisation: fedavg, fedprox, scaffold, fedadam ...
#include <cmath>

#include "base/check.h"
#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

// fedavg ---------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedavg", "plain local steps", Local{}, "", fedavg, 1);
FL_CLOSED_FORM("fedavg", "local momentum, weight decay and a server rate of a half",
               Local{.momentum = 0.5, .weight_decay = 0.125}, "server.lr = 0.5", fedavg, 0.5);
FL_CLOSED_FORM("fedavg", "Nesterov's momentum and clipped gradients",
               Local{.steps = 4, .momentum = 0.75, .clip = 0.5, .nesterov = true}, "", fedavg, 1);
FL_CLOSED_FORM("fedavg", "a classifier with a hidden layer", classifier_problem(), Local{}, "",
               fedavg, 1);
FL_CLOSED_FORM("fedavg", "a softmax regression", classifier_problem(0), Local{.momentum = 0.5}, "",
               fedavg, 1);

// p_k travels as a float, so the mean is exact to a few 1e-8 of the deltas.
FL_SELFTEST("fedavg", "closed form", "shares of samples that are no sums of powers of two", [] {
  Problem problem = example_problem();
  problem.cohorts = {{1, 2}, {0, 2, 3}};  // of 7 and of 13 samples
  const Local local;
  return compare(solve(problem, "fedavg", local.lines(), 2), fedavg(problem, local, 2), 2e-7);
});

FL_SELFTEST("fedavg", "equals", "one client, server rate 1: one long run of gradient descent", [] {
  Problem problem = example_problem();
  problem.cohorts = {{2}};
  const Local local{.steps = 3};
  Vector w = problem.start;
  for (int step = 0; step < 6; ++step) w -= local.lr * problem.gradient(2, w);
  return compare(solve(problem, "fedavg", local.lines(), 2), w);
});

FL_SELFTEST("fedavg", "equals", "one step a round: gradient descent on the weighted sum", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  const Local local{.steps = 1};
  Vector w = problem.start;
  for (int round = 0; round < 2; ++round) {
    Vector g(0.0, w.size());
    for (const int64_t k : problem.cohorts[0]) {
      g += problem.share(k, problem.cohorts[0]) * problem.gradient(k, w);
    }
    w -= local.lr * g;
  }
  return compare(solve(problem, "fedavg", local.lines(), 2), w);
});

// A client's round is w <- a + (1 - lr A)^K (w - a), so with B_k = 1 - (1 - lr A_k)^K_k the fixed
// point is Σ B_k a_k / Σ B_k.
FL_SELFTEST("fedavg", "fixed point", "unequal steps: biased, exactly by as much as is known", [] {
  const double b0 = 1 - std::pow(1 - 0.125 * 0.5, 20), b1 = 1 - std::pow(1 - 0.125 * 1.125, 2);
  const Vector w = solve(drifting_problem(), "fedavg", drifting_lines(), 60);
  return all_of({compare(w, {b0 / (b0 + b1)}), require(w[0] > 0.7, "hardly biased")});
});

// The same of equal numbers of steps: with K > 1 the clients' curvatures still bias it.
FL_SELFTEST("fedavg", "fixed point", "unequal curvatures: biased unless there is one step", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  const auto end = [&](int64_t steps) {
    return solve(problem, "fedavg",
                 Local{.steps = steps, .lr = 0.25}.lines() + "weighting = uniform", 120);
  };
  // Per coordinate, with A_k and a_k of client k's mean quadratic: B_k = 1 - (1 - lr A_k)^K.
  const auto known = [&](int64_t steps) {
    Vector top(0.0, 3), bottom(0.0, 3);
    for (const auto& points : problem.clients) {
      Vector a(0.0, 3), curvature(0.0, 3);
      for (const Point& point : points) {
        curvature += point.curvature;
        a += point.curvature * point.a;
      }
      a /= curvature;
      curvature /= static_cast<double>(points.size());
      const Vector b = 1.0 - std::pow(Vector(1.0 - 0.25 * curvature), static_cast<double>(steps));
      top += b * a;
      bottom += b;
    }
    return Vector(top / bottom);
  };
  return all_of(
      {compare(end(1), known(1)), compare(end(5), known(5)), differ(end(1), end(5), 0.05)});
});

// fedprox --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedprox", "mu 0.5", Local{}, "fedprox.mu = 0.5", fedprox, 0.5);
FL_CLOSED_FORM("fedprox", "mu 2 with local momentum", Local{.steps = 5, .momentum = 0.5},
               "fedprox.mu = 2", fedprox, 2);
FL_CLOSED_FORM("fedprox", "a classifier with a hidden layer", classifier_problem(),
               Local{.steps = 5}, "fedprox.mu = 0.5", fedprox, 0.5);

FL_SELFTEST("fedprox", "equals", "mu 0 is FedAvg, bit for bit", [] {
  const Problem problem = example_problem();
  const std::string lines = Local{.momentum = 0.5}.lines();
  return compare(solve(problem, "fedprox", lines + "fedprox.mu = 0", 2),
                 solve(problem, "fedavg", lines, 2), 0);
});

FL_SELFTEST("fedprox", "mistakes", "the term pulls back: the larger mu, the smaller the step", [] {
  const Problem problem = drifting_problem();
  std::vector<Result> results;
  double last = std::abs(solve(problem, "fedavg", drifting_lines(), 1)[0]);
  for (const char* mu : {"0.1", "1", "4"}) {
    const double moved =
        std::abs(solve(problem, "fedprox", message(drifting_lines(), "fedprox.mu = ", mu), 1)[0]);
    results.push_back(require(moved > 0 && moved < 0.95 * last,
                              message("mu ", mu, " moved by ", moved, " after ", last)));
    last = moved;
  }
  return all_of(results);
});

// scaffold -------------------------------------------------------------------------------------

FL_CLOSED_FORM("scaffold", "uniform weights", Local{}, "", scaffold, 1, true);
FL_CLOSED_FORM("scaffold", "weights by samples", Local{}, "weighting = samples", scaffold, 1,
               false);
FL_CLOSED_FORM("scaffold", "local momentum and a server rate of a half",
               Local{.steps = 4, .lr = 0.0625, .momentum = 0.5}, "server.lr = 0.5", scaffold, 0.5,
               true);
FL_CLOSED_FORM(
    "scaffold", "Nesterov's momentum and weight decay",
    Local{.steps = 4, .lr = 0.0625, .momentum = 0.5, .weight_decay = 0.25, .nesterov = true}, "",
    scaffold, 1, true);

// The correction after the step, and K_k where ||a_k||_1 would stand.
FL_CLOSED_FORM("scaffold", "in NIID-Bench's order",
               Local{.steps = 4, .lr = 0.0625, .momentum = 0.5},
               "scaffold.niid-order = true\nweighting = samples",
               [](const Problem& p, const Local& l, int64_t t) {
                 Vector w = p.start, c(0.0, w.size());
                 std::vector<Vector> controls(p.clients.size(), c);
                 for (int64_t round = 1; round <= t; ++round) {
                   const std::vector<int64_t> cohort = p.survivors(round);
                   Vector delta(0.0, w.size()), change(0.0, w.size());
                   for (const int64_t k : cohort) {
                     Vector& c_k = controls[static_cast<size_t>(k)];
                     Vector y = w, velocity(0.0, w.size());
                     for (int64_t step = 0; step < l.steps; ++step) {
                       velocity = l.momentum * velocity + p.gradient(k, y);
                       y -= l.lr * velocity + l.lr * (c - c_k);
                     }
                     const Vector next = c_k - c + (w - y) / (l.lr * static_cast<double>(l.steps));
                     delta += p.share(k, cohort) * (y - w);
                     change += static_cast<double>(p.size(k)) / static_cast<double>(p.samples()) *
                               (next - c_k);
                     c_k = next;
                   }
                   w += delta;
                   c += change;
                 }
                 return w;
               });

FL_SELFTEST("scaffold", "equals", "a population of one: c = c_k, and nothing is corrected", [] {
  Problem problem = example_problem();
  problem.clients = {problem.clients[3]};
  problem.cohorts = {{0}};
  const std::string lines = Local{.steps = 4, .momentum = 0.5}.lines();
  return compare(solve(problem, "scaffold", lines, 3), solve(problem, "fedavg", lines, 3));
});

FL_SELFTEST("scaffold", "equals", "its first round is FedAvg's: all controls are 0", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "weighting = uniform";
  return all_of(
      {compare(solve(problem, "scaffold", lines, 1), solve(problem, "fedavg", lines, 1), 1e-14),
       differ(solve(problem, "scaffold", lines, 2), solve(problem, "fedavg", lines, 2), 1e-3)});
});

FL_SELFTEST("scaffold", "fixed point", "exact where clients drift by different amounts", [] {
  return compare(solve(drifting_problem(), "scaffold", drifting_lines(), 60), {4.0 / 13});
});

// Divided by K_k instead of ||a_k||_1 the controls would grow without bounds at this rate.
FL_SELFTEST("scaffold", "fixed point", "exact under local momentum", [] {
  return compare(
      solve(drifting_problem(), "scaffold", drifting_lines(1.0 / 64) + "local.momentum = 0.9", 60),
      {4.0 / 13});
});

FL_SELFTEST("scaffold", "fixed point", "exact with unequal curvatures, all clients in a round", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  // Σ_k A_k (w - a_k) = 0, with client k's mean curvature and its weighted mean of points.
  Vector top(0.0, 3), bottom(0.0, 3);
  for (const auto& points : problem.clients) {
    for (const Point& point : points) {
      top += point.curvature * point.a / static_cast<double>(points.size());
      bottom += point.curvature / static_cast<double>(points.size());
    }
  }
  return compare(solve(problem, "scaffold", Local{.steps = 5}.lines(), 150), Vector(top / bottom));
});

// After one step c_k is ∇F_k(w), since c and c_k started at 0, and c is the sum of what the
// cohort's controls changed by, over all N clients: not over the cohort, and not the last client's
// alone. By samples the changes weigh n_k / n, with n over all N clients.
FL_SELFTEST("scaffold", "mistakes", "c sums over the cohort, divided by the population", [] {
  const Problem problem = example_problem();  // round 1: 3 of 4 clients
  std::vector<Result> results;
  for (const bool uniform : {true, false}) {
    Vector expected(0.0, problem.start.size());
    for (const int64_t k : problem.cohorts[0]) {
      expected += problem.gradient(k, problem.start) *
                  (uniform ? 0.25 : static_cast<double>(problem.size(k)) / 16);
    }
    Experiment e = experiment_of(
        problem, "scaffold",
        Local{.steps = 1}.lines() + (uniform ? "weighting = uniform" : "weighting = samples"), 1);
    const Vector control = numbers(run(e).server.shared.at("control"), e.network->layout());
    results.push_back(compare(control, expected));
    results.push_back(require(std::abs(expected).min() > 0.01, "nothing to see"));
  }
  return all_of(results);
});

// fedadam --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedadam", "rates of the paper", Local{},
               "server.lr = 0.1\nserver.beta1 = 0.9\nserver.beta2 = 0.99\nserver.tau = 0.01",
               fedadam, 0.1, 0.9, 0.99, 0.01, false);
FL_CLOSED_FORM("fedadam", "without a first moment, with local momentum", Local{.momentum = 0.5},
               "server.lr = 0.25\nserver.beta1 = 0\nserver.beta2 = 0.5\nserver.tau = 0.125",
               fedadam, 0.25, 0, 0.5, 0.125, false);
FL_CLOSED_FORM("fedadam", "bias correction", Local{},
               "server.lr = 0.25\nserver.beta1 = 0.9\nserver.beta2 = 0.99\nserver.tau = 0.01\n"
               "fedadam.bias-correction = true",
               fedadam, 0.25, 0.9, 0.99, 0.01, true);

FL_SELFTEST("fedadam", "equals", "FedAvg's clients with server.optimizer adam, bit for bit", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "server.lr = 0.1\nserver.tau = 0.01";
  return compare(solve(problem, "fedadam", lines, 2),
                 solve(problem, "fedavg", lines + "\nserver.optimizer = adam", 2), 0);
});

FL_SELFTEST("fedadam", "equals", "without memory it takes lr D / (|D| + tau)", [] {
  const Problem problem = example_problem();
  const Local local;
  const Vector d = fedavg(problem, local, 1) - problem.start;
  return compare(solve(problem, "fedadam",
                       local.lines() + "server.lr = 0.5\nserver.tau = 0.25\nserver.beta1 = 0\n"
                                       "server.beta2 = 0",
                       1),
                 problem.start + 0.5 * d / (std::abs(d) + 0.25));
});

// Reddi et al. start at v0 = tau²; after one round v = b2 tau² + (1-b2) D². Kingma & Ba's Adam,
// which the job has to ask for, starts at 0.
FL_SELFTEST("fedadam", "mistakes", "v starts at tau squared, or at 0 under bias correction", [] {
  const Problem problem = example_problem();
  const Local local;
  const Vector d = fedavg(problem, local, 1) - problem.start;
  std::vector<Result> results;
  for (const bool corrected : {false, true}) {
    Experiment e = experiment_of(
        problem, "fedadam",
        local.lines() + "server.tau = 0.5\nserver.beta2 = 0.75\nfedadam.bias-correction = " +
            (corrected ? "true" : "false"),
        1);
    results.push_back(compare(numbers(run(e).server.hidden.at("server.v"), e.network->layout()),
                              0.75 * (corrected ? 0.0 : 0.25) + 0.25 * d * d));
  }
  return all_of(results);
});

// fedavgm --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedavgm", "the usual rates", Local{}, "", fedavgm, 1, 0.9);
FL_CLOSED_FORM("fedavgm", "other rates, with local momentum", Local{.momentum = 0.5},
               "server.lr = 0.5\nserver.momentum = 0.25", fedavgm, 0.5, 0.25);

FL_SELFTEST("fedavgm", "equals", "momentum 0 is FedAvg, bit for bit", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "server.lr = 0.5";
  return compare(solve(problem, "fedavgm", lines + "\nserver.momentum = 0", 2),
                 solve(problem, "fedavg", lines, 2), 0);
});

// fedadagrad, fedyogi --------------------------------------------------------------------------

FL_CLOSED_FORM("fedadagrad", "the usual rates", Local{}, "", fedadagrad, 0.1, 0, 1e-3);
FL_CLOSED_FORM("fedadagrad", "a first moment, with local momentum", Local{.momentum = 0.5},
               "server.lr = 0.25\nserver.beta1 = 0.5\nserver.tau = 0.125", fedadagrad, 0.25, 0.5,
               0.125);
FL_CLOSED_FORM("fedyogi", "the usual moments", Local{}, "server.lr = 0.1", fedyogi, 0.1, 0.9, 0.99,
               1e-3);
// A tau between the deltas of the three coordinates: v grows in some and shrinks in others.
FL_CLOSED_FORM("fedyogi", "a second moment that grows here and shrinks there",
               Local{.momentum = 0.5},
               "server.lr = 0.25\nserver.beta1 = 0\nserver.beta2 = 0.5\nserver.tau = 0.5", fedyogi,
               0.25, 0, 0.5, 0.5);

FL_SELFTEST("fedadagrad", "equals", "FedAvg's clients with server.optimizer adagrad", [] {
  const Problem problem = example_problem();
  const std::string lines =
      Local().lines() + "server.lr = 0.1\nserver.beta1 = 0\nserver.tau = 0.01";
  return compare(solve(problem, "fedadagrad", lines, 2),
                 solve(problem, "fedavg", lines + "\nserver.optimizer = adagrad", 2), 0);
});

FL_SELFTEST("fedyogi", "equals", "FedAvg's clients with server.optimizer yogi, bit for bit", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "server.lr = 0.1\nserver.tau = 0.01";
  return compare(solve(problem, "fedyogi", lines, 2),
                 solve(problem, "fedavg", lines + "\nserver.optimizer = yogi", 2), 0);
});

}  // namespace
}  // namespace fl_sim::selftest
