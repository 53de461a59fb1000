// Losses, scores and gradients of a group's mini-batches, at any rows of weights: by the network's
// direct pass for one client in float32 on one core of a CPU, by autograd otherwise.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "learning/batches.h"
#include "network/direct_pass.h"

namespace fl_sim {

// What a network makes of the step's batch of B samples for each of A clients.
struct Scored {
  torch::Tensor scores;          // [B, A, C]
  torch::Tensor representation;  // [B, A, R], where it was asked for
  torch::Tensor labels;          // [B, A] or [B, A, T] int64
  torch::Tensor indices;         // [B, A] int64, into the training set
  // [B, A] what a sample counts in its client's mean: 1 / (its batch's size), 0 for one that fills
  // up.
  torch::Tensor share;
  // The gradient of the clients' mean losses by scores and representation, for a LossHook to
  // change; undefined where no gradient was asked for.
  torch::Tensor score_gradients;           // [B, A, C]: the cross-entropy's
  torch::Tensor representation_gradients;  // [B, A, R]: zeros
};
using LossHook = std::function<void(Scored&)>;

// What losses other than the network's own need.
struct LossRule {
  LossHook hook = {};
  bool representation = false;  // whether the hook reads or changes the representation's part
  explicit operator bool() const { return static_cast<bool>(hook); }
};

// Of the samples' losses, after forward().
double sum_of_squares(const DirectPass& pass);

class BatchPass {
 public:
  struct Setup {
    const Network& network;
    bool one_thread;
    std::optional<torch::ScalarType> product_type;
  };

  // `dropout` names the streams that random layers draw from.
  BatchPass(const Setup& setup, const ClientGroup& group, Batches batches,
            const std::string& dropout, int64_t round);

  const Batches& batches() const { return batches_; }

  // Everything below is of this step's batch.
  void select(int64_t step) { step_ = step; }
  const Batches::Step& batch() const { return batches_.at(step_); }

  // Whether gradients come from the direct pass; and that pass, with the batch loaded.
  bool is_direct() const { return direct_; }
  DirectPass& direct();

  // The gradient of each client's mean loss at rows [A, P] into `gradients` [A, T]; returns the
  // losses [A] as they were before `loss` changed their gradient. Dropout drops, and batch
  // normalisation updates the rows' running statistics.
  torch::Tensor gradient(const torch::Tensor& rows, torch::Tensor& gradients,
                         const LossRule& loss = {});

  // rows -= lr * gradient, without gradient rows: by autograd. Returns the losses [A].
  torch::Tensor descend(const torch::Tensor& rows, double lr);

  // From now on gradient() and descend() keep the sums of the samples' squared losses, [A].
  void keep_squares() { keeps_squares_ = true; }
  const torch::Tensor& squares() const { return squares_; }

  // Scores at rows [A, P], as in evaluation: without dropout and by running statistics.
  Scored forward(const torch::Tensor& rows, bool representation);

 private:
  struct Pass {  // a direct pass, and the step whose batch it holds
    std::unique_ptr<DirectPass> pass;
    int64_t loaded = -1;
  };
  DirectPass& load(Pass& pass);
  torch::Tensor inputs();
  const torch::Tensor& changed_inputs();
  torch::Tensor labels() const;
  Scored describe() const;
  void prepare(Weights& weights);
  Weights& training_weights(const torch::Tensor& rows, const torch::Tensor& gradients);
  torch::Tensor client_losses(const torch::Tensor& sample_losses);
  torch::Tensor direct_gradient(const torch::Tensor& rows, torch::Tensor& gradients,
                                const LossRule& loss);

  const Setup setup_;
  const ClientData& data_;
  Batches batches_;
  torch::TensorOptions options_;  // of rows
  bool direct_;
  Pass main_, other_;  // forward() must not overwrite what the next gradient needs
  bool keeps_squares_ = false;
  torch::Tensor squares_;
  std::vector<Rng> streams_;
  std::vector<int64_t> ids_;
  int64_t step_ = 0;

  // Of jobs that change inputs: the batch as the network sees it, drawn once per step.
  std::vector<Rng> input_streams_;
  torch::Tensor changed_;  // [B·A, shape...]
  int64_t changed_step_ = -1;

  // The weights of the last gradient, kept while the rows stay where they are.
  std::optional<Weights> weights_;
  const void *weights_rows_ = nullptr, *weights_gradients_ = nullptr;
};

}  // namespace fl_sim
