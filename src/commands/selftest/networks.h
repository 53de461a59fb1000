// Small networks for checks and unit tests.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "network/layers.h"
#include "network/network.h"

namespace fl_sim::selftest {

// Batch normalisation of the inputs, then a linear layer.
class NormalisedLinear final : public Network {
 public:
  NormalisedLinear(int64_t features, int64_t classes)
      : norm_(layout_, "norm", features), fc_(layout_, "fc", features, classes) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc_(weights, norm_(weights, x));
  }

 private:
  BatchNorm norm_;
  Linear fc_;
};

}  // namespace fl_sim::selftest
