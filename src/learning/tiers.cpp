#include "learning/tiers.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fl_sim {

std::vector<int64_t> tiers_by_time(const std::vector<int64_t>& clients, int64_t tiers,
                                   const std::function<double(int64_t client)>& seconds) {
  std::vector<std::pair<double, int64_t>> order;
  for (const int64_t client : clients) order.emplace_back(seconds(client), client);
  std::sort(order.begin(), order.end());
  std::vector<int64_t> tier(clients.empty() ? size_t{0} : static_cast<size_t>(clients.back() + 1),
                            -1);
  for (size_t i = 0; i < order.size(); ++i) {
    tier[static_cast<size_t>(order[i].second)] =
        static_cast<int64_t>(i) * tiers / std::ssize(order);
  }
  return tier;
}

std::vector<double> fedat_weights(const std::vector<int64_t>& updates) {
  const auto all = static_cast<double>(std::accumulate(updates.begin(), updates.end(), int64_t{0}));
  std::vector<double> weights;
  for (auto other = updates.rbegin(); other != updates.rend(); ++other)
    weights.push_back(static_cast<double>(*other) / all);
  return weights;
}

}  // namespace fl_sim
