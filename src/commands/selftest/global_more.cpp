// Global optimisation, continued: fedsgd, fednova, feddyn, fedexp, mime, mimelite.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "network/layers.h"

namespace fl_sim::selftest {
namespace {

// example_problem() with all clients in every round.
Problem everybody() {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  return problem;
}

// Where Σ_k ∇F_k is 0, of quadratics: Σ_k A_k (w - a_k) = 0 with client k's mean curvature and its
// weighted mean of points.
Vector optimum(const Problem& problem) {
  Vector top(0.0, problem.start.size()), bottom(0.0, problem.start.size());
  for (const auto& points : problem.clients) {
    for (const Point& point : points) {
      top += point.curvature * point.a / static_cast<double>(points.size());
      bottom += point.curvature / static_cast<double>(points.size());
    }
  }
  return top / bottom;
}

// That a job is refused, with a message that names `reason`.
Result refused(const std::string& algorithm, const std::string& lines, const std::string& reason) {
  try {
    experiment_of(example_problem(), algorithm, lines, 1);
  } catch (const Error& error) {
    const std::string what = error.what();
    return require(what.find(reason) != std::string::npos,
                   message("'", lines, "' is refused for another reason: ", what));
  }
  return require(false, message("'", lines, "' is not refused"));
}

// Running statistics ---------------------------------------------------------------------------

// Batch normalisation of the inputs, then a linear layer: statistics that do not depend on weights.
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

// Whatever is done to the trainable part, buffers become Σ p_k buf_k: after one full-batch step
// 0.9 of the initial 0 and 1 and 0.1 of the clients' means and unbiased variances.
Result averages_statistics(const std::string& algorithm) {
  const torch::Tensor inputs = torch::arange(24).mul(7).remainder(16).sub(7.5).div(8).view({8, 3});
  const Samples data{inputs.to(torch::kFloat32), torch::arange(8).remainder(2)};
  torch::Tensor mean = torch::zeros({3}, torch::kFloat64), var = torch::full_like(mean, 0.9);
  for (const auto& [first, count] : {std::pair{0, 2}, std::pair{2, 6}}) {
    const torch::Tensor x = data.inputs.narrow(0, first, count).to(torch::kFloat64);
    mean += 0.1 * 0.5 * x.mean(0);
    var += 0.1 * 0.5 * (x - x.mean(0)).square().sum(0) / (count - 1);
  }
  std::vector<Result> results;
  for (const char* group_size : {"1", "2"}) {
    Experiment e = hand_made_experiment(
        message(Local{.steps = 1}.lines(), "algorithm = ", algorithm,
                "\nweighting = uniform\nrounds = 1\ncohort = 2\ngroup-size = ", group_size),
        data, 2, {{0, 1}, {2, 3, 4, 5, 6, 7}}, std::make_unique<NormalisedInputs>());
    const torch::Tensor weights = run(e).server.weights;
    const ParameterLayout& layout = e.network->layout();
    std::vector<torch::Tensor> statistics;
    for (size_t i = 0; i < layout.parameters().size(); ++i) {
      if (layout.parameters()[i].trainable) continue;
      statistics.push_back(layout.view(weights, static_cast<int64_t>(i)).flatten());
    }
    results.push_back(
        compare(to_vector(torch::cat(statistics)), to_vector(torch::cat({mean, var}))));
  }
  return all_of(results);
}

FL_SELFTEST("fedsgd", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("fedsgd"); });
FL_SELFTEST("fednova", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("fednova"); });
FL_SELFTEST("feddyn", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("feddyn"); });
FL_SELFTEST("fedexp", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("fedexp"); });
FL_SELFTEST("mime", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("mime"); });
FL_SELFTEST("mimelite", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("mimelite"); });
FL_SELFTEST("mifa", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("mifa"); });
FL_SELFTEST("fedvarp", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("fedvarp"); });
FL_SELFTEST("fedstale", "mistakes", "running statistics are averaged by weight",
            [] { return averages_statistics("fedstale\nfedstale.beta = 0.5"); });

