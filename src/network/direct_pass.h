// Forward and backward pass of a Sequential network for one client, float32, on one core: by the
// kernels of kernels.h, in buffers made once, without autograd.
//
// Images lie [height, width, channels] in it, weights as everywhere in the client's row.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/dataset.h"

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
  int64_t batch() const { return samples_; }
  int64_t label(int64_t sample) const { return labels_[static_cast<size_t>(sample)]; }

  // Computes the batch's scores with the weights of a row [P], and on the way its representations:
  // what goes into the head, see Network::has_representation(). Both stay until the next load() or
  // forward(); to compare several rows' takes a DirectPass each.
  void forward(const float* row);
  std::span<const float> scores(int64_t sample) const;          // [classes]
  std::span<const float> representation(int64_t sample) const;  // [R]
  int64_t representation_size() const;                          // R

  // After forward(): the mean loss of the batch by the network's objective, and its gradient by the
  // scores.
  double loss();
  // After forward(): the loss of one sample, and nothing else.
  double sample_loss(int64_t sample) const;

  // Between loss() and backward(): the gradient of the mean loss by a sample's scores [classes], so
  // that of its own loss divided by batch(). The caller may change it, and what is trained with it.
  std::span<float> score_gradient(int64_t sample);

  // Between forward() and backward(): an additional gradient by a sample's representation [R],
  // which the caller may fill. A batch's are zero at the first call; without a call there are none,
  // and they cost nothing. Without effect where the representation is the input.
  std::span<float> representation_gradient(int64_t sample);

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

  Activation* add_activation(int64_t height, int64_t width, int64_t channels);

  const Sequential& network_;
  int64_t batch_size_, classes_;
  std::vector<std::unique_ptr<Activation>> activations_;
  std::vector<std::unique_ptr<Stage>> stages_;
  Activation *input_ = nullptr, *scores_ = nullptr;
  LinearStage* head_ = nullptr;  // the last stage; null if the last layer is another
  int64_t samples_ = 0;          // of the batch
  std::vector<int64_t> labels_;
};

}  // namespace fl_sim
