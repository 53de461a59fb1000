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

std::vector<double> fedat_weights(const std::vector<int64_t>& rounds, bool of_trained) {
  const auto all = static_cast<double>(std::accumulate(rounds.begin(), rounds.end(), int64_t{0}));
  std::vector<size_t> tiers;
  for (size_t tier = 0; tier < rounds.size(); ++tier) {
    if (rounds[tier] > 0 || !of_trained) tiers.push_back(tier);
  }
  std::vector<double> weights(rounds.size(), 0);
  for (size_t i = 0; i < tiers.size(); ++i)
    weights[tiers[i]] = static_cast<double>(rounds[tiers[tiers.size() - 1 - i]]) / all;
  return weights;
}

}  // namespace fl_sim