// fedsgd ---------------------------------------------------------------------------------------

// McMahan et al. 2017, Section 2: w+ = w - lr server_lr Σ p_k ∇F_k(w).
Vector fedsgd(const Problem& problem, const Local& local, int64_t rounds, double server_lr) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector g(0.0, w.size());
    for (const int64_t k : cohort) g += problem.share(k, cohort) * problem.gradient(k, w);
    w -= local.lr * server_lr * (g + local.weight_decay * w);
  }
  return w;
}

FL_CLOSED_FORM("fedsgd", "a local rate", Local{.steps = 1}, "", fedsgd, 1);
FL_CLOSED_FORM("fedsgd", "a rate of the server and weight decay",
               Local{.steps = 1, .weight_decay = 0.25}, "server.lr = 0.5", fedsgd, 0.5);
FL_CLOSED_FORM("fedsgd", "a classifier with a hidden layer", classifier_problem(),
               Local{.steps = 1}, "", fedsgd, 1);

// Whose pieces of three samples leave a smaller last one, which must count by its samples.
FL_SELFTEST("fedsgd", "closed form", "the gradient is of all samples, whatever the batch size", [] {
  std::vector<Result> results;
  for (const Problem& problem : {example_problem(), classifier_problem()}) {
    const std::string lines = "local.lr = 0.125\nlocal.batch-size = 3";  // Local{}, in pieces
    results.push_back(compare(solve(problem, "fedsgd", lines, 3), fedsgd(problem, Local{}, 3, 1)));
    // The 1e-4 of the column "float32".
    const Vector expected = fedsgd(problem, Local{}, 3, 1);
    const Vector actual = solve(problem, "fedsgd", lines, 3, torch::kFloat32);
    results.push_back({norm(actual - expected) / norm(expected - problem.start), 1e-4, "float32"});
  }
  return all_of(results);
});

FL_SELFTEST("fedsgd", "equals", "FedAvg with one full-batch step, whatever the server does", [] {
  std::vector<Result> results;
  for (const char* server : {"", "server.optimizer = momentum\nserver.lr = 0.5",
                             "server.optimizer = adam\nserver.lr = 0.125"}) {
    for (const Problem& problem : {example_problem(), classifier_problem()}) {
      const std::string lines =
          Local{.steps = 1, .weight_decay = 0.125, .clip = 0.25}.lines() + server;
      results.push_back(
          compare(solve(problem, "fedsgd", lines, 2), solve(problem, "fedavg", lines, 2)));
    }
  }
  return all_of(results);
});

FL_SELFTEST("fedsgd", "mistakes", "local settings that it would not heed are refused", [] {
  return all_of({refused("fedsgd", "local.epochs = 2", "local.epochs is 2"),
                 refused("fedsgd", "local.steps = 3", "local.steps is 3"),
                 refused("fedsgd", "local.momentum = 0.9", "local.momentum"),
                 refused("fedsgd", "local.optimizer = adam", "local.optimizer is adam")});
});

// fednova --------------------------------------------------------------------------------------

// What a job says beside Local.
struct Nova {
  double mu = 0;
  bool uniform = false, tau_of_steps = false;
  double server_lr = 1;
};

// Wang et al. 2020, Section 4: ||a||_1 of K steps, whose closed forms are K, with momentum
// [K - rho (1 - rho^K) / (1 - rho)] / (1 - rho), and with a proximal term (1 - (1 - lr mu)^K) / (lr
// mu).
double nova_weight(const Local& local, double mu, int64_t steps) {
  const auto k = static_cast<double>(steps);
  const double rho = local.momentum, pull = local.lr * mu;
  if (pull == 0) return (k - rho * (1 - std::pow(rho, k)) / (1 - rho)) / (1 - rho);
  if (rho == 0) return (1 - std::pow(1 - pull, k)) / pull;
  double a = 0, velocity = 0;  // both: what gradients of 1 displace, with the pull among them
  for (int64_t i = 1; i <= steps; ++i) {
    velocity = rho * velocity + 1 - pull * a;
    a += velocity;
  }
  return a;
}

