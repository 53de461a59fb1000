// Layers that see one client or a stack of them (see network.h). A layer's constructor appends its
// parameters to the layout; its call operator is a pure function, but for the running statistics of
// batch normalisation, which lie in the rows. Initial values are PyTorch's.
//
// Element-wise and pooling functions need no layer: torch::relu(x), torch::max_pool2d(x, 2),
// x.mean({2, 3}), x.flatten(1) are right for stacks as they are. What mixes a client's channels has
// a function of its own below. Sequences of T positions lie [B, G·T, width], client by client.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "network/parameter_layout.h"
#include "network/weights.h"

namespace fl_sim {

// x [B, G·in] -> [B, G·out], or at each position of sequences, [B, G·T, in] -> [B, G·T, out].
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
    // Of one client's channels: each group of outputs sees its group of inputs only. `in` of them
    // make a depthwise convolution.
    int64_t groups = 1;
    bool bias = true;
    // Initial values for deep networks without normalisation: weights of variance 2 / (out / groups
    // · kernel²), biases 0 (He et al., ICCV 2015, section 2.2, the backward case).
    bool he_initial = false;
    // How what comes out lies in a CPU's memory for one client in float32: pooling behind it is
    // several times faster so, group normalisation slower (a quarter of a ResNet's time).
    bool channels_last = true;
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
  // [out, in / groups, kernel, kernel], an index of the layout
  int64_t weight() const { return weight_; }
  int64_t bias() const { return bias_; }  // [out], or -1

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

// Codes x [B, G·T], whole numbers in [0, codes) of any type -> their rows of the client's table,
// [B, G·T, width]. Throws Error for other numbers. Initial values have PyTorch's mean 0 and
// variance 1, but are uniform.
class Embedding {
 public:
  Embedding(ParameterLayout& layout, const std::string& name, int64_t codes, int64_t width);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

 private:
  std::string name_;
  int64_t codes_, width_, weight_;
};

// Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000), one layer or several on
// top of each other: x [B, G·T, in] -> the last layer's hidden states at each position, [B, G·T,
// hidden]. Both states start at 0. Names, shapes and the order of the gates (input, forget, cell,
// output) are PyTorch's.
class Lstm {
 public:
  Lstm(ParameterLayout& layout, const std::string& name, int64_t in, int64_t hidden,
       int64_t layers = 1);
  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const;

  // The hidden states behind the last position, from those at each: [B, G·T, hidden] -> [B,
  // G·hidden].
  static torch::Tensor last(const Weights& weights, const torch::Tensor& states);

 private:
  struct Layer {
    int64_t weight_ih, weight_hh, bias_ih,
        bias_hh;  // [4·hidden, in], [4·hidden, hidden], [4·hidden]
  };
  torch::Tensor stacked(const Weights& weights, const Layer& layer, const torch::Tensor& x) const;

  int64_t hidden_;
  std::vector<Layer> layers_;
};

// Functions of a client's channels, which lie in the second dimension.

// [B, G·C1, ...] and [B, G·C2, ...] -> [B, G·(C1 + C2), ...].
torch::Tensor join_channels(const Weights& weights, const torch::Tensor& first,
                            const torch::Tensor& second);
// [B, G·C, ...] -> the first half of each client's channels and the second, [B, G·C/2, ...].
std::pair<torch::Tensor, torch::Tensor> halve_channels(const Weights& weights,
                                                       const torch::Tensor& x);
// Channel j of group i becomes channel i of group j: [B, G·C, ...], C a multiple of `groups` (Zhang
// et al., ShuffleNet, CVPR 2018).
torch::Tensor shuffle_channels(const Weights& weights, const torch::Tensor& x, int64_t groups);
// Channels of zeros before and behind each client's: [B, G·C, H, W] -> [B, G·(before + C + after),
// H, W].
torch::Tensor pad_channels(const Weights& weights, const torch::Tensor& x, int64_t before,
                           int64_t after);

}  // namespace fl_sim
