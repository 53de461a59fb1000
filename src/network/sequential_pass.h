// The direct pass of layers that follow one another.
//
// Images lie [height, width, channels] in it, weights as everywhere in the client's row.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "data/dataset.h"
#include "network/direct_pass.h"
#include "network/layers.h"
#include "network/network.h"

namespace fl_sim {

class SequentialPass final : public DirectPass {
 public:
  struct MaxPool2d {
    int64_t size;  // of the windows, and how far they lie apart
  };
  struct Relu {};
  struct Flatten {};
  using Layer = std::variant<Linear, Conv2d, MaxPool2d, Relu, Flatten>;

  // For samples of that shape, in batches of up to `batch_size`. The network, which has the
  // objective, and its layers must outlive the pass.
  SequentialPass(const Network& network, const std::vector<Layer>& layers,
                 const std::vector<int64_t>& sample_shape, int64_t batch_size);
  ~SequentialPass() override;

  void load(const Samples& samples, std::span<const int64_t> indices, double scale,
            double shift) override;
  int64_t batch() const override { return samples_; }
  int64_t label(int64_t sample) const override { return labels_[static_cast<size_t>(sample)]; }
  void forward(const float* row) override;
  std::span<const float> scores(int64_t sample) const override;
  std::span<const float> representation(int64_t sample) const override;
  int64_t representation_size() const override;
  double loss() override;
  double sample_loss(int64_t sample) const override;
  std::span<float> score_gradient(int64_t sample) override;
  std::span<float> representation_gradient(int64_t sample) override;
  void backward(const float* row, const GradientTarget& target) override;

 private:
  struct Activation;
  struct Stage;
  struct ConvStage;
  struct PoolStage;
  struct ReluStage;
  struct FlattenStage;
  struct LinearStage;

  Activation* add_activation(int64_t height, int64_t width, int64_t channels);

  const Network& network_;
  int64_t batch_size_, classes_;
  std::vector<std::unique_ptr<Activation>> activations_;
  std::vector<std::unique_ptr<Stage>> stages_;
  Activation *input_ = nullptr, *scores_ = nullptr;
  LinearStage* head_ = nullptr;  // the last stage; null if the last layer is another
  int64_t samples_ = 0;          // of the batch
  std::vector<int64_t> labels_;
};

}  // namespace fl_sim