// Algorithm 1. Client k does steps(k) full-batch steps.
Vector fednova(const Problem& problem, const Local& local, int64_t rounds, const Nova& nova,
               const std::function<int64_t(int64_t)>& steps) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector direction(0.0, w.size());
    double tau = 0;
    for (const int64_t k : cohort) {
      const double p =
          nova.uniform ? 1 / static_cast<double>(cohort.size()) : problem.share(k, cohort);
      Local own = local;
      own.steps = steps(k);
      const double a = nova_weight(own, nova.mu, own.steps);
      const Vector y =
          problem.train(k, w, own, [&](const Vector& x) { return Vector(nova.mu * (x - w)); });
      direction += p / a * (y - w);
      tau += p * (nova.tau_of_steps ? static_cast<double>(own.steps) : a);
    }
    w += nova.server_lr * tau * direction;
  }
  return w;
}

FL_CLOSED_FORM("fednova", "equal steps, local momentum", Local{.momentum = 0.5}, "",
               [](const Problem& p, const Local& l, int64_t t) {
                 return fednova(p, l, t, {}, [&](int64_t) { return l.steps; });
               });
FL_CLOSED_FORM("fednova", "equal steps, a proximal term, tau by steps", Local{.steps = 4},
               "fednova.mu = 2\nfednova.tau = steps",
               [](const Problem& p, const Local& l, int64_t t) {
                 return fednova(p, l, t, {.mu = 2, .tau_of_steps = true},
                                [&](int64_t) { return l.steps; });
               });

// Clients with 1, 1, 2 and 4 samples that are all alike: with batches of one sample, as many steps
// of full-batch gradients an epoch. Shares are sums of powers of two.
Problem ragged_problem() {
  Problem problem = everybody();
  const std::vector<size_t> sizes = {1, 1, 2, 4};
  for (size_t k = 0; k < sizes.size(); ++k) {
    problem.clients[k] = std::vector<Point>(sizes[k], problem.clients[k].back());
  }
  problem.cohorts = {{0, 1, 2}, {0, 1, 2, 3}};
  return problem;
}

Result compare_ragged(const Local& local, const Nova& nova) {
  const Problem problem = ragged_problem();
  const std::string lines = message(
      "local.epochs = 2\nlocal.batch-size = 1\nlocal.lr = ", local.lr,
      "\nlocal.momentum = ", local.momentum, "\nfednova.mu = ", nova.mu,
      "\nfednova.tau = ", nova.tau_of_steps ? "steps" : "weights",
      "\nweighting = ", nova.uniform ? "uniform" : "samples", "\nserver.lr = ", nova.server_lr);
  std::vector<Result> results;
  const auto steps = [&](int64_t k) { return 2 * problem.size(k); };
  const bool float_shares = nova.uniform;  // of three clients
  for (const int64_t rounds : {1, 2, 3}) {
    const Vector expected = fednova(problem, local, rounds, nova, steps);
    for (const char* group : {"1", "3"}) {
      results.push_back(
          compare(solve(problem, "fednova", message(lines, "\ngroup-size = ", group), rounds),
                  expected, float_shares ? 2e-7 : kTolerance));
      results.back().note = message("after round ", rounds, ", group-size ", group);
    }
    const Vector in_floats = solve(problem, "fednova", lines, rounds, torch::kFloat32);
    results.push_back(
        {norm(in_floats - expected) / norm(expected - problem.start), 1e-4, "float32"});
  }
  return all_of(results);
}

