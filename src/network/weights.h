// The weights of one forward pass.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"
#include "network/parameter_layout.h"

namespace fl_sim {

// Views of the rows of G clients, one per parameter. The rows' memory is shared, not copied.
class Weights {
 public:
  // To evaluate: rows [G, P].
  Weights(const ParameterLayout& layout, const torch::Tensor& rows)
      : Weights(layout, rows, torch::Tensor(), false) {}

  // To train: each trainable view is an autograd leaf of its own, whose gradient backward() writes
  // into `gradients` [G, trainable part]. Dropout drops, and batch normalisation uses the batch's
  // statistics and updates the running ones.
  Weights(const ParameterLayout& layout, const torch::Tensor& rows, const torch::Tensor& gradients)
      : Weights(layout, rows, gradients, true) {}

  // To train with descend() alone: without gradient rows.
  static Weights for_descent(const ParameterLayout& layout, const torch::Tensor& rows) {
    return Weights(layout, rows, torch::Tensor(), true);
  }

  int64_t clients() const { return clients_; }
  bool training() const { return training_; }

  // A parameter: [shape...] for one client, [G, shape...] for several.
  const torch::Tensor& operator[](int64_t index) const {
    return views_[static_cast<size_t>(index)];
  }

  // The gradient of `loss`, a scalar computed with these weights, into the gradient rows.
  void backward(const torch::Tensor& loss) const;

  // weights -= lr * gradient of `loss`, without a detour through the gradient rows.
  void descend(const torch::Tensor& loss, double lr) const;

  // A short batch: how many of its B samples are real for each client, and the same as a mask [B,
  // G] of ones and zeros. Empty and undefined where every sample is real.
  std::vector<int64_t> counts = {};
  torch::Tensor mask = {};

  // The type that layers multiply in, if it is not the rows'.
  std::optional<torch::ScalarType> product_type = {};

  // A stream per client, for dropout and the like; each draws for its own row only.
  std::span<Rng> streams = {};

 private:
  Weights(const ParameterLayout& layout, const torch::Tensor& rows, const torch::Tensor& gradients,
          bool training);

  int64_t clients_;
  bool training_;
  std::vector<torch::Tensor> views_;
  std::vector<torch::Tensor> leaves_;          // those of views_ that are trainable
  std::vector<torch::Tensor> leaf_gradients_;  // where each leaf's gradient goes
};

}  // namespace fl_sim
