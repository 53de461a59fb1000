// A network whose layers follow one another.
//
// A model file derives from it and lists its layers; their inputs' sizes follow from the samples'
// shape. On a CPU one client of such a network trains without autograd (sequential_pass.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "network/layers.h"
#include "network/network.h"
#include "network/sequential_pass.h"

namespace fl_sim {

class Sequential : public Network {
 public:
  using MaxPool2d = SequentialPass::MaxPool2d;
  using Relu = SequentialPass::Relu;
  using Flatten = SequentialPass::Flatten;
  using Layer = SequentialPass::Layer;

  const std::vector<Layer>& layers() const { return layers_; }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const final {
    return apply(0, layers_.size(), weights, x);
  }
  // The input of the last layer, if that is a linear one: all numbers of a sample, where the
  // network has no other layer.
  bool has_representation() const final {
    return !layers_.empty() && std::holds_alternative<Linear>(layers_.back());
  }
  torch::Tensor represent(const Weights& weights, torch::Tensor x) const final;
  torch::Tensor classify(const Weights& weights, const torch::Tensor& representation) const final;
  // The objective's, which is what the direct pass computes.
  torch::Tensor loss(const torch::Tensor& output, const torch::Tensor& labels) const final {
    return Network::loss(output, labels);
  }
  std::unique_ptr<DirectPass> direct_pass(int64_t batch_size) const final;
  std::vector<ChainLayer> chain() const final { return chain_; }

 protected:
  explicit Sequential(std::vector<int64_t> sample_shape)
      : sample_shape_(sample_shape), shape_(std::move(sample_shape)) {}

  // Each puts one more layer behind the others. Throws Error if it does not fit what comes out of
  // them.
  void conv2d(const std::string& name, int64_t out, int64_t kernel, Conv2d::Options options = {});
  void max_pool2d(int64_t size);
  void relu() { layers_.emplace_back(Relu()); }
  void linear(const std::string& name, int64_t out);  // of all numbers of a sample

 private:
  // What comes out of the layers [begin, end) for x.
  torch::Tensor apply(size_t begin, size_t end, const Weights& weights, torch::Tensor x) const;
  void check_image(const std::string& layer, int64_t window, int64_t padding) const;

  std::vector<int64_t> sample_shape_, shape_;  // of what goes into the network, of what comes out
  std::vector<Layer> layers_;
  std::vector<ChainLayer> chain_;
};

}  // namespace fl_sim
