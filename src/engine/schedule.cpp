#include "engine/schedule.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>

namespace fl_sim {

std::string RoundPlan::encode() const {
  std::vector<int64_t> words = {static_cast<int64_t>(kind),
                                round,
                                exchange,
                                new_model,
                                roll_back,
                                checkpoint,
                                std::ssize(clients),
                                std::ssize(groups),
                                std::ssize(moves),
                                std::ssize(bases),
                                std::ssize(sends)};
  words.insert(words.end(), clients.begin(), clients.end());
  words.insert(words.end(), samples.begin(), samples.end());
  for (const PlannedGroup& group : groups) {
    words.insert(words.end(),
                 {group.rank, group.lane, group.base, group.repeat, std::ssize(group.ids),
                  std::ssize(group.limits), std::ssize(group.weights), std::ssize(group.tasks)});
  }
  for (const PlannedGroup& group : groups) {
    words.insert(words.end(), group.ids.begin(), group.ids.end());
    words.insert(words.end(), group.limits.begin(), group.limits.end());
    for (const double weight : group.weights) words.push_back(std::bit_cast<int64_t>(weight));
    words.insert(words.end(), group.tasks.begin(), group.tasks.end());
    words.insert(words.end(), group.due.begin(), group.due.end());
  }
  for (const StateMove& move : moves) words.insert(words.end(), {move.client, move.from, move.to});
  words.insert(words.end(), bases.begin(), bases.end());
  words.insert(words.end(), sends.begin(), sends.end());
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int64_t));
}

RoundPlan RoundPlan::decode(const std::string& bytes, int64_t rank) {
  std::vector<int64_t> words(bytes.size() / sizeof(int64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  auto next = words.cbegin();
  const auto take = [&](int64_t n) {
    next += n;
    return std::vector<int64_t>(next - n, next);
  };
  RoundPlan plan;
  plan.kind = static_cast<Kind>(*next++);
  plan.round = *next++;
  plan.exchange = *next++;
  plan.new_model = *next++ != 0;
  plan.roll_back = *next++ != 0;
  plan.checkpoint = *next++;
  const int64_t lanes = *next++, groups = *next++, moves = *next++;
  const int64_t bases = *next++, sends = *next++;
  plan.clients = take(lanes);
  plan.samples = take(lanes);
  auto head = next;
  constexpr int64_t kHead = 8;
  next += kHead * groups;
  for (int64_t i = 0; i < groups; ++i, head += kHead) {
    PlannedGroup group{.ids = take(head[4]),
                       .limits = take(head[5]),
                       .rank = head[0],
                       .lane = head[1],
                       .base = head[2],
                       .repeat = head[3]};
    for (const int64_t word : take(head[6])) group.weights.push_back(std::bit_cast<double>(word));
    group.tasks = take(head[7]);
    group.due = take(head[7]);
    if (group.rank == rank) plan.groups.push_back(std::move(group));
  }
  for (int64_t i = 0; i < moves; ++i, next += 3) {
    if (next[1] == rank || next[2] == rank) plan.moves.push_back({next[0], next[1], next[2]});
  }
  plan.bases = take(bases);
  plan.sends = take(sends);
  return plan;
}

std::string Meeting::encode() const {
  std::vector<int64_t> words = {static_cast<int64_t>(kind), std::ssize(sets)};
  for (const Set& set : sets) {
    words.insert(words.end(),
                 {std::ssize(set.rows), std::ssize(set.weights), std::ssize(set.staleness)});
    words.insert(words.end(), set.rows.begin(), set.rows.end());
    for (const auto* numbers : {&set.weights, &set.staleness}) {
      for (const double number : *numbers) words.push_back(std::bit_cast<int64_t>(number));
    }
  }
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int64_t));
}

Meeting Meeting::decode(const std::string& bytes) {
  std::vector<int64_t> words(bytes.size() / sizeof(int64_t));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  auto next = words.cbegin();
  Meeting meeting{.kind = static_cast<Kind>(*next++)};
  meeting.sets.resize(static_cast<size_t>(*next++));
  for (Set& set : meeting.sets) {
    const int64_t rows = *next++, weights = *next++, staleness = *next++;
    set.rows.assign(next, next + rows);
    next += rows;
    for (int64_t i = 0; i < weights; ++i) set.weights.push_back(std::bit_cast<double>(*next++));
    for (int64_t i = 0; i < staleness; ++i) set.staleness.push_back(std::bit_cast<double>(*next++));
  }
  return meeting;
}

std::vector<PlannedGroup> make_groups(const std::vector<int64_t>& cohort, int64_t group_size,
                                      const std::function<int64_t(int64_t client)>& steps) {
  std::vector<std::pair<int64_t, int64_t>> order;  // (-steps, id)
  order.reserve(cohort.size());
  for (const int64_t id : cohort) order.emplace_back(-steps(id), id);
  std::sort(order.begin(), order.end());
  std::vector<PlannedGroup> groups;
  for (const auto& [negative_steps, id] : order) {
    if (groups.empty() || std::ssize(groups.back().ids) == group_size) groups.emplace_back();
    groups.back().ids.push_back(id);
  }
  return groups;
}

std::vector<StateMove> deal(std::vector<PlannedGroup>& groups, const std::vector<HostSpeed>& hosts,
                            std::unordered_map<int64_t, int64_t>* holders, bool random) {
  std::stable_sort(groups.begin(), groups.end(), [](const PlannedGroup& a, const PlannedGroup& b) {
    return a.seconds > b.seconds;
  });
  double work = 0, speed = 0, fastest = 0;
  for (const PlannedGroup& group : groups) work += group.seconds;
  for (const HostSpeed& host : hosts) {
    speed += host.speed;
    fastest = std::max(fastest, host.speed);
  }
  const double tolerance = work / speed / 10;

  std::vector<double> busy(hosts.size());       // until when, seconds
  std::set<std::pair<double, size_t>> queue;    // (until when, host)
  std::unordered_map<int64_t, size_t> host_of;  // rank -> host
  for (size_t i = 0; i < hosts.size(); ++i) {
    queue.emplace(0, i);
    host_of[hosts[i].rank] = i;
  }
  std::vector<StateMove> moves;
  for (PlannedGroup& group : groups) {
    size_t chosen = 0;
    double end = std::numeric_limits<double>::infinity();
    for (const auto& [until, host] : queue) {
      // Nobody who is free later can be through sooner.
      if (until + group.seconds / fastest >= end) break;
      if (until + group.seconds / hosts[host].speed >= end) continue;
      chosen = host;
      end = until + group.seconds / hosts[host].speed;
    }
    if (random) {
      static std::mt19937 generator{std::random_device{}()};
      chosen = generator() % hosts.size();
    } else if (holders != nullptr) {
      std::map<int64_t, int64_t> held;  // rank -> clients whose state it holds
      for (const int64_t id : group.ids) {
        const auto holder = holders->find(id);
        if (holder != holders->end() && host_of.contains(holder->second)) ++held[holder->second];
      }
      const auto most =
          std::max_element(held.begin(), held.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      if (most != held.end()) {
        const size_t home = host_of.at(most->first);
        if (busy[home] + group.seconds / hosts[home].speed <= end + tolerance) chosen = home;
      }
    }
    group.rank = hosts[chosen].rank;
    auto entry = queue.extract({busy[chosen], chosen});
    busy[chosen] += group.seconds / hosts[chosen].speed;
    entry.value().first = busy[chosen];
    queue.insert(std::move(entry));
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
