#include "engine/exact_sum.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <numeric>

// Each loop is compiled for several instruction sets; the arithmetic is exact, so all give the same
// bits.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FL_VECTORISED __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FL_VECTORISED
#endif

namespace fl_sim {
namespace {

constexpr double kScale = 0x1p40;
constexpr float kLimit = 2048;
constexpr double kRound = 0x1.8p52;  // adding it leaves a double's integer part in its low bits
constexpr int64_t kRoundBits = std::bit_cast<int64_t>(kRound);

FL_VECTORISED void add_exact(int64_t* sum, const float* values, int64_t n, double scaled_weight) {
  for (int64_t i = 0; i < n; ++i) {
    const double rounded = scaled_weight * static_cast<double>(values[i]) + kRound;
    sum[i] += std::bit_cast<int64_t>(rounded) - kRoundBits;
  }
}

FL_VECTORISED void divide(const int64_t* sum, double total, int64_t n, float* means) {
  for (int64_t i = 0; i < n; ++i) {
    means[i] = static_cast<float>(static_cast<double>(sum[i]) / total);
  }
}

FL_VECTORISED bool all_acceptable(const float* values, int64_t n) {
  int64_t bad = 0;
  for (int64_t i = 0; i < n; ++i) bad += std::fabs(values[i]) < kLimit ? 0 : 1;  // NaN is bad
  return bad == 0;
}

}  // namespace

std::vector<bool> acceptable(const torch::Tensor& rows) {
  std::vector<bool> result(static_cast<size_t>(rows.size(0)));
  if (rows.is_cpu() && rows.scalar_type() == torch::kFloat32 && rows.stride(1) == 1) {
    for (int64_t i = 0; i < rows.size(0); ++i) {
      result[static_cast<size_t>(i)] =
          all_acceptable(rows.data_ptr<float>() + i * rows.stride(0), rows.size(1));
    }
    return result;
  }
  const torch::Tensor good = rows.abs().lt(kLimit).all(1).cpu();
  for (int64_t i = 0; i < rows.size(0); ++i) {
    result[static_cast<size_t>(i)] = good.data_ptr<bool>()[i];
  }
  return result;
}

WeightedSum::WeightedSum(std::vector<int64_t> sizes, SumKind kind, torch::Device device,
                         int64_t models)
    : sizes_(std::move(sizes)), models_(models) {
  const int64_t others = std::accumulate(sizes_.begin() + 1, sizes_.end(), int64_t{0});
  const auto dtype = kind == SumKind::kExact ? torch::kInt64 : torch::kFloat32;
  buffer_ = torch::zeros({models_ * (sizes_[0] + 1) + others}, torch::dtype(dtype).device(device));
}

void WeightedSum::use(torch::Tensor buffer) {
  assert(buffer.sizes() == buffer_.sizes() && buffer.scalar_type() == buffer_.scalar_type());
  buffer_ = std::move(buffer);
}

void WeightedSum::clear() { buffer_.zero_(); }

void WeightedSum::add(const std::vector<torch::Tensor>& vectors, float weight, int64_t model) {
  assert(vectors.size() == sizes_.size() && model >= 0 && model < models_);
  const bool exact = buffer_.scalar_type() == torch::kInt64;
  const double scaled_weight = static_cast<double>(weight) * kScale;
  int64_t offset = model * sizes_[0];
  for (size_t i = 0; i < vectors.size(); ++i) {
    const torch::Tensor& vector = vectors[i];
    assert(vector.numel() == sizes_[i]);
    torch::Tensor target = buffer_.narrow(0, offset, sizes_[i]);
    if (!exact) {
      target.add_(vector.to(torch::kFloat32), weight);
    } else if (vector.is_cpu() && vector.scalar_type() == torch::kFloat32 &&
               vector.is_contiguous()) {
      add_exact(target.data_ptr<int64_t>(), vector.data_ptr<float>(), sizes_[i], scaled_weight);
    } else {
      target.add_(vector.to(torch::kFloat64).mul(scaled_weight).round_().to(torch::kInt64));
    }
    offset = i == 0 ? first_other() : offset + sizes_[i];
  }
  torch::Tensor total = buffer_.narrow(0, buffer_.size(0) - models_ + model, 1);
  if (exact) {
    total.add_(static_cast<int64_t>(std::llrint(scaled_weight)));
  } else {
    total.add_(weight);
  }
}

std::vector<double> WeightedSum::weights() const {
  const torch::Tensor totals =
      buffer_.narrow(0, buffer_.size(0) - models_, models_).to(torch::kFloat64).cpu();
  const double scale = buffer_.scalar_type() == torch::kInt64 ? kScale : 1;
  std::vector<double> result;
  for (int64_t m = 0; m < models_; ++m) result.push_back(totals[m].item<double>() / scale);
  return result;
}

double WeightedSum::weight() const {
  double total = 0;
  for (const double weight : weights()) total += weight;
  return total;
}

std::vector<torch::Tensor> WeightedSum::means(torch::ScalarType dtype) const {
  const torch::Tensor totals =
      buffer_.narrow(0, buffer_.size(0) - models_, models_).to(torch::kFloat64);
  const bool plain = buffer_.is_cpu() && buffer_.scalar_type() == torch::kInt64;
  const auto mean = [&](int64_t offset, int64_t size, double total) {
    torch::Tensor result = torch::empty({size}, torch::dtype(dtype).device(buffer_.device()));
    if (total == 0) return result.zero_();
    if (plain && dtype == torch::kFloat32) {
      divide(buffer_.data_ptr<int64_t>() + offset, total, size, result.data_ptr<float>());
      return result;
    }
    // By a tensor: CUDA multiplies by the reciprocal of a number instead, which has other bits.
    const torch::Tensor divisor =
        torch::full({}, total, torch::dtype(torch::kFloat64).device(buffer_.device()));
    return result.copy_(buffer_.narrow(0, offset, size).to(torch::kFloat64).div_(divisor));
  };
  std::vector<torch::Tensor> result;
  if (models_ == 1) {
    result.push_back(mean(0, sizes_[0], totals[0].item<double>()).unsqueeze(0));
  } else {
    std::vector<torch::Tensor> rows;
    for (int64_t m = 0; m < models_; ++m)
      rows.push_back(mean(m * sizes_[0], sizes_[0], totals[m].item<double>()));
    result.push_back(torch::stack(rows));
  }
  int64_t offset = first_other();
  const double all = totals.sum().item<double>();
  for (size_t i = 1; i < sizes_.size(); ++i) {
    result.push_back(mean(offset, sizes_[i], all));
    offset += sizes_[i];
  }
  return result;
}

}  // namespace fl_sim
