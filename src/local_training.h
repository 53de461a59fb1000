// Local epochs of mini-batch SGD for a group of clients.
//
// In each step: gradient of the mean loss over the client's batch; the algorithm's hook; clipping
// (local.clip-norm); weight decay; momentum; step. Each client goes through its own samples in its
// own random order; the last batch of an epoch may be short. A client that has done its steps
// rests: nothing of its row changes any more.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "algorithm.h"

namespace fl_sim {

// How long a client trains.
struct LocalPlan {
  int64_t epochs, steps, batch_size;

  explicit LocalPlan(const Job& job);
  int64_t batches_per_epoch(int64_t samples) const {
    return samples / batch_size + (samples % batch_size == 0 ? 0 : 1);
  }
  int64_t steps_of(int64_t samples) const;  // 0 for a client without samples
};

// One step of the A clients that still train, the group's first A. T is the length of the trainable
// part.
struct LocalStep {
  int64_t clients;            // A
  const torch::Tensor& rows;  // [A, T]
  torch::Tensor& gradients;   // [A, T], for the hook to change in place

  // The same clients' rows of a tensor [G, n].
  torch::Tensor of(const torch::Tensor& per_client) const {
    return per_client.narrow(0, 0, clients);
  }
};
using GradientHook = std::function<void(LocalStep&)>;

// A correction that is affine in the rows: gradient += pull * (rows - anchor) + shift. Said in this
// form, it can be folded into the kernels that update the weights.
struct AffineCorrection {
  double pull = 0;
  torch::Tensor anchor = {};  // [T], [1, T] or [G, T]; needed unless pull is 0
  torch::Tensor shift = {};   // likewise; undefined is 0
};

class LocalTraining {
 public:
  explicit LocalTraining(const Algorithm::Setup& setup);

  // Trains group.rows and returns the update: delta, steps and losses.
  Update train(ClientGroup& group, const GlobalModel& global) const;
  Update train(ClientGroup& group, const GlobalModel& global, const AffineCorrection& affine) const;
  Update train(ClientGroup& group, const GlobalModel& global, const GradientHook& hook) const;

  double learning_rate(int64_t round) const;  // lr * lr-decay^(round - 1)
  int64_t trainable() const { return network_.layout().trainable(); }

 private:
  struct Correction {  // at most one of them
    const AffineCorrection* affine = nullptr;
    const GradientHook* hook = nullptr;
  };
  Update run(ClientGroup& group, const GlobalModel& global, const Correction& correction) const;
  Update start(const ClientGroup& group) const;
  void descend(torch::Tensor& rows, LocalStep& step, const Correction& correction,
               torch::Tensor& velocity, double lr) const;
  double step_weight(int64_t steps) const;

  const Network& network_;
  LocalPlan plan_;
  double lr_, lr_decay_, momentum_, weight_decay_, clip_norm_;
  bool nesterov_, one_thread_;
  std::optional<torch::ScalarType> product_type_;
};

}  // namespace fl_sim
