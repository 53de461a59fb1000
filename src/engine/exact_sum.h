// The weighted sum of clients' vectors, with the same bits for every order and every number of
// ranks.
//
// Floats are added in an associative ring: p·x is rounded to a multiple of 2^-40 and added as a
// 64-bit integer. A float weight times a float value is exact in double precision, so the rounding
// is the only one, and it is the same on every machine. A value must be finite and below 2048 in
// magnitude; with weights that sum to at most 1 no sum of such vectors overflows, whatever the
// number of clients. The resolution is 9e-13.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace fl_sim {

enum class SumKind { kExact, kFloat };

// Which of the rows [G, n] may be summed: every value finite and |x| < 2048. G booleans, on the
// CPU.
std::vector<bool> acceptable(const torch::Tensor& rows);

class WeightedSum {
 public:
  // Room for one sum of vectors of these sizes, on `device`. kFloat is the plain sum in float32,
  // whose bits depend on the order of additions. The first vector belongs to one of `models`, and
  // is summed for each of them apart; the others are summed over all.
  WeightedSum(std::vector<int64_t> sizes, SumKind kind, torch::Device device, int64_t models = 1);

  // Adds up in `buffer` from now on: zeros of buffer()'s size and type, elsewhere in memory.
  void use(torch::Tensor buffer);

  void clear();

  // Adds weight·v for each of a client's vectors (float32, or float64 in tests), which must be
  // acceptable, and counts the weight.
  void add(const std::vector<torch::Tensor>& vectors, float weight, int64_t model = 0);

  // Adds another sum of such vectors.
  void add(const WeightedSum& other) { buffer_.add_(other.buffer_); }

  // What travels: element by element addition of two buffers adds the sums. [total size + models],
  // int64 or float32.
  torch::Tensor& buffer() { return buffer_; }

  // The sum of the weights, of each model and of all; 0 if nothing was added.
  std::vector<double> weights() const;
  double weight() const;

  // The weighted means, sum / weight, of type `dtype`: [models, size] of the first vectors, 0 for a
  // model without any, and one [size] vector for each of the other sizes.
  std::vector<torch::Tensor> means(torch::ScalarType dtype) const;

 private:
  int64_t first_other() const { return models_ * sizes_[0]; }

  std::vector<int64_t> sizes_;
  int64_t models_;
  torch::Tensor buffer_;  // the models' vectors, the other ones, the models' weights
};

}  // namespace fl_sim
