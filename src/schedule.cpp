#include "schedule.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "check.h"

namespace fl_sim {

std::string RoundPlan::encode() const {
  std::vector<int64_t> words = {stop, static_cast<int64_t>(cohort.size()),
                                static_cast<int64_t>(groups.size()),
                                static_cast<int64_t>(moves.size())};
  words.insert(words.end(), cohort.begin(), cohort.end());
  for (const PlannedGroup& group : groups) {
    words.insert(words.end(), {static_cast<int64_t>(group.ids.size()), group.cost, group.rank});
    words.insert(words.end(), group.ids.begin(), group.ids.end());
  }
  for (const StateMove& move : moves) words.insert(words.end(), {move.client, move.from, move.to});
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int64_t));
}

RoundPlan RoundPlan::decode(const std::string& bytes) {
  std::vector<int64_t> words(bytes.size() / sizeof(int64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  auto next = words.begin();
  const auto take = [&](int64_t n) {
    std::vector<int64_t> part(next, next + n);
    next += n;
    return part;
  };
  RoundPlan plan;
  plan.stop = *next++ != 0;
  const std::vector<int64_t> sizes = take(3);
  plan.cohort = take(sizes[0]);
  for (int64_t i = 0; i < sizes[1]; ++i) {
    const std::vector<int64_t> head = take(3);
    plan.groups.push_back({.ids = take(head[0]), .cost = head[1], .rank = head[2]});
  }
  for (int64_t i = 0; i < sizes[2]; ++i) {
    const std::vector<int64_t> move = take(3);
    plan.moves.push_back({move[0], move[1], move[2]});
  }
  return plan;
}

std::vector<PlannedGroup> make_groups(const std::vector<int64_t>& cohort, int64_t group_size,
                                      const std::function<int64_t(int64_t client)>& steps) {
  std::vector<std::pair<int64_t, int64_t>> order;  // (-steps, id)
  for (const int64_t id : cohort) order.emplace_back(-steps(id), id);
  std::sort(order.begin(), order.end());
  std::vector<PlannedGroup> groups;
  for (const auto& [negative_steps, id] : order) {
    if (groups.empty() || static_cast<int64_t>(groups.back().ids.size()) == group_size)
      groups.emplace_back();
    groups.back().ids.push_back(id);
    groups.back().cost -= negative_steps;
  }
  return groups;
}

std::vector<StateMove> deal(std::vector<PlannedGroup>& groups, const std::vector<int64_t>& hosts,
                            std::unordered_map<int64_t, int64_t>* holders, bool random) {
  std::stable_sort(groups.begin(), groups.end(),
                   [](const PlannedGroup& a, const PlannedGroup& b) { return a.cost > b.cost; });
  const int64_t total =
      std::accumulate(groups.begin(), groups.end(), int64_t{0},
                      [](int64_t sum, const PlannedGroup& group) { return sum + group.cost; });
  const int64_t tolerance = total / static_cast<int64_t>(hosts.size()) / 10;
  std::map<int64_t, int64_t> load;
  for (const int64_t host : hosts) load[host] = 0;
  std::vector<StateMove> moves;
  for (PlannedGroup& group : groups) {
    const auto least = std::min_element(
        load.begin(), load.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    group.rank = least->first;
    if (random) {
      static std::mt19937 generator{std::random_device{}()};
      group.rank = hosts[generator() % hosts.size()];
    } else if (holders != nullptr) {
      std::map<int64_t, int64_t> held;
      for (const int64_t id : group.ids) {
        if (const auto holder = holders->find(id); holder != holders->end()) ++held[holder->second];
      }
      const auto most =
          std::max_element(held.begin(), held.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      if (most != held.end() && load.at(most->first) <= least->second + tolerance)
        group.rank = most->first;
    }
    load[group.rank] += group.cost;
    if (holders == nullptr) continue;
    for (const int64_t id : group.ids) {
      const auto [holder, is_new] = holders->emplace(id, group.rank);
      if (!is_new && holder->second != group.rank) {
        moves.push_back({id, holder->second, group.rank});
        holder->second = group.rank;
      }
    }
  }
  return moves;
}

}  // namespace fl_sim
