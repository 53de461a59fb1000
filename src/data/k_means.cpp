#include "data/k_means.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace fl_sim {
namespace {

constexpr int64_t kChunk = 512;  // rows converted to double at a time

// Calls use(row, number) for all rows [d] of the inputs, in their order.
template <class Use>
void for_each_row(const torch::Tensor& inputs, const Use& use) {
  const torch::Tensor rows = inputs.reshape({inputs.size(0), -1});
  const int64_t n = rows.size(0), d = rows.size(1);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const torch::Tensor chunk =
        rows.narrow(0, begin, std::min(kChunk, n - begin)).to(torch::kFloat64).contiguous();
    const double* row = chunk.data_ptr<double>();
    for (int64_t i = 0; i < chunk.size(0); ++i, row += d) use(row, begin + i);
  }
}

// Nearest centres by |c|² - 2 x·c. Centres lie in blocks of eight, feature by feature, so that the
// inner loop is eight independent sums.
class Nearest {
 public:
  // centres [k * d], row by row. A row x stands for the features (x - mean) * scale.
  Nearest(const std::vector<double>& centres, int64_t k, const std::vector<double>& mean,
          const std::vector<double>& scale)
      : k_(k), d_(std::ssize(mean)), blocks_((k + kBlock - 1) / kBlock) {
    packed_.assign(static_cast<size_t>(blocks_ * kBlock * d_), 0);
    offset_.assign(static_cast<size_t>(blocks_ * kBlock), std::numeric_limits<double>::infinity());
    for (int64_t c = 0; c < k; ++c) {
      double squares = 0, shift = 0;
      for (int64_t j = 0; j < d_; ++j) {
        const auto feature = static_cast<size_t>(j);
        const double value = centres[static_cast<size_t>(c * d_ + j)];
        const double factor = value * scale[feature];
        squares += value * value;
        shift += factor * mean[feature];
        packed_[static_cast<size_t>(((c / kBlock) * d_ + j) * kBlock + c % kBlock)] = factor;
      }
      offset_[static_cast<size_t>(c)] = squares + 2 * shift;
    }
  }

  int64_t operator()(const double* x) const {
    int64_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t block = 0; block < blocks_; ++block) {
      double products[kBlock] = {};
      const double* factor = packed_.data() + block * d_ * kBlock;
      for (int64_t j = 0; j < d_; ++j, factor += kBlock) {
        for (int64_t c = 0; c < kBlock; ++c) products[c] += x[j] * factor[c];
      }
      for (int64_t c = 0; c < kBlock; ++c) {
        const int64_t centre = block * kBlock + c;
        const double distance = offset_[static_cast<size_t>(centre)] - 2 * products[c];
        if (centre < k_ && distance < least) {
          least = distance;
          best = centre;
        }
      }
    }
    return best;
  }

 private:
  static constexpr int64_t kBlock = 8;

  int64_t k_, d_, blocks_;
  std::vector<double> packed_;  // [blocks, d, kBlock]
  std::vector<double> offset_;  // [blocks * kBlock]
};

double squared_distance(const double* a, const double* b, int64_t d) {
  double total = 0;
  for (int64_t j = 0; j < d; ++j) total += (a[j] - b[j]) * (a[j] - b[j]);
  return total;
}

// k-means++: each seed is a row, drawn by its squared distance to the nearest seed so far. [k * d]
std::vector<double> seeds(const std::vector<double>& rows, int64_t m, int64_t d, int64_t k,
                          Rng& rng) {
  std::vector<double> centres;
  std::vector<double> distance(static_cast<size_t>(m), std::numeric_limits<double>::infinity());
  int64_t chosen = rng.below(m);
  for (int64_t c = 0; c < k; ++c) {
    if (c > 0) {
      double total = 0;
      for (const double value : distance) total += value;
      double left = rng.uniform() * total;
      chosen = 0;
      for (int64_t i = 0; i < m; ++i) {
        if (distance[static_cast<size_t>(i)] == 0) continue;  // a seed already, or equal to one
        chosen = i;
        left -= distance[static_cast<size_t>(i)];
        if (left < 0) break;
      }
    }
    const double* seed = rows.data() + chosen * d;
    centres.insert(centres.end(), seed, seed + d);
    for (int64_t i = 0; i < m; ++i) {
      double& nearest = distance[static_cast<size_t>(i)];
      nearest = std::min(nearest, squared_distance(rows.data() + i * d, seed, d));
    }
  }
  return centres;
}

}  // namespace

