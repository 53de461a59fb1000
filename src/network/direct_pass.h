// Forward and backward pass of a network for one client, float32, on one core of a CPU: by kernels
// of our own, in buffers made once, without autograd. Sequential has one, see sequential_pass.h.
#pragma once

#include <cstdint>
#include <span>

#include "data/dataset.h"

namespace fl_sim {

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
  DirectPass() = default;
  virtual ~DirectPass() = default;
  DirectPass(const DirectPass&) = delete;
  DirectPass& operator=(const DirectPass&) = delete;

  // Takes the samples at `indices` as the next batch; inputs are scaled and shifted, see Dataset.
  // Their tensors must be contiguous, as those of a read dataset are.
  virtual void load(const Samples& samples, std::span<const int64_t> indices, double scale,
                    double shift) = 0;
  virtual int64_t batch() const = 0;
  virtual int64_t label(int64_t sample) const = 0;

  // Computes the batch's scores with the weights of a row [P], and on the way its representations:
  // what goes into the head, see Network::has_representation(). Both stay until the next load() or
  // forward(); to compare several rows' takes a DirectPass each.
  virtual void forward(const float* row) = 0;
  virtual std::span<const float> scores(int64_t sample) const = 0;          // [classes]
  virtual std::span<const float> representation(int64_t sample) const = 0;  // [R]
  virtual int64_t representation_size() const = 0;                          // R

  // After forward(): the mean loss of the batch by the network's objective, and its gradient by the
  // scores.
  virtual double loss() = 0;
  // After forward(): the loss of one sample, and nothing else.
  virtual double sample_loss(int64_t sample) const = 0;

  // Between loss() and backward(): the gradient of the mean loss by a sample's scores [classes], so
  // that of its own loss divided by batch(). The caller may change it, and what is trained with it.
  virtual std::span<float> score_gradient(int64_t sample) = 0;

  // Between forward() and backward(): an additional gradient by a sample's representation [R],
  // which the caller may fill. A batch's are zero at the first call; without a call there are none,
  // and they cost nothing. Without effect where the representation is the input.
  virtual std::span<float> representation_gradient(int64_t sample) = 0;

  // After loss(): the gradient by the row. Each layer's part of the row is last read before it is
  // written, so `target` may be the row itself.
  virtual void backward(const float* row, const GradientTarget& target) = 0;
};

}  // namespace fl_sim
