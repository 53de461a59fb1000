#include "plugins/datasets/pixels.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

template <class Value>
torch::Tensor gather(std::vector<Value>& values, const std::vector<int64_t>& order, int64_t width,
                     const std::vector<int64_t>& shape) {
  bool sorted = std::ssize(order) * width == std::ssize(values);
  for (size_t i = 0; i < order.size() && sorted; ++i) sorted = order[i] == static_cast<int64_t>(i);
  if (sorted) return to_tensor(std::move(values), shape);
  std::vector<Value> out(order.size() * static_cast<size_t>(width));
  for (size_t i = 0; i < order.size(); ++i) {
    std::memcpy(out.data() + i * static_cast<size_t>(width), values.data() + order[i] * width,
                static_cast<size_t>(width) * sizeof(Value));
  }
  values = {};
  return to_tensor(std::move(out), shape);
}

}  // namespace

void Pixels::append(std::span<const float> numbers, const std::string& where) {
  constexpr float kTolerance = 1e-3f;  // of a step of 1/255
  for (const float number : numbers) {
    FL_CHECK(number >= 0 && number <= 1, where, ": a pixel is ", number, " (must be 0 to 1)");
    if (floats_.empty()) {
      const float step = std::round(number * 255);
      if (std::abs(number * 255 - step) <= kTolerance) {
        bytes_.push_back(static_cast<uint8_t>(step));
        continue;
      }
      to_floats();
    }
    floats_.push_back(number);
  }
}

void Pixels::to_floats() {
  if (!floats_.empty()) return;
  floats_.reserve(bytes_.size() + 1);
  for (const uint8_t byte : bytes_) floats_.push_back(static_cast<float>(byte) / 255);
  bytes_ = {};
}

torch::Tensor Pixels::take(const std::vector<int64_t>& order, const std::vector<int64_t>& shape) {
  const int64_t width =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<int64_t> sizes = {std::ssize(order)};
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  return bytes() ? gather(bytes_, order, width, sizes) : gather(floats_, order, width, sizes);
}

void set_inputs(Dataset& data, Pixels& train, const std::vector<int64_t>& train_order, Pixels& test,
                const std::vector<int64_t>& test_order, const std::vector<int64_t>& shape) {
  const bool bytes = train.bytes() && test.bytes();
  if (!bytes) {
    train.to_floats();
    test.to_floats();
  }
  data.scale = bytes ? 1.0 / 255 : 1;
  data.train.inputs = train.take(train_order, shape);
  data.test.inputs = test.take(test_order, shape);
}

std::vector<int64_t> file_order(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

}  // namespace fl_sim
