// What the server does with the mean delta, seen as a pseudo-gradient (Reddi et al., "Adaptive
// federated optimization", ICLR 2021, Algorithm 2).
//
//   sgd    w <- w + lr Δ
//   adam   m <- β1 m + (1-β1) Δ;  v <- β2 v + (1-β2) Δ²;  w <- w + lr m / (√v + τ)
//          with v₀ = τ² and no bias correction
//
// Rules act on the trainable part; buffers such as running statistics are always replaced by their
// weighted mean.
#pragma once

#include <string>

#include "algorithm.h"

namespace fl_sim {

class ServerOptimizer {
 public:
  // Reads server.*; `bias_correction` divides m and v by 1 - β^t as Kingma & Ba's Adam does.
  explicit ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction = false);

  void init(ServerState& server) const;

  // delta [1, P].
  void step(ServerState& server, const torch::Tensor& delta) const;

 private:
  int64_t trainable_;
  std::string rule_;
  double lr_, beta1_ = 0, beta2_ = 0, tau_ = 0;
  bool bias_correction_;
};

}  // namespace fl_sim
