// How a network's parameters lie in one flat row: trainable ones first, then floating-point buffers
// such as running statistics. Offsets and the row's length are multiples of 16 elements; the gaps
// hold zeros and stay zero.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"

namespace fl_sim {

struct Parameter {
  std::string name;  // PyTorch's state_dict name, "conv1.weight"
  std::vector<int64_t> shape;
  bool trainable = true;       // false: a buffer
  bool normalisation = false;  // of a normalising layer: scale, shift, running statistics
  double initial = 0;          // uniform in [initial - spread, initial + spread]
  double spread = 0;
  int64_t size = 0;    // elements
  int64_t offset = 0;  // within the trainable part, or within the buffers
};

class ParameterLayout {
 public:
  // Each returns the index of the new parameter.
  int64_t add(std::string name, std::vector<int64_t> shape, double initial, double spread = 0);
  int64_t add_buffer(std::string name, std::vector<int64_t> shape, double initial);

  // Says that a parameter belongs to a normalising layer.
  void mark_normalisation(int64_t index) {
    parameters_.at(static_cast<size_t>(index)).normalisation = true;
  }

  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t offset(int64_t index) const;              // elements from the row's start
  int64_t trainable() const { return trainable_; }  // length of the trainable part, gaps included
  int64_t row() const { return trainable_ + buffers_; }  // length of a row
  int64_t count() const;                                 // trainable numbers, without gaps

  // One parameter within rows [G, row()]: a view [G, shape...].
  torch::Tensor view(const torch::Tensor& rows, int64_t index) const;

  // A row [row()] float32 of initial values; random ones are drawn parameter by parameter from
  // `rng`.
  torch::Tensor initial_row(Rng& rng) const;

 private:
  int64_t append(Parameter parameter, int64_t& part);

  std::vector<Parameter> parameters_;
  int64_t trainable_ = 0, buffers_ = 0;
};

}  // namespace fl_sim
