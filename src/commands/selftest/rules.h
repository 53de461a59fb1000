// The papers' update rules on the problems of problem.h, in plain doubles: what the algorithms are
// held to. Each returns the weights after so many rounds.
#pragma once

#include <cstdint>

#include "commands/selftest/problem.h"

namespace fl_sim::selftest {

// The exact sum resolves 9e-13; the rules amplify that little.
constexpr double kTolerance = 1e-9;

// Σ p_k (w_k - w) over a round's cohort.
Vector mean_delta(const Problem& problem, const Local& local, int64_t round, const Vector& w,
                  const Problem::Hook& hook = {});

// McMahan et al. 2017: w+ = w + lr Σ p_k (w_k - w).
Vector fedavg(const Problem& problem, const Local& local, int64_t rounds, double server_lr = 1);

// Li et al. 2020: the local gradient is g + mu (y - w).
Vector fedprox(const Problem& problem, const Local& local, int64_t rounds, double mu);

// The weight of one gradient in K steps of momentum rho: Σ_i (1 - rho^i) / (1 - rho) for i = 1..K
// (Wang et al. 2020); Nesterov's step moves by g + rho v instead of v.
double step_weight(const Local& local);

// Karimireddy et al. 2020, Algorithm 1, option II, with uniform weights or by samples.
Vector scaffold(const Problem& problem, const Local& local, int64_t rounds, double server_lr,
                bool uniform);

// Reddi et al. 2021, Algorithm 2; Kingma & Ba's bias correction where asked for.
Vector fedadam(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta1,
               double beta2, double tau, bool bias_correction);

// Hsu et al. 2019: momentum on the server.
Vector fedavgm(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta);

// Reddi et al. 2021, Algorithm 2.
Vector fedadagrad(const Problem& problem, const Local& local, int64_t rounds, double lr,
                  double beta1, double tau);

// Likewise; Yogi moves v towards d² by (1 - beta2) d², up or down.
Vector fedyogi(const Problem& problem, const Local& local, int64_t rounds, double lr, double beta1,
               double beta2, double tau);

}  // namespace fl_sim::selftest
