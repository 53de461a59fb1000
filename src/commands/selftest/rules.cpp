#include "commands/selftest/rules.h"

#include <cmath>
#include <functional>

namespace fl_sim::selftest {
namespace {

// Reddi et al. 2021, Algorithm 2, with what the second moment becomes as a function of itself and
// of the mean delta.
Vector adaptive_server(const Problem& problem, const Local& local, int64_t rounds, double lr,
                       double beta1, double tau,
                       const std::function<double(double v, double d)>& second_moment) {
  Vector w = problem.start, m(0.0, w.size()), v(tau * tau, w.size());
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector delta = mean_delta(problem, local, t, w);
    for (size_t i = 0; i < w.size(); ++i) {
      m[i] = beta1 * m[i] + (1 - beta1) * delta[i];
      v[i] = second_moment(v[i], delta[i]);
      w[i] += lr * m[i] / (std::sqrt(v[i]) + tau);
    }
  }
  return w;
}

}  // namespace

Vector mean_delta(const Problem& problem, const Local& local, int64_t round, const Vector& w,
                  const Problem::Hook& hook) {
  const std::vector<int64_t> cohort = problem.survivors(round);
  Vector delta(0.0, w.size());
  for (const int64_t k : cohort) {
    delta += problem.share(k, cohort) * (problem.train(k, w, local, hook) - w);
  }
  return delta;
}

Vector fedavg(const Problem& problem, const Local& local, int64_t rounds, double server_lr) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) w += server_lr * mean_delta(problem, local, t, w);
  return w;
}

Vector fedprox(const Problem& problem, const Local& local, int64_t rounds, double mu) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    w += mean_delta(problem, local, t, w, [&](const Vector& y) { return Vector(mu * (y - w)); });
  }
  return w;
}

double step_weight(const Local& local) {
  const double rho = local.momentum;
  double total = 0;
  for (int64_t i = 1; i <= local.steps; ++i) {
    const double v = (1 - std::pow(rho, static_cast<double>(i))) / (1 - rho);
    total += local.nesterov ? 1 + rho * v : v;
  }
  return total;
}

Vector scaffold(const Problem& problem, const Local& local, int64_t rounds, double server_lr,
                bool uniform) {
  Vector w = problem.start, c(0.0, w.size());
  std::vector<Vector> controls(problem.clients.size(), c);
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    Vector delta(0.0, w.size()), change(0.0, w.size());
    for (const int64_t k : cohort) {
      Vector& c_k = controls[static_cast<size_t>(k)];
      const Vector correction = c - c_k;
      const Vector y = problem.train(k, w, local, [&](const Vector&) { return correction; });
      const Vector c_new = c_k - c + (w - y) / (local.lr * step_weight(local));
      const double share =
          uniform ? 1.0 / static_cast<double>(problem.clients.size())
                  : static_cast<double>(problem.size(k)) / static_cast<double>(problem.samples());
      delta +=
          (uniform ? 1.0 / static_cast<double>(cohort.size()) : problem.share(k, cohort)) * (y - w);
      change += share * (c_new - c_k);
      c_k = c_new;
    }
    w += server_lr * delta;
    c += change;
  }
  return w;
}

Vector fedadam(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta1,
               double beta2, double tau, bool bias_correction) {
  Vector w = problem.start, m(0.0, w.size()), v(bias_correction ? 0.0 : tau * tau, w.size());
  for (int64_t t = 1; t <= rounds; ++t) {
    const Vector delta = mean_delta(problem, local, t, w);
    m = beta1 * m + (1 - beta1) * delta;
    v = beta2 * v + (1 - beta2) * delta * delta;
    Vector m_hat = m, v_hat = v;
    if (bias_correction) {
      m_hat /= 1 - std::pow(beta1, static_cast<double>(t));
      v_hat /= 1 - std::pow(beta2, static_cast<double>(t));
    }
    w += lr * m_hat / (std::sqrt(v_hat) + tau);
  }
  return w;
}

Vector fedavgm(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta) {
  Vector w = problem.start, u(0.0, w.size());
  for (int64_t t = 1; t <= rounds; ++t) {
    u = beta * u + mean_delta(problem, local, t, w);
    w += lr * u;
  }
  return w;
}

Vector fedadagrad(const Problem& problem, const Local& local, int64_t rounds, double lr,
                  double beta1, double tau) {
  return adaptive_server(problem, local, rounds, lr, beta1, tau,
                         [](double v, double d) { return v + d * d; });
}

Vector fedyogi(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta1,
               double beta2, double tau) {
  return adaptive_server(problem, local, rounds, lr, beta1, tau, [beta2](double v, double d) {
    const double step = (1 - beta2) * d * d;
    return v > d * d ? v - step : v < d * d ? v + step : v;
  });
}

}  // namespace fl_sim::selftest
