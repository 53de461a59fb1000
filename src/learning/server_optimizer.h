// What the server does with the mean delta Δ, seen as a pseudo-gradient (Reddi et al., "Adaptive
// federated optimization", ICLR 2021, Algorithm 2; momentum: Hsu et al., "Measuring the effects of
// non-identical data distribution for federated visual classification", 2019).
//
//   sgd        w <- w + lr Δ
//   momentum   u <- β u + Δ;                            w <- w + lr u
//   adagrad    m <- β1 m + (1-β1) Δ;  v <- v + Δ²;      w <- w + lr m / (√v + τ)
//   adam       m likewise;  v <- β2 v + (1-β2) Δ²;      w likewise
//   yogi       m likewise;  v <- v - (1-β2) Δ² sign(v - Δ²);  w likewise
//
// with u₀ = m₀ = 0, v₀ = τ² and no bias correction. Rules act on the trainable part; buffers such
// as running statistics are always replaced by their weighted mean. Each model of several has its
// own u, m and v.
#pragma once

#include <cstdint>
#include <string>

#include "learning/algorithm.h"

namespace fl_sim {

class ServerOptimizer {
 public:
  // Reads server.*; `bias_correction` makes adam divide m and v by 1 - β^t, and start v at 0, as
  // Kingma & Ba's does.
  explicit ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction = false);

  // Makes what the rule remembers, [M, T] for weights [M, P], in server.hidden.
  void init(ServerState& server) const;

  // Applies delta [1, P] to row `model` of the weights.
  void step(ServerState& server, const torch::Tensor& delta, int64_t model = 0) const;

 private:
  bool adaptive() const { return rule_ == "adagrad" || rule_ == "adam" || rule_ == "yogi"; }
  void adapt(ServerState& server, torch::Tensor& weights, const torch::Tensor& delta,
             int64_t model) const;

  int64_t trainable_;
  std::string rule_;
  double lr_, momentum_ = 0, beta1_ = 0, beta2_ = 0, tau_ = 0;
  bool bias_correction_;
};

}  // namespace fl_sim