FL_SELFTEST("fednova", "closed form", "unequal steps", [] { return compare_ragged({}, {}); });
FL_SELFTEST("fednova", "closed form", "unequal steps, momentum, a server rate of a half",
            [] { return compare_ragged({.momentum = 0.75}, {.server_lr = 0.5}); });
FL_SELFTEST("fednova", "closed form", "unequal steps, uniform weights",
            [] { return compare_ragged({.momentum = 0.5}, {.uniform = true}); });
FL_SELFTEST("fednova", "closed form", "unequal steps, a proximal term",
            [] { return compare_ragged({}, {.mu = 1}); });
FL_SELFTEST("fednova", "closed form", "unequal steps, a proximal term, tau by steps",
            [] { return compare_ragged({}, {.mu = 1, .tau_of_steps = true}); });
FL_SELFTEST("fednova", "closed form", "unequal steps, a proximal term and momentum",
            [] { return compare_ragged({.momentum = 0.5}, {.mu = 1}); });

FL_SELFTEST("fednova", "equals", "equal steps are FedAvg, and FedProx with mu", [] {
  std::vector<Result> results;
  for (const Problem& problem : {example_problem(), classifier_problem()}) {
    for (const bool nesterov : {false, true}) {
      const std::string lines = Local{.momentum = 0.5, .nesterov = nesterov}.lines();
      results.push_back(
          compare(solve(problem, "fednova", lines, 2), solve(problem, "fedavg", lines, 2)));
      results.push_back(compare(solve(problem, "fednova", lines + "fednova.mu = 1", 2),
                                solve(problem, "fedprox", lines + "fedprox.mu = 1", 2)));
    }
  }
  return all_of(results);
});

// Quadratics 1/2 (w - 1)^2 with 2 steps and 0.15 (w + 2)^2 with 20: the optimum of their mean is
// 0.4 / 1.3 = 0.3077, and with B_k = 1 - (1 - lr A_k)^K_k rounds end where Σ B_k / K_k (a_k - w) =
// 0, whatever the server's rate, which only makes small local rates get there in few rounds.
FL_SELFTEST("fednova", "fixed point", "unequal steps: the bias vanishes with the local rate", [] {
  const Problem problem{
      .clients = {std::vector<Point>(2, {{1}, {1}}), std::vector<Point>(20, {{-2}, {0.3}})},
      .start = {0},
      .cohorts = {{0, 1}}};
  struct Row {
    double lr, end, server_lr;
  };
  std::vector<Result> results;
  for (const auto& [lr, end, server_lr] :
       {Row{0.1, 0.4191, 1}, {0.03, 0.3439, 2}, {0.01, 0.3201, 8}, {0.001, 0.3089, 64}}) {
    const Vector w =
        solve(problem, "fednova", message(drifting_lines(lr), "server.lr = ", server_lr), 40);
    const double b0 = (1 - std::pow(1 - lr, 2)) / 2, b1 = (1 - std::pow(1 - lr * 0.3, 20)) / 20;
    results.push_back(compare(w, {end}, 1e-4));                        // four digits, cut off
    results.push_back(compare(w, {(b0 - 2 * b1) / (b0 + b1)}, 1e-6));  // 0.3 is a float
  }
  return all_of(results);
});

FL_SELFTEST("fednova", "mistakes", "what has no ||a_k||_1 is refused", [] {
  return all_of({refused("fednova", "local.optimizer = adam", "Adam"),
                 refused("fednova", "local.momentum = 0.5\nlocal.keep-momentum = true",
                         "local.keep-momentum")});
});

// feddyn ---------------------------------------------------------------------------------------

struct Dyn {
  Vector w, h;
  std::vector<Vector> client;  // h_k
};

