#include "network/parameter_layout.h"

#include "base/check.h"

namespace fl_sim {

int64_t ParameterLayout::append(Parameter parameter, int64_t& part) {
  for (const Parameter& other : parameters_) {
    FL_CHECK(other.name != parameter.name, "two parameters are named ", parameter.name);
  }
  parameter.size = 1;
  for (const int64_t extent : parameter.shape) parameter.size *= extent;
  parameter.offset = part;
  part += (parameter.size + 15) / 16 * 16;
  parameters_.push_back(std::move(parameter));
  return static_cast<int64_t>(parameters_.size()) - 1;
}

int64_t ParameterLayout::add(std::string name, std::vector<int64_t> shape, double initial,
                             double spread) {
  return append(
      {.name = std::move(name), .shape = std::move(shape), .initial = initial, .spread = spread},
      trainable_);
}

int64_t ParameterLayout::add_buffer(std::string name, std::vector<int64_t> shape, double initial) {
  return append(
      {.name = std::move(name), .shape = std::move(shape), .trainable = false, .initial = initial},
      buffers_);
}

int64_t ParameterLayout::offset(int64_t index) const {
  const Parameter& parameter = parameters_.at(static_cast<size_t>(index));
  return parameter.offset + (parameter.trainable ? 0 : trainable_);
}

int64_t ParameterLayout::count() const {
  int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.trainable ? parameter.size : 0;
  return total;
}

torch::Tensor ParameterLayout::view(const torch::Tensor& rows, int64_t index) const {
  const Parameter& parameter = parameters_.at(static_cast<size_t>(index));
  std::vector<int64_t> shape = {rows.size(0)};
  shape.insert(shape.end(), parameter.shape.begin(), parameter.shape.end());
  return rows.narrow(1, offset(index), parameter.size).view(shape);
}

torch::Tensor ParameterLayout::initial_row(Rng& rng) const {
  torch::Tensor row = torch::zeros({this->row()}, torch::kFloat32);
  float* values = row.data_ptr<float>();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    float* out = values + offset(static_cast<int64_t>(i));
    for (int64_t j = 0; j < parameter.size; ++j) {
      const double u = parameter.spread == 0 ? 0 : 2 * rng.uniform() - 1;
      out[j] = static_cast<float>(parameter.initial + parameter.spread * u);
    }
  }
  return row;
}

}  // namespace fl_sim
