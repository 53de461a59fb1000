// Global optimisation: moon.
#include <cmath>
#include <map>

#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

double cosine(const Vector& a, const Vector& b) {
  const double lengths = norm(a) * norm(b);
  return lengths > 0 ? (a * b).sum() / lengths : 0;
}

// Li, He and Song 2021, equation 3.
double contrast(const Vector& z, const Vector& global, const Vector& previous, double temperature) {
  const double a = std::exp(cosine(z, global) / temperature),
               b = std::exp(cosine(z, previous) / temperature);
  return -std::log(a / (a + b));
}

// Its gradient by z from nothing but its values: central differences of fourth order, good to
// 1e-11.
Vector contrast_gradient(const Vector& z, const Vector& global, const Vector& previous,
                         double temperature) {
  constexpr double kStep = 1e-3;
  Vector gradient(z.size());
  for (size_t i = 0; i < z.size(); ++i) {
    const auto at = [&](double steps) {
      Vector moved = z;
      moved[i] += steps * kStep;
      return contrast(moved, global, previous, temperature);
    };
    gradient[i] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * kStep);
  }
  return gradient;
}

// Weights after so many rounds, and the clients' last local models.
struct Moon {
  Vector w;
  std::map<int64_t, Vector> previous = {};
};

Moon moon(const Problem& problem, const Local& local, int64_t rounds, double mu,
          double temperature) {
  const Classifier& net = *problem.classifier;
  Moon m{problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector delta(0.0, m.w.size());
    for (const int64_t k : cohort) {
      const auto term = [&](const Vector& y) {
        Vector gradient(0.0, y.size());
        if (!m.previous.contains(k)) return gradient;
        for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
          const Vector by_z =
              contrast_gradient(net.representation(y, point.a), net.representation(m.w, point.a),
                                net.representation(m.previous.at(k), point.a), temperature);
          gradient +=
              net.backward(y, point.a, Vector(0.0, static_cast<size_t>(net.classes)), mu * by_z) /
              static_cast<double>(problem.size(k));
        }
        return gradient;
      };
      const Vector y = problem.train(k, m.w, local, term);
      delta += problem.share(k, cohort) * (y - m.w);
      m.previous[k] = y;
    }
    m.w += delta;
  }
  return m;
}

// Ten hidden units, so that no sample's are all 0: there the cosine has no gradient.
FL_CLOSED_FORM("moon", "the usual weight and temperature", classifier_problem(10), Local{}, "",
               moon, 1, 0.5);
FL_CLOSED_FORM("moon", "a strong term, with local momentum", classifier_problem(10),
               Local{.steps = 4, .momentum = 0.5}, "moon.mu = 5\nmoon.temperature = 0.25", moon, 5,
               0.25);

// The term must matter to those checks: it acts from round 2 on.
FL_SELFTEST("moon", "equals", "its first round is FedAvg's, bit for bit; the second is not", [] {
  const Problem problem = classifier_problem(10);
  const std::string lines = Local().lines();
  return all_of(
      {compare(solve(problem, "moon", lines, 1), solve(problem, "fedavg", lines, 1), 0),
       differ(solve(problem, "moon", lines, 2), solve(problem, "fedavg", lines, 2), 1e-3)});
});

FL_SELFTEST("moon", "equals", "mu 0 is FedAvg", [] {
  const Problem problem = classifier_problem(10);
  const std::string lines = Local{.momentum = 0.5}.lines();
  return compare(solve(problem, "moon", lines + "moon.mu = 0", 3),
                 solve(problem, "fedavg", lines, 3), 1e-12);
});

FL_SELFTEST("moon", "equals", "a network that is all head is trained as by FedAvg", [] {
  const Problem problem = classifier_problem(0);
  const std::string lines = Local().lines();
  return compare(solve(problem, "moon", lines, 3), solve(problem, "fedavg", lines, 3), 1e-12);
});

// A client keeps the model of its own last round, however long ago: not the received one, not the
// mean, not that of another client of its group.
FL_SELFTEST("moon", "mistakes", "a client's previous model is the one it trained last", [] {
  Problem problem = classifier_problem(10);
  problem.cohorts = {{0, 1, 2}, {0, 3}};
  const Local local;
  const Moon expected = moon(problem, local, 2, 1, 0.5);
  std::vector<Result> results;
  for (const char* group_size : {"1", "3"}) {
    Experiment e =
        experiment_of(problem, "moon", message(local.lines(), "group-size = ", group_size), 2);
    const Finished finished = run(e);
    results.push_back(require(finished.states.size() == 4, "four clients took part"));
    for (const auto& [client, state] : finished.states) {
      results.push_back(compare(numbers(state.at("previous"), e.network->layout()),
                                expected.previous.at(client)));
      results.push_back(differ(expected.previous.at(client), expected.w, 1e-3));
    }
  }
  return all_of(results);
});

// 1, 3 and 4 samples in batches of two, in stacks: what fills up a short batch must not count. In
// float64 groups and single clients go the same way but for these; in float32 a single client goes
// through another forward and backward pass than a stack.
FL_SELFTEST("moon", "mistakes", "short batches in stacks count as they do alone", [] {
  Problem problem = classifier_problem(10);
  problem.cohorts = {{0, 1, 2, 3}};
  problem.clients[0].resize(1);
  problem.clients[1].push_back(problem.clients[3][0]);
  const std::string lines = "local.batch-size = 2\nlocal.lr = 0.125\nmoon.mu = 5\n";
  const auto end = [&](const char* group_size, torch::ScalarType type) {
    return solve(problem, "moon", message(lines, "group-size = ", group_size), 3, type);
  };
  const Vector alone = end("1", torch::kFloat64);
  return all_of({compare(end("4", torch::kFloat64), alone),
                 compare(end("4", torch::kFloat32), alone, 1e-5),
                 compare(end("1", torch::kFloat32), alone, 1e-5)});
});

}  // namespace
}  // namespace fl_sim::selftest
