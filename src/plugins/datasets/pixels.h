// Pixels that files give as numbers in [0, 1].
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace fl_sim {

// Collects numbers in [0, 1]: as bytes while all are multiples of 1/255, a quarter of the memory,
// and from the first other one on as float32.
class Pixels {
 public:
  // Throws Error, "WHERE: ...", for a number outside [0, 1].
  void append(std::span<const float> numbers, const std::string& where);
  bool bytes() const { return floats_.empty(); }
  int64_t size() const { return bytes() ? std::ssize(bytes_) : std::ssize(floats_); }
  void to_floats();

  // The rows `order` (of `width` numbers each) as a tensor [rows, shape...]; empties this.
  torch::Tensor take(const std::vector<int64_t>& order, const std::vector<int64_t>& shape);

 private:
  std::vector<uint8_t> bytes_;
  std::vector<float> floats_;
};

// Sets a data set's inputs and scale; both parts are of one type.
void set_inputs(Dataset& data, Pixels& train, const std::vector<int64_t>& train_order, Pixels& test,
                const std::vector<int64_t>& test_order, const std::vector<int64_t>& shape);

// 0, 1, ..., n - 1
std::vector<int64_t> file_order(int64_t n);

}  // namespace fl_sim
