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

#include "base/option_set.h"
#include "learning/algorithm.h"

namespace fl_sim {

class ServerOptimizer {
 public:
  struct Options {
    std::string rule;  // "sgd", "momentum", "adagrad", "adam" or "yogi"
    double lr = 0, momentum = 0, beta1 = 0, beta2 = 0, tau = 0;
    static const OptionSet<Options> kOptions;
  };

  // Reads server.*; `bias_correction` makes adam divide m and v by 1 - β^t, and start v at 0, as
  // Kingma & Ba's does.
  explicit ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction = false);

  // Makes what the rule remembers, [M, T] for weights [M, P], in server.hidden.
  void init(ServerState& server) const;

  // Applies delta [1, P] to row `model` of the weights.
  void step(ServerState& server, const torch::Tensor& delta, int64_t model = 0) const;

 private:
  bool adaptive() const { return o_.rule == "adagrad" || o_.rule == "adam" || o_.rule == "yogi"; }
  void adapt(ServerState& server, torch::Tensor& weights, const torch::Tensor& delta,
             int64_t model) const;

  int64_t trainable_;
  Options o_;
  bool bias_correction_;
};

}  // namespace fl_sim