// Acar et al. 2021, Algorithm 1.
Dyn feddyn_states(const Problem& problem, const Local& local, int64_t rounds, double alpha) {
  const Vector zero(0.0, problem.start.size());
  Dyn dyn{problem.start, zero, std::vector<Vector>(problem.clients.size(), zero)};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    const Vector w = dyn.w;
    Vector sum = zero;  // of w_k - w
    for (const int64_t k : cohort) {
      Vector& h = dyn.client[static_cast<size_t>(k)];
      const Vector y =
          problem.train(k, w, local, [&](const Vector& x) { return Vector(alpha * (x - w) - h); });
      h -= alpha * (y - w);
      sum += y - w;
    }
    dyn.h -= alpha / static_cast<double>(problem.clients.size()) * sum;
    dyn.w = w + sum / static_cast<double>(cohort.size()) - dyn.h / alpha;
  }
  return dyn;
}

// example_problem() in cohorts whose uniform shares, 1/2 and 1/4, are floats.
Problem halves() {
  Problem problem = example_problem();
  problem.cohorts = {{0, 2}, {0, 1}, {0, 1, 2, 3}};
  return problem;
}

FL_CLOSED_FORM("feddyn", "alpha 0.5", halves(), Local{}, "feddyn.alpha = 0.5", feddyn_states, 0.5);
FL_CLOSED_FORM("feddyn", "the usual alpha, with local momentum", halves(), Local{.momentum = 0.5},
               "", feddyn_states, 0.01);

FL_SELFTEST("feddyn", "closed form", "what the server and the clients keep", [] {
  const Problem problem = halves();
  const Local local{.steps = 2};
  std::vector<Result> results;
  for (const char* group : {"1", "3"}) {
    Experiment e = experiment_of(
        problem, "feddyn", message(local.lines(), "feddyn.alpha = 0.25\ngroup-size = ", group), 3);
    const Finished finished = run(e);
    const Dyn expected = feddyn_states(problem, local, 3, 0.25);
    results.push_back(
        compare(numbers(finished.server.hidden.at("h"), e.network->layout()), expected.h));
    for (int64_t k = 0; k < problem.population(); ++k) {
      results.push_back(compare(numbers(finished.states.at(k).at("h"), e.network->layout()),
                                expected.client[static_cast<size_t>(k)]));
    }
  }
  return all_of(results);
});

FL_SELFTEST("feddyn", "fixed point", "exact where clients drift by different amounts", [] {
  return compare(solve(drifting_problem(), "feddyn", drifting_lines() + "feddyn.alpha = 0.5", 200),
                 {4.0 / 13});
});

FL_SELFTEST("feddyn", "fixed point", "exact with unequal curvatures, all clients in a round", [] {
  return compare(
      solve(everybody(), "feddyn", Local{.steps = 5}.lines() + "feddyn.alpha = 0.5", 400),
      optimum(everybody()));
});

FL_SELFTEST("feddyn", "mistakes", "another weighting or a server's rule is refused", [] {
  return all_of({refused("feddyn", "weighting = samples", "weighting is samples"),
                 refused("feddyn", "server.lr = 0.5", "server.lr"),
                 refused("feddyn", "server.optimizer = adam", "server.optimizer")});
});

// fedexp ---------------------------------------------------------------------------------------

// Jhunjhunwala et al. 2023, Algorithm 1. `rates` gets those of the rounds.
Vector fedexp(const Problem& problem, const Local& local, int64_t rounds, double epsilon,
              std::vector<double>* rates = nullptr) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector mean(0.0, w.size());
    double squares = 0;
    for (const int64_t k : cohort) {
      const Vector delta = problem.train(k, w, local) - w;
      mean += problem.share(k, cohort) * delta;
      squares += problem.share(k, cohort) * (delta * delta).sum();
    }
    const double rate = std::max(1.0, squares / (2 * ((mean * mean).sum() + epsilon)));
    if (rates != nullptr) rates->push_back(rate);
    w += rate * mean;
  }
  return w;
}

FL_CLOSED_FORM("fedexp", "the usual epsilon", Local{}, "", fedexp, 1e-3, nullptr);
FL_CLOSED_FORM("fedexp", "a small epsilon, with local momentum", Local{.steps = 8, .momentum = 0.5},
               "fedexp.epsilon = 1e-6", fedexp, 1e-6, nullptr);