std::vector<int64_t> k_means(const torch::Tensor& inputs, int64_t k, Rng& rng) {
  constexpr int64_t kFitted = int64_t{1} << 20, kRowsPerCluster = 20, kSteps = 20;
  const int64_t n = inputs.size(0), d = inputs.numel() / n;
  assert(n >= k && k >= 1);

  // Sums of differences to the first row: a large common offset would cancel badly.
  std::vector<double> first, sum(static_cast<size_t>(d)), squares(static_cast<size_t>(d));
  for_each_row(inputs, [&](const double* row, int64_t i) {
    if (i == 0) first.assign(row, row + d);
    for (int64_t j = 0; j < d; ++j) {
      const auto feature = static_cast<size_t>(j);
      const double value = row[j] - first[feature];
      sum[feature] += value;
      squares[feature] += value * value;
    }
  });
  std::vector<double> mean(sum.size()), scale(sum.size());
  for (size_t j = 0; j < sum.size(); ++j) {
    const double centre = sum[j] / static_cast<double>(n);
    const double variance = squares[j] / static_cast<double>(n) - centre * centre;
    mean[j] = first[j] + centre;
    scale[j] = variance > 0 ? 1 / std::sqrt(variance) : 0;
  }

  const int64_t m = std::min(n, std::max(kFitted / d, kRowsPerCluster * k));
  std::vector<int64_t> order = rng.permutation(n);
  order.resize(static_cast<size_t>(m));
  const torch::Tensor part = inputs.index_select(0, torch::tensor(order));
  std::vector<double> rows(static_cast<size_t>(m * d));
  for_each_row(part, [&](const double* row, int64_t i) {
    for (int64_t j = 0; j < d; ++j) {
      const auto feature = static_cast<size_t>(j);
      rows[static_cast<size_t>(i * d + j)] = (row[j] - mean[feature]) * scale[feature];
    }
  });

  std::vector<double> centres = seeds(rows, m, d, k, rng);
  const std::vector<double> zero(static_cast<size_t>(d), 0), one(static_cast<size_t>(d), 1);
  std::vector<int64_t> cluster(static_cast<size_t>(m), -1);
  for (int64_t step = 0; step < kSteps; ++step) {
    const Nearest nearest(centres, k, zero, one);
    std::vector<double> sums(centres.size());
    std::vector<int64_t> sizes(static_cast<size_t>(k));
    bool changed = false;
    for (int64_t i = 0; i < m; ++i) {
      const double* row = rows.data() + i * d;
      const int64_t c = nearest(row);
      changed = changed || c != cluster[static_cast<size_t>(i)];
      cluster[static_cast<size_t>(i)] = c;
      ++sizes[static_cast<size_t>(c)];
      double* total = sums.data() + c * d;
      for (int64_t j = 0; j < d; ++j) total[j] += row[j];
    }
    if (!changed) break;
    for (int64_t c = 0; c < k; ++c) {
      const int64_t size = sizes[static_cast<size_t>(c)];
      if (size == 0) continue;  // stays where it was
      for (int64_t j = c * d; j < (c + 1) * d; ++j)
        centres[static_cast<size_t>(j)] = sums[static_cast<size_t>(j)] / static_cast<double>(size);
    }
  }

  const Nearest nearest(centres, k, mean, scale);
  std::vector<int64_t> result(static_cast<size_t>(n));
  for_each_row(
      inputs, [&](const double* row, int64_t i) { result[static_cast<size_t>(i)] = nearest(row); });
  return result;
}

}  // namespace fl_sim
