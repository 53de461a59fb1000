#include "base/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace fl_sim {

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double nearest_rank(const std::vector<double>& sorted, double share) {
  constexpr double kRounding = 1e-9;  // 0.9 of 10 is a little more than 9
  if (sorted.empty()) return 0;
  const double place = std::ceil(share * static_cast<double>(sorted.size()) - kRounding) - 1;
  return sorted[static_cast<size_t>(std::max(0.0, place))];
}

double jain_index(const std::vector<int64_t>& counts) {
  double sum = 0, squares = 0;
  for (const int64_t count : counts) {
    sum += static_cast<double>(count);
    squares += static_cast<double>(count) * static_cast<double>(count);
  }
  return squares > 0 ? sum * sum / (static_cast<double>(counts.size()) * squares) : 0;
}

}  // namespace fl_sim
