#include "dataset.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace fl_sim {
namespace {

void check_samples(const Samples& samples, int64_t classes, const std::string& where) {
  FL_CHECK(samples.inputs.defined() && samples.labels.defined() && samples.labels.dim() == 1 &&
               samples.inputs.dim() >= 1 && samples.inputs.size(0) == samples.labels.size(0),
           where, ": inputs and labels differ in number (",
           samples.inputs.defined() && samples.inputs.dim() > 0 ? samples.inputs.size(0) : 0,
           " inputs, ", samples.labels.defined() ? samples.labels.numel() : 0, " labels)");
  FL_CHECK(samples.inputs.numel() > 0, where, ": there are no samples (at least one is needed)");
  const auto type = samples.inputs.scalar_type();
  FL_CHECK(type == torch::kUInt8 || type == torch::kFloat32, where, ": inputs are of type ", type,
           " (must be uint8 or float32)");
  FL_CHECK(samples.labels.scalar_type() == torch::kInt64, where, ": labels are of type ",
           samples.labels.scalar_type(), " (must be int64)");
  const int64_t low = samples.labels.min().item<int64_t>();
  const int64_t high = samples.labels.max().item<int64_t>();
  FL_CHECK(low >= 0 && high < classes, where, ": label ", low < 0 ? low : high,
           " occurs (labels must be 0 to ", classes - 1, ")");
  if (type != torch::kFloat32) return;
  const torch::Tensor broken =
      torch::isfinite(samples.inputs).reshape({samples.size(), -1}).all(1).logical_not().nonzero();
  FL_CHECK(broken.size(0) == 0, where, ": the inputs of ", broken.size(0),
           " samples are NaN or infinite, the first is sample ", broken[0].item<int64_t>());
}

}  // namespace

void check_dataset(const Dataset& data, const std::string& name) {
  FL_CHECK(data.classes >= 1, name, ": classes is ", data.classes, " (must be at least 1)");
  check_samples(data.train, data.classes, name + ", training set");
  check_samples(data.test, data.classes, name + ", test set");
  FL_CHECK(data.train.sample_shape() == data.test.sample_shape(), name, ": training samples are ",
           torch::IntArrayRef(data.train.sample_shape()), ", test samples ",
           torch::IntArrayRef(data.test.sample_shape()), " (they must have one shape)");
  FL_CHECK(std::isfinite(data.scale) && std::isfinite(data.shift) && data.scale != 0, name,
           ": scale is ", data.scale, ", shift is ", data.shift, " (must be finite, scale not 0)");
  if (data.owner.empty()) return;

  FL_CHECK(static_cast<int64_t>(data.owner.size()) == data.train.size(), name, ": ",
           data.owner.size(), " owners for ", data.train.size(),
           " training samples (must be as many, or none)");
  const auto [low, high] = std::minmax_element(data.owner.begin(), data.owner.end());
  FL_CHECK(*low >= 0 && *high < data.train.size(), name, ": owner ", *low < 0 ? *low : *high,
           " occurs (owners are numbered 0, 1, ... and each has a training sample)");
  std::vector<bool> seen(*high + 1);
  for (const int64_t owner : data.owner) seen[owner] = true;
  const auto gap = std::find(seen.begin(), seen.end(), false);
  FL_CHECK(gap == seen.end(), name, ": owner ", gap - seen.begin(), " of ", seen.size(),
           " has no training sample (owners are numbered 0, 1, ... without gaps)");
}

torch::Tensor sample_labels(const Samples& samples) {
  if (samples.labels.dim() == 1) return samples.labels.contiguous();
  const torch::Tensor first = samples.labels.ne(Samples::kIgnored).to(torch::kInt64).argmax(1);
  return samples.labels.gather(1, first.unsqueeze(1)).squeeze(1).clamp_min(0).contiguous();
}

torch::Tensor fetch_inputs(const Samples& samples, const torch::Tensor& indices, double scale,
                           double shift, torch::ScalarType dtype) {
  torch::Tensor inputs =
      samples.inputs.index_select(0, indices.to(samples.inputs.device())).to(dtype);
  if (scale != 1) inputs.mul_(scale);  // in place: index_select made a copy
  if (shift != 0) inputs.add_(shift);
  return inputs;
}

}  // namespace fl_sim
