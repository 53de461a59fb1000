// One step of a client's optimiser: from gradients to new weights, a row per client.
//
//   g <- clip(g, local.clip-norm);  g <- g + weight-decay * w
//   sgd    v <- momentum * v + g;  w <- w - lr * v   (Nesterov: w <- w - lr * (g + momentum * v))
//   adam   m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;
//          w <- w - lr * m / (1-b1^t) / (sqrt(v / (1-b2^t)) + epsilon)   (Kingma & Ba 2015)
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "base/job.h"
#include "base/option_set.h"

namespace fl_sim {

class LocalOptimizer {
 public:
  struct Options {
    std::string optimizer;  // "sgd" or "adam"
    double momentum = 0;
    bool nesterov = false, keep_momentum = false;
    double beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, clip_norm = 0;
    static const OptionSet<Options> kOptions;
  };

  // What it remembers of the rows that it trains: zeros at first.
  struct Memory {
    torch::Tensor velocity, second;  // [G, T]; undefined where the rule needs none
    int64_t steps = 0;
  };

  explicit LocalOptimizer(const Job& job);

  Memory start(int64_t clients, int64_t trainable, const torch::TensorOptions& options) const;

  // rows [A, T] -= ..., for the first A clients of the memory; `gradients` [A, T] is changed.
  void step(torch::Tensor rows, torch::Tensor gradients, Memory& memory, double lr) const;

  // Whether a step is rows -= lr * (gradients + weight_decay * rows).
  bool linear() const { return !adam() && o_.momentum == 0 && o_.clip_norm == 0; }
  bool adam() const { return o_.optimizer == "adam"; }
  double momentum() const { return o_.momentum; }
  bool keeps_momentum() const { return o_.keep_momentum; }  // from round to round
  double weight_decay() const { return o_.weight_decay; }

  // The displacement that `steps` gradients of 1 make, in units of the learning rate: ||a||_1 (Wang
  // et al. 2020). `pull` is lr * mu of a proximal term, whose decay of earlier gradients it counts.
  // For Adam, whose steps are not linear in its gradients, the number of steps.
  double step_weight(int64_t steps, double pull = 0) const;

 private:
  Options o_;
};

}  // namespace fl_sim