// Four clients whose points lie in four directions: the rate has to differ from 1, and the
// closed forms above might not make it.
FL_SELFTEST("fedexp", "closed form", "clients that disagree: longer steps", [] {
  Problem problem = everybody();
  problem.start = {0.25, 0, -0.25};
  const Local local{.steps = 8, .lr = 0.25};
  std::vector<double> rates;
  const Vector expected = fedexp(problem, local, 3, 1e-3, &rates);
  return all_of({compare(solve(problem, "fedexp", local.lines(), 3), expected),
                 compare(solve(problem, "fedexp", local.lines() + "group-size = 3", 3), expected),
                 require(*std::max_element(rates.begin(), rates.end()) > 1.25,
                         "the rate never differs from 1"),
                 differ(solve(problem, "fedexp", local.lines(), 3),
                        solve(problem, "fedavg", local.lines(), 3), 0.01)});
});

FL_SELFTEST("fedexp", "equals", "one client: the rate is 1, and it is FedAvg, bit for bit", [] {
  Problem problem = example_problem();
  problem.cohorts = {{2}, {3}};
  const std::string lines = Local{.momentum = 0.5}.lines();
  return compare(solve(problem, "fedexp", lines, 3), solve(problem, "fedavg", lines, 3), 0);
});

FL_SELFTEST("fedexp", "mistakes", "a rate or a rule of the server is refused", [] {
  return all_of({refused("fedexp", "server.lr = 0.5", "server.lr"),
                 refused("fedexp", "server.optimizer = momentum", "server.optimizer")});
});

// mime, mimelite -------------------------------------------------------------------------------

struct Momentum {
  Vector w, s, c;
};

// Karimireddy et al. 2020 (Mime), Algorithm 1, with full batches.
Momentum mime(const Problem& problem, const Local& local, int64_t rounds, double beta, bool lite,
              double server_lr = 1) {
  const Vector zero(0.0, problem.start.size());
  Momentum m{problem.start, zero, zero};
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    const auto clients = static_cast<double>(cohort.size());
    m.c = zero;
    for (const int64_t k : cohort) m.c += problem.gradient(k, m.w) / clients;
    Vector delta = zero;
    for (const int64_t k : cohort) {
      Vector y = m.w;
      for (int64_t step = 0; step < local.steps; ++step) {
        Vector g = problem.gradient(k, y);
        if (!lite) g += m.c - problem.gradient(k, m.w);
        y -= local.lr * ((1 - beta) * g + beta * m.s);
      }
      delta += (y - m.w) / clients;
    }
    m.w += server_lr * delta;
    m.s = (1 - beta) * m.c + beta * m.s;
  }
  return m;
}

FL_CLOSED_FORM("mime", "beta 0.5", halves(), Local{}, "mime.beta = 0.5", mime, 0.5, false, 1);
FL_CLOSED_FORM("mime", "the usual beta and a server rate of a half", halves(), Local{.steps = 5},
               "server.lr = 0.5", mime, 0.9, false, 0.5);
FL_CLOSED_FORM("mimelite", "beta 0.5", halves(), Local{}, "mimelite.beta = 0.5", mime, 0.5, true,
               1);
FL_CLOSED_FORM("mimelite", "the usual beta and a server rate of a half", halves(),
               Local{.steps = 5}, "server.lr = 0.5", mime, 0.9, true, 0.5);

// A classifier with as many clients in each round as in halves().
Problem classifier_halves() {
  Problem problem = classifier_problem();
  problem.cohorts = halves().cohorts;
  return problem;
}
FL_CLOSED_FORM("mime", "a classifier with a hidden layer", classifier_halves(), Local{},
               "mime.beta = 0.5", mime, 0.5, false, 1);
