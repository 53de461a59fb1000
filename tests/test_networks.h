// Small networks and data for tests of layers and local training. Inputs are [features] unless said
// otherwise.
#pragma once

#include <torch/torch.h>

#include <utility>
#include <vector>

#include "commands/selftest/networks.h"
#include "data/dataset.h"
#include "network/layers.h"
#include "network/network.h"

namespace fl_sim {

using selftest::NormalisedLinear;

// features -> hidden -> classes, with tanh, which has no kinks.
class SmallMlp final : public Network {
 public:
  SmallMlp(int64_t features, int64_t hidden, int64_t classes)
      : fc1_(layout_, "fc1", features, hidden), fc2_(layout_, "fc2", hidden, classes) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc2_(weights, torch::tanh(fc1_(weights, x)));
  }

 private:
  Linear fc1_, fc2_;
};

// Two hidden layers with batch normalisation and, behind them, dropout.
class NormDropoutMlp final : public Network {
 public:
  NormDropoutMlp(int64_t features, int64_t hidden, int64_t classes, double dropout)
      : fc1_(layout_, "fc1", features, hidden),
        norm1_(layout_, "norm1", hidden),
        fc2_(layout_, "fc2", hidden, hidden),
        norm2_(layout_, "norm2", hidden),
        dropout_(dropout),
        fc3_(layout_, "fc3", hidden, classes) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = torch::tanh(norm1_(weights, fc1_(weights, x)));
    x = torch::tanh(norm2_(weights, fc2_(weights, x)));
    return fc3_(weights, dropout_(weights, x));
  }

 private:
  Linear fc1_;
  BatchNorm norm1_;
  Linear fc2_;
  BatchNorm norm2_;
  Dropout dropout_;
  Linear fc3_;
};

// Two convolutions with padding and stride, group normalisation, pooling; inputs are [channels, 8,
// 8].
class SmallConvNet final : public Network {
 public:
  SmallConvNet(int64_t channels, int64_t classes)
      : conv1_(layout_, "conv1", channels, 4, 3, {.padding = 1}),
        norm_(layout_, "norm", 2, 4),
        conv2_(layout_, "conv2", 4, 6, 3, {.stride = 2, .padding = 1, .bias = false}),
        fc_(layout_, "fc", 6 * 2 * 2, classes) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = torch::avg_pool2d(torch::tanh(norm_(weights, conv1_(weights, x))), 2);
    return fc_(weights, torch::tanh(conv2_(weights, x)).flatten(1));
  }

 private:
  Conv2d conv1_;
  GroupNorm norm_;
  Conv2d conv2_;
  Linear fc_;
};

// n samples of `shape` with values of a normal distribution and labels in [0, classes), the same
// for one seed.
inline Samples random_samples(int64_t n, const std::vector<int64_t>& shape, int64_t classes,
                              uint64_t seed = 1) {
  torch::Generator generator = torch::make_generator<torch::CPUGeneratorImpl>(seed);
  std::vector<int64_t> sizes = {n};
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  return {torch::randn(sizes, generator), torch::randint(classes, {n}, generator, torch::kInt64)};
}

// Lists of `sizes` consecutive samples each.
inline std::vector<std::vector<int64_t>> consecutive(const std::vector<int64_t>& sizes) {
  std::vector<std::vector<int64_t>> lists;
  int64_t next = 0;
  for (const int64_t size : sizes) {
    lists.emplace_back();
    for (int64_t i = 0; i < size; ++i) lists.back().push_back(next++);
  }
  return lists;
}

}  // namespace fl_sim
