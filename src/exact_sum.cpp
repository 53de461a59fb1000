#include "exact_sum.h"

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

WeightedSum::WeightedSum(std::vector<int64_t> sizes, SumKind kind, torch::Device device)
    : sizes_(std::move(sizes)) {
  const int64_t total = std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0});
  const auto dtype = kind == SumKind::kExact ? torch::kInt64 : torch::kFloat32;
  buffer_ = torch::zeros({total + 1}, torch::dtype(dtype).device(device));
}

void WeightedSum::use(torch::Tensor buffer) {
  assert(buffer.sizes() == buffer_.sizes() && buffer.scalar_type() == buffer_.scalar_type());
  buffer_ = std::move(buffer);
}

void WeightedSum::clear() { buffer_.zero_(); }

void WeightedSum::add(const std::vector<torch::Tensor>& vectors, float weight) {
  assert(vectors.size() == sizes_.size());
  const bool exact = buffer_.scalar_type() == torch::kInt64;
  const double scaled_weight = static_cast<double>(weight) * kScale;
  int64_t offset = 0;
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
      target.add_(vector.to(torch::kFloat64).mul_(scaled_weight).round_().to(torch::kInt64));
    }
    offset += sizes_[i];
  }
  torch::Tensor total = buffer_.narrow(0, offset, 1);
  if (exact) {
    total.add_(static_cast<int64_t>(std::llrint(scaled_weight)));
  } else {
    total.add_(weight);
  }
}

double WeightedSum::weight() const {
  const torch::Tensor total = buffer_.narrow(0, buffer_.size(0) - 1, 1).to(torch::kFloat64).cpu();
  return total.item<double>() / (buffer_.scalar_type() == torch::kInt64 ? kScale : 1);
}

std::vector<torch::Tensor> WeightedSum::means(torch::ScalarType dtype) const {
  const double total = buffer_.narrow(0, buffer_.size(0) - 1, 1).to(torch::kFloat64).item<double>();
  std::vector<torch::Tensor> result;
  int64_t offset = 0;
  const bool plain = buffer_.is_cpu() && buffer_.scalar_type() == torch::kInt64;
  for (const int64_t size : sizes_) {
    if (plain && dtype == torch::kFloat32) {
      result.push_back(torch::empty({size}, dtype));
      divide(buffer_.data_ptr<int64_t>() + offset, total, size, result.back().data_ptr<float>());
      offset += size;
      continue;
    }
    result.push_back(buffer_.narrow(0, offset, size).to(torch::kFloat64).div_(total).to(dtype));
    offset += size;
  }
  return result;
}

}  // namespace fl_sim
