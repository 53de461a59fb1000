// Layers that see one client or a stack of them (see network.h). A layer's constructor appends its
// parameters to the layout; its call operator is a pure function, but for the running statistics of
// batch normalisation, which lie in the rows. Initial values are PyTorch's.
//
// Element-wise and pooling functions need no layer: torch::relu(x), torch::max_pool2d(x, 2),
// x.flatten(1) are right for stacks as they are.
#pragma once

#include <torch/types.h>

#include <string>

#include "network.h"

namespace fl_sim {

// x [B, G·in] -> [B, G·out].
class Linear {
 public:
  Linear(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t weight() const { return weight_; }  // [out, in], an index of the layout
  int64_t bias() const { return bias_; }      // [out]

 private:
  int64_t in_, out_, weight_, bias_;
};

// x [B, G·in, H, W] -> [B, G·out, H', W'].
class Conv2d {
 public:
  struct Options {
    int64_t stride = 1, padding = 0;
    bool bias = true;
  };
  Conv2d(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out, int64_t kernel,
         Options options);
  Conv2d(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out, int64_t kernel)
      : Conv2d(layout, name, in, out, kernel, Options()) {}
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t kernel() const { return kernel_; }
  const Options& options() const { return options_; }
  int64_t weight() const { return weight_; }  // [out, in, kernel, kernel], an index of the layout
  int64_t bias() const { return bias_; }      // [out], or -1

 private:
  int64_t in_, out_, kernel_;
  Options options_;
  int64_t weight_, bias_ = -1;
};

// x [B, G·channels, ...], each sample's channels normalised in `groups` groups (Wu & He 2018).
class GroupNorm {
 public:
  GroupNorm(ParameterLayout& layout, const std::string& name, int64_t groups, int64_t channels);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

 private:
  int64_t groups_, weight_, bias_;
};

// x [B, G·channels, ...], normalised over each client's real samples in the batch (Ioffe & Szegedy
// 2015). Training updates running_mean and running_var (unbiased, momentum 0.1) in the rows;
// evaluation uses them. A client with one value per channel in a batch gets that batch normalised
// by its running statistics, which then stay as they are.
class BatchNorm {
 public:
  BatchNorm(ParameterLayout& layout, const std::string& name, int64_t channels);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

 private:
  int64_t channels_, weight_, bias_, mean_, var_;
};

// Zeroes each element with probability p while training and scales the others by 1/(1 - p)
// (Srivastava et al. 2014). Masks come from each client's own stream, for its real samples, so they
// are the same in every stack.
class Dropout {
 public:
  explicit Dropout(double p);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

 private:
  double p_;
};

}  // namespace fl_sim