FL_CLOSED_FORM("mimelite", "a classifier with a hidden layer", classifier_halves(), Local{},
               "mimelite.beta = 0.5", mime, 0.5, true, 1);

Result mime_states(const std::string& algorithm, bool lite) {
  const Problem problem = halves();
  const Local local{.steps = 2};
  Experiment e =
      experiment_of(problem, algorithm, message(local.lines(), algorithm, ".beta = 0.75"), 3);
  const State shared = run(e).server.shared;
  const Momentum expected = mime(problem, local, 3, 0.75, lite);
  return all_of({compare(numbers(shared.at("momentum"), e.network->layout()), expected.s),
                 compare(numbers(shared.at("gradient"), e.network->layout()),
                         Vector(0.0, expected.c.size()))});
}
FL_SELFTEST("mime", "closed form",
            "the momentum that the server keeps, and no gradient of an old round",
            [] { return mime_states("mime", false); });
FL_SELFTEST("mimelite", "closed form",
            "the momentum that the server keeps, and no gradient of an old round",
            [] { return mime_states("mimelite", true); });

// In the first step y = w: on the same batch the two gradients cancel, and what is left of
// minibatches of one sample is the full gradient.
FL_SELFTEST("mime", "mistakes", "both gradients are of the same minibatch", [] {
  const Problem problem = halves();
  return compare(
      solve(problem, "mime",
            "local.steps = 1\nlocal.batch-size = 1\nlocal.lr = 0.125\nmime.beta = 0.5", 3),
      mime(problem, Local{.steps = 1}, 3, 0.5, false).w);
});

FL_SELFTEST("mime", "equals", "a population of one with full batches: MimeLite, or FedAvg", [] {
  Problem problem = example_problem();
  problem.clients = {problem.clients[3]};
  problem.cohorts = {{0}};
  const std::string lines = Local{.steps = 4}.lines();
  return all_of({compare(solve(problem, "mime", lines + "mime.beta = 0.75", 3),
                         solve(problem, "mimelite", lines + "mimelite.beta = 0.75", 3)),
                 compare(solve(problem, "mime", lines + "mime.beta = 0", 3),
                         solve(problem, "fedavg", lines, 3))});
});

FL_SELFTEST("mimelite", "equals", "beta 0 is FedAvg with uniform weights", [] {
  std::vector<Result> results;
  for (const Problem& problem : {example_problem(), classifier_problem()}) {
    const std::string lines = Local{.weight_decay = 0.125, .clip = 0.5}.lines();
    results.push_back(compare(solve(problem, "mimelite", lines + "mimelite.beta = 0", 3),
                              solve(problem, "fedavg", lines + "weighting = uniform", 3)));
  }
  return all_of(results);
});

FL_SELFTEST("mime", "fixed point", "exact where clients drift by different amounts", [] {
  return compare(
      solve(drifting_problem(), "mime", drifting_lines(1.0 / 16) + "mime.beta = 0.5", 200),
      {4.0 / 13});
});

FL_SELFTEST("mime", "fixed point", "exact with unequal curvatures, which MimeLite is not", [] {
  const std::string lines = Local{.steps = 5}.lines();
  return all_of(
      {compare(solve(everybody(), "mime", lines + "mime.beta = 0.5", 200), optimum(everybody())),
       differ(solve(everybody(), "mimelite", lines + "mimelite.beta = 0.5", 200),
              optimum(everybody()), 1e-3)});
});

FL_SELFTEST("mime", "mistakes", "another weighting or a momentum of the clients' is refused", [] {
  return all_of({refused("mime", "weighting = samples", "weighting is samples"),
                 refused("mime", "local.momentum = 0.5", "local.momentum"),
                 refused("mime", "local.optimizer = adam", "local.optimizer is adam"),
                 refused("mimelite", "weighting = loss", "weighting is loss"),
                 refused("mimelite", "local.momentum = 0.5", "local.momentum")});
});

}  // namespace
}  // namespace fl_sim::selftest
