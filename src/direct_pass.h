// Forward and backward pass of a Sequential network for one client, float32, on one core: by the
// kernels of kernels.h, in buffers made once, without autograd.
//
// Images lie [height, width, channels] in it, weights as everywhere in the client's row.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataset.h"

namespace fl_sim {

class Sequential;

// Where a gradient g goes: row = scale * g + plus, or with `add` row += scale * g + plus - decay *
// row, for the trainable part. The defaults write the gradient itself; `add` with scale = -lr is a
// step of gradient descent.
struct GradientTarget {
  float* row;
  float scale = 1;
  const float* plus = nullptr;  // laid out as the row
  bool add = false;
  float decay = 0;
};

class DirectPass {
 public:
  // For batches of up to `batch_size` samples. The network must outlive it.
  DirectPass(const Sequential& network, int64_t batch_size);
  ~DirectPass();
  DirectPass(const DirectPass&) = delete;
  DirectPass& operator=(const DirectPass&) = delete;

  // Takes the samples at `indices` as the next batch; inputs are scaled and shifted, see Dataset.
  // Their tensors must be contiguous, as those of a read dataset are.
  void load(const Samples& samples, std::span<const int64_t> indices, double scale, double shift);

  // Computes the batch's scores with the weights of a row [P].
  void forward(const float* row);
  std::span<const float> scores(int64_t sample) const;  // [classes]

  // After forward(): the mean cross-entropy loss of the batch, and its gradient by the scores.
  double loss();

  // After loss(): the gradient by the row. Each layer's part of the row is last read before it is
  // written, so `target` may be the row itself.
  void backward(const float* row, const GradientTarget& target);

 private:
  struct Activation;
  struct Stage;
  struct ConvStage;
  struct PoolStage;
  struct ReluStage;
  struct FlattenStage;
  struct LinearStage;

  double loss(int64_t sample, float share);
  Activation* add_activation(int64_t height, int64_t width, int64_t channels);

  int64_t batch_size_, classes_;
  std::vector<std::unique_ptr<Activation>> activations_;
  std::vector<std::unique_ptr<Stage>> stages_;
  Activation *input_ = nullptr, *scores_ = nullptr;
  int64_t samples_ = 0;  // of the batch
  std::vector<int64_t> labels_;
};

}  // namespace fl_sim
