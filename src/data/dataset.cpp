#include "data/dataset.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace fl_sim {
namespace {

void check_samples(const Samples& samples, int64_t classes, const std::string& where) {
  const auto rows = [](const torch::Tensor& t) {
    return t.defined() && t.dim() > 0 ? t.size(0) : int64_t{0};
  };
  FL_CHECK(samples.inputs.defined() && samples.labels.defined() && samples.labels.dim() >= 1 &&
               samples.inputs.dim() >= 1 && samples.inputs.size(0) == samples.labels.size(0),
           where, ": inputs and labels differ in number (", rows(samples.inputs), " inputs, ",
           rows(samples.labels), " labels)");
  FL_CHECK(samples.labels.dim() <= 2, where, ": labels are ", samples.labels.sizes(),
           " (must be one a sample, or one a position of each sample's sequence)");
  FL_CHECK(samples.inputs.numel() > 0, where, ": there are no samples (at least one is needed)");
  const auto type = samples.inputs.scalar_type();
  FL_CHECK(type == torch::kUInt8 || type == torch::kFloat32, where, ": inputs are of type ", type,
           " (must be uint8 or float32)");
  FL_CHECK(samples.labels.scalar_type() == torch::kInt64, where, ": labels are of type ",
           samples.labels.scalar_type(), " (must be int64)");
  FL_CHECK(samples.labels.numel() > 0, where, ": sequences have no positions");
  const bool sequences = samples.labels.dim() == 2;
  const int64_t low = samples.labels.min().item<int64_t>();
  const int64_t high = samples.labels.max().item<int64_t>();
  FL_CHECK(
      low >= (sequences ? Samples::kIgnored : 0) && high < classes, where, ": label ",
      high >= classes ? high : low, " occurs (labels must be 0 to ", classes - 1,
      sequences ? message(", or ", Samples::kIgnored, " where there is nothing to predict)") : ")");
  if (sequences) {
    const torch::Tensor idle = (samples.labels < 0).all(1).nonzero();
    FL_CHECK(idle.size(0) == 0, where, ": ", idle.size(0),
             " samples have nothing to predict at any position, the first is sample ",
             idle[0].item<int64_t>());
  }
  if (type != torch::kFloat32) return;
  const torch::Tensor broken =
      torch::isfinite(samples.inputs).reshape({samples.size(), -1}).all(1).logical_not().nonzero();
  FL_CHECK(broken.size(0) == 0, where, ": the inputs of ", broken.size(0),
           " samples are NaN or infinite, the first is sample ", broken[0].item<int64_t>());
}

// What there is one of for each training sample: 0, 1, ... without gaps, or nothing at all.
void check_numbering(const std::vector<int64_t>& numbers, const std::string& what, int64_t samples,
                     const std::string& name) {
  if (numbers.empty()) return;
  FL_CHECK(std::ssize(numbers) == samples, name, ": ", numbers.size(), " ", what,
           what == "owner" ? "s" : "es", " for ", samples,
           " training samples (must be as many, or none)");
  const auto [low, high] = std::minmax_element(numbers.begin(), numbers.end());
  FL_CHECK(*low >= 0 && *high < samples, name, ": ", what, " ", *low < 0 ? *low : *high,
           " occurs (they are numbered 0, 1, ... and each has a training sample)");
  std::vector<bool> seen(static_cast<size_t>(*high) + 1);
  for (const int64_t number : numbers) seen[static_cast<size_t>(number)] = true;
  const auto gap = std::find(seen.begin(), seen.end(), false);
  FL_CHECK(gap == seen.end(), name, ": ", what, " ", gap - seen.begin(), " of ", seen.size(),
           " has no training sample (they are numbered 0, 1, ... without gaps)");
}

// Whose the test samples are: owners of training samples, or nobody's.
void check_test_owners(const Dataset& data, const std::string& name) {
  if (data.test_owner.empty()) return;
  FL_CHECK(std::ssize(data.test_owner) == data.test.size(), name, ": ", data.test_owner.size(),
           " owners for ", data.test.size(), " test samples (must be as many, or none)");
  const int64_t owners =
      data.owner.empty() ? 0 : 1 + *std::max_element(data.owner.begin(), data.owner.end());
  for (const int64_t owner : data.test_owner) {
    FL_CHECK(owner >= -1 && owner < owners, name, ": owner ", owner,
             " of a test sample has no training sample (such are -1)");
  }
}

void check_values(const Dataset& data, const std::string& name) {
  FL_CHECK(data.values.empty() || std::ssize(data.values) == data.classes, name, ": ",
           data.values.size(), " values for ", data.classes,
           " classes (must be one each, or none)");
  for (size_t i = 0; i < data.values.size(); ++i) {
    FL_CHECK(std::isfinite(data.values[i]) && (i == 0 || data.values[i - 1] < data.values[i]), name,
             ": value ", i, " is ", data.values[i],
             i == 0 ? "" : message(", after ", data.values[i - 1]),
             " (values must be finite and ascend)");
  }
  FL_CHECK(data.class_names.empty() || std::ssize(data.class_names) == data.classes, name, ": ",
           data.class_names.size(), " names for ", data.classes,
           " classes (must be one each, or none)");
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
  FL_CHECK(data.train.labels.dim() == data.test.labels.dim() &&
               data.train.positions() == data.test.positions(),
           name, ": training samples have labels at ", data.train.positions(),
           " positions, test samples at ", data.test.positions(), " (must be as many)");
  check_numbering(data.owner, "owner", data.train.size(), name);
  check_numbering(data.coarse, "coarse class", data.train.size(), name);
  check_test_owners(data, name);
  check_values(data, name);
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
