#include "network/sequential.h"

#include <algorithm>

#include "base/check.h"

namespace fl_sim {
namespace {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <class... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;  // clang before 17 wants to be told

}  // namespace

void Sequential::check_image(const std::string& layer, int64_t window, int64_t padding) const {
  FL_CHECK(shape_.size() == 3, layer, " needs images [channels, height, width], but gets samples ",
           torch::IntArrayRef(shape_));
  FL_CHECK(window >= 1, layer, ": its windows are ", window, " wide (must be at least 1)");
  FL_CHECK(window <= std::min(shape_[1], shape_[2]) + 2 * padding, layer, ": its windows of ",
           window, " x ", window, " do not fit images of shape ", torch::IntArrayRef(shape_));
}

void Sequential::conv2d(const std::string& name, int64_t out, int64_t kernel,
                        Conv2d::Options options) {
  check_image(name, kernel, options.padding);
  FL_CHECK(options.stride >= 1, name, ": stride is ", options.stride, " (must be at least 1)");
  FL_CHECK(options.groups == 1, name, ": a sequential network has no convolutions in ",
           options.groups, " groups; derive from Network for one");
  const Conv2d layer(layout_, name, shape_[0], out, kernel, options);
  layers_.emplace_back(layer);
  const auto after = [&](int64_t size) {
    return (size + 2 * options.padding - kernel) / options.stride + 1;
  };
  shape_ = std::vector<int64_t>{out, after(shape_[1]), after(shape_[2])};
  chain_.push_back({layer.weight(), layer.bias(), shape_[1] * shape_[2]});
}

void Sequential::max_pool2d(int64_t size) {
  check_image("max pooling", size, 0);
  layers_.emplace_back(MaxPool2d{size});
  for (const size_t side : {1, 2}) shape_[side] /= size;
}

void Sequential::linear(const std::string& name, int64_t out) {
  const int64_t in = c10::multiply_integers(shape_);
  if (shape_.size() > 1) layers_.emplace_back(Flatten());
  const Linear layer(layout_, name, in, out);
  layers_.emplace_back(layer);
  chain_.push_back({layer.weight(), layer.bias(), 1});
  shape_ = {out};
}

torch::Tensor Sequential::apply(size_t begin, size_t end, const Weights& weights,
                                torch::Tensor x) const {
  for (size_t i = begin; i < end; ++i) {
    x = std::visit(Overloaded{
                       [&](const Linear& linear) { return linear(weights, x); },
                       [&](const Conv2d& conv) { return conv(weights, x); },
                       [&](const MaxPool2d& pool) { return torch::max_pool2d(x, pool.size); },
                       [&](const Relu&) { return torch::relu(x); },
                       [&](const Flatten&) { return x.flatten(1); },
                   },
                   layers_[i]);
  }
  return x;
}

torch::Tensor Sequential::represent(const Weights& weights, torch::Tensor x) const {
  if (!has_representation()) return Network::represent(weights, x);
  return apply(0, layers_.size() - 1, weights, x);
}

torch::Tensor Sequential::classify(const Weights& weights,
                                   const torch::Tensor& representation) const {
  if (!has_representation()) return Network::classify(weights, representation);
  return apply(layers_.size() - 1, layers_.size(), weights, representation);
}

std::unique_ptr<DirectPass> Sequential::direct_pass(int64_t batch_size) const {
  return std::make_unique<SequentialPass>(*this, layers_, sample_shape_, batch_size);
}

}  // namespace fl_sim
