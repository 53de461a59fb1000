// What models of images share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "network/layers.h"
#include "network/network.h"

namespace fl_sim {

// The shape [channels, height, width] of the data's samples. Throws Error, naming the model, unless
// they are images of at least `size` x `size`.
inline const std::vector<int64_t>& image_shape(const Network::Setup& setup, const char* model,
                                               int64_t size) {
  const std::vector<int64_t>& shape = setup.input_shape;
  FL_CHECK(shape.size() == 3 && shape[1] >= size && shape[2] >= size, "model ", model,
           " needs images [channels, height, width] of at least ", size, " x ", size,
           "; the data's samples are ", torch::IntArrayRef(shape),
           shape.size() == 1 ? " (csv.shape makes images of a table's rows, x.reshape(...) of an "
                               "array's; logistic, 2nn and mlp take rows)"
                             : "");
  return shape;
}

inline int64_t image_channels(const Network::Setup& setup, const char* model, int64_t size) {
  return image_shape(setup, model, size)[0];
}

// A convolution without bias, and the batch normalisation behind it.
class ConvNorm {
 public:
  ConvNorm(ParameterLayout& layout, const std::string& conv, const std::string& norm, int64_t in,
           int64_t out, int64_t kernel, Conv2d::Options options = {})
      : conv_(layout, conv, in, out, kernel, without_bias(options)), norm_(layout, norm, out) {}

  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const {
    return norm_(weights, conv_(weights, x));
  }

 private:
  static Conv2d::Options without_bias(Conv2d::Options options) {
    options.bias = false;
    return options;
  }

  Conv2d conv_;
  BatchNorm norm_;
};

}  // namespace fl_sim
