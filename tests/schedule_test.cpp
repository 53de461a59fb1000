// Groups, the deal to ranks, moves of client state, and the plan as bytes.
#include "engine/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace fl_sim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

PlannedGroup group_of(std::vector<int64_t> ids, double seconds) {
  return {.ids = std::move(ids), .seconds = seconds};
}

// When each rank is through with what it was dealt, seconds.
std::map<int64_t, double> ends_of(const std::vector<PlannedGroup>& groups,
                                  const std::vector<HostSpeed>& hosts) {
  std::map<int64_t, double> ends;
  for (const PlannedGroup& group : groups) {
    for (const HostSpeed& host : hosts) {
      if (host.rank == group.rank) ends[group.rank] += group.seconds / host.speed;
    }
  }
  return ends;
}

double makespan(const std::vector<PlannedGroup>& groups, const std::vector<HostSpeed>& hosts) {
  double last = 0;
  for (const auto& [rank, end] : ends_of(groups, hosts)) last = std::max(last, end);
  return last;
}

std::vector<std::vector<int64_t>> ids_of(const std::vector<PlannedGroup>& groups) {
  std::vector<std::vector<int64_t>> ids;
  for (const PlannedGroup& group : groups) ids.push_back(group.ids);
  return ids;
}

// Groups are cut from (steps descending, id); the last one may be short.
TEST(Groups, AreSortedByStepsThenId) {
  const std::vector<int64_t> steps = {3, 12, 7, 7, 0, 12, 1};
  const auto steps_of = [&](int64_t client) { return steps[static_cast<size_t>(client)]; };
  const auto groups = make_groups({0, 1, 2, 3, 4, 5, 6}, 3, steps_of);
  EXPECT_THAT(ids_of(groups),
              ElementsAre(ElementsAre(1, 5, 2), ElementsAre(3, 0, 6), ElementsAre(4)));
  EXPECT_EQ(make_groups({2, 4}, 1, steps_of).size(), 2u);
  EXPECT_EQ(make_groups({2, 4}, 128, steps_of).size(), 1u);
  EXPECT_THAT(make_groups({}, 3, steps_of), IsEmpty());
}

// Longest first, each to the least loaded rank, and here the deal is perfect. Everyone is dealt
// exactly once, to a host.
TEST(Deal, LongestFirstToTheLeastLoaded) {
  std::vector<PlannedGroup> groups = {group_of({0}, 2), group_of({1}, 3), group_of({2}, 7),
                                      group_of({3}, 5), group_of({4}, 4), group_of({5}, 6)};
  const std::vector<HostSpeed> hosts = {{1}, {2}, {3}};
  EXPECT_THAT(deal(groups, hosts, nullptr, false), IsEmpty());
  std::set<int64_t> ids;
  for (const PlannedGroup& group : groups) ids.insert(group.ids.begin(), group.ids.end());
  EXPECT_THAT(ends_of(groups, hosts),
              ElementsAre(std::pair{1, 9.0}, std::pair{2, 9.0}, std::pair{3, 9.0}));
  EXPECT_EQ(ids.size(), 6u);
}

// Graham's bound, SIAM J. Appl. Math. 17 (1969), theorem 2: on m equal ranks longest first ends no
// later than 4/3 - 1/(3 m) times the best deal. His example reaches it: two groups each of 2 m - 1,
// ..., m + 1 seconds and three of m end at 4 m - 1, although 3 m is possible.
TEST(Deal, ReachesGrahamsBound) {
  for (int64_t m = 2; m <= 9; ++m) {
    std::vector<PlannedGroup> groups;
    for (int64_t seconds = m + 1; seconds < 2 * m; ++seconds) {
      for (int twice = 0; twice < 2; ++twice)
        groups.push_back(group_of({std::ssize(groups)}, static_cast<double>(seconds)));
    }
    for (int thrice = 0; thrice < 3; ++thrice)
      groups.push_back(group_of({std::ssize(groups)}, static_cast<double>(m)));
    std::vector<HostSpeed> hosts;
    for (int64_t rank = 1; rank <= m; ++rank) hosts.push_back({rank});
    deal(groups, hosts, nullptr, false);
    EXPECT_EQ(makespan(groups, hosts), static_cast<double>(4 * m - 1)) << m << " ranks";
  }
}

// The bound where the best deal is known because the groups were cut from full ranks.
TEST(Deal, KeepsGrahamsBound) {
  std::mt19937 generator(1);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t m = 2 + trial % 7;
    std::vector<PlannedGroup> groups;
    std::vector<HostSpeed> hosts;
    for (int64_t rank = 1; rank <= m; ++rank) {
      hosts.push_back({rank});
      for (int64_t left = 100; left > 0;) {
        const int64_t part = std::min<int64_t>(left, 1 + static_cast<int64_t>(generator() % 60));
        groups.push_back(group_of({std::ssize(groups)}, static_cast<double>(part)));
        left -= part;
      }
    }
    deal(groups, hosts, nullptr, false);
    EXPECT_LE(makespan(groups, hosts), 100 * (4.0 / 3 - 1.0 / (3.0 * static_cast<double>(m))));
    EXPECT_GE(makespan(groups, hosts), 100);
  }
}

// A rank of twice the speed gets twice the work, and both end together.
TEST(Deal, SharesOutBySpeed) {
  const std::vector<HostSpeed> hosts = {{1, 1}, {2, 2}};
  std::vector<PlannedGroup> groups;
  for (int64_t i = 0; i < 30; ++i) groups.push_back(group_of({i}, 1));
  deal(groups, hosts, nullptr, false);
  EXPECT_THAT(ends_of(groups, hosts), ElementsAre(std::pair{1, 10.0}, std::pair{2, 10.0}));

  // One long group goes to the fast rank although both are free, and so does the next one: 3 + 1
  // seconds there are less than 3 on the slow one would be if that were still slower.
  groups = {group_of({0}, 6), group_of({1}, 2)};
  const std::vector<HostSpeed> uneven = {{1, 0.25}, {2, 2}};
  deal(groups, uneven, nullptr, false);
  EXPECT_THAT(ends_of(groups, uneven), ElementsAre(std::pair{2, 4.0}));
}

// On ranks of different speeds longest first, each to where it ends first, stays within twice the
// best deal (Gonzalez, Ibarra, Sahni, SIAM J. Comput. 6, 1977), which no deal beats: the mean and
// the longest group on the fastest rank.
TEST(Deal, KeepsTheBoundOfUnequalRanks) {
  std::mt19937 generator(2);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<HostSpeed> hosts;
    double speed = 0, fastest = 0, work = 0, longest = 0;
    for (int64_t rank = 1; rank <= 2 + trial % 9; ++rank) {
      hosts.push_back({rank, 0.2 + static_cast<double>(generator() % 100) / 50});
      speed += hosts.back().speed;
      fastest = std::max(fastest, hosts.back().speed);
    }
    std::vector<PlannedGroup> groups;
    for (int64_t i = 0; i < 60; ++i) {
      groups.push_back(group_of({i}, static_cast<double>(generator() % 100)));
      work += groups.back().seconds;
      longest = std::max(longest, groups.back().seconds);
    }
    deal(groups, hosts, nullptr, false);
    const double best = std::max(work / speed, longest / fastest);
    EXPECT_LE(makespan(groups, hosts), 2 * best);
    EXPECT_GE(makespan(groups, hosts), best * (1 - 1e-12));
  }
}

// One rank hosts everything, also rank 0 when it is alone, without moves.
TEST(Deal, ASingleHostGetsEverything) {
  std::unordered_map<int64_t, int64_t> holders;
  for (int round = 0; round < 2; ++round) {
    std::vector<PlannedGroup> groups = {group_of({0, 1}, 5), group_of({2}, 1)};
    EXPECT_THAT(deal(groups, {{0}}, &holders, false), IsEmpty());
    for (const PlannedGroup& group : groups) EXPECT_EQ(group.rank, 0);
  }
  EXPECT_EQ(holders, (std::unordered_map<int64_t, int64_t>{{0, 0}, {1, 0}, {2, 0}}));
}

// A client's first deal makes its rank the holder; dealt again it stays there, and nothing moves,
// although the least loaded rank would be another one.
TEST(Deal, PrefersTheHolder) {
  std::unordered_map<int64_t, int64_t> holders = {{0, 2}, {1, 1}};
  std::vector<PlannedGroup> groups = {group_of({0}, 50), group_of({1}, 50)};
  EXPECT_THAT(deal(groups, {{1}, {2}}, &holders, false), IsEmpty());
  EXPECT_EQ(groups[0].rank, 2);
  EXPECT_EQ(groups[1].rank, 1);
}

// But not if that made the holder more than a tenth of an even share later: then the state moves,
// once, from the old holder to the new one, and the new one is remembered.
TEST(Deal, MovesStateWhenTheHolderIsBusy) {
  std::unordered_map<int64_t, int64_t> holders = {{0, 1}, {1, 1}};
  std::vector<PlannedGroup> groups = {group_of({0}, 50), group_of({1}, 50)};
  const std::vector<StateMove> moves = deal(groups, {{1}, {2}}, &holders, false);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].client, 1);
  EXPECT_EQ(moves[0].from, 1);
  EXPECT_EQ(moves[0].to, 2);
  EXPECT_EQ(holders.at(1), 2);
  EXPECT_EQ(holders.at(0), 1);
}

// Proves that state may come from a rank that is none of the hosts dealt to, as it does when a
// client changes lanes: it does not count as anybody's, and moves.
TEST(Deal, TakesStateFromElsewhere) {
  std::vector<PlannedGroup> groups = {group_of({0, 1, 2}, 1), group_of({3}, 0.99)};
  std::unordered_map<int64_t, int64_t> holders = {{0, 2}, {1, 2}, {2, 3}, {3, 2}};
  const auto moves = deal(groups, {{.rank = 1}, {.rank = 3}}, &holders, false);
  EXPECT_EQ(groups[0].rank, 3);  // which holds the state of one of three, rank 2 not being there
  EXPECT_EQ(groups[1].rank, 1);
  std::set<std::pair<int64_t, int64_t>> moved;  // client, to
  for (const StateMove& move : moves) {
    EXPECT_EQ(move.from, 2);
    moved.emplace(move.client, move.to);
  }
  EXPECT_THAT(moved, ElementsAre(Pair(0, 3), Pair(1, 3), Pair(3, 1)));
  EXPECT_EQ(holders, (std::unordered_map<int64_t, int64_t>{{0, 3}, {1, 3}, {2, 3}, {3, 1}}));
}

// Whatever is dealt, moves take every client from where it was to where it trains: following them
// reproduces the holders, and clients that do not take part stay.
TEST(Deal, MovesLeadFromHolderToHost) {
  std::mt19937 generator(5);
  std::unordered_map<int64_t, int64_t> holders, followed;
  for (int round = 0; round < 60; ++round) {
    std::vector<int64_t> cohort;
    for (int64_t id = 0; id < 30; ++id) {
      if (generator() % 2 == 0) cohort.push_back(id);
    }
    auto groups = make_groups(cohort, 3, [&](int64_t id) { return (id * 7 + round) % 13; });
    const auto moves = deal(groups, {{1}, {2}, {3}, {4}}, &holders, /*random=*/round % 2 == 1);
    std::set<int64_t> moved;
    for (const StateMove& move : moves) {
      EXPECT_TRUE(moved.insert(move.client).second) << "client " << move.client << " moves twice";
      ASSERT_TRUE(followed.contains(move.client)) << "a client without state moves";
      EXPECT_EQ(followed[move.client], move.from);
      EXPECT_NE(move.from, move.to);
      followed[move.client] = move.to;
    }
    for (const PlannedGroup& group : groups) {
      for (const int64_t id : group.ids) {
        followed.emplace(id, group.rank);
        EXPECT_EQ(followed[id], group.rank);
      }
    }
    EXPECT_EQ(holders, followed);
  }
}

// The deal is a pure function: the same groups and holders are dealt alike. Groups themselves know
// nothing of hosts, so results cannot depend on their number.
TEST(Deal, IsAFunctionOfItsArguments) {
  const auto once = [] {
    std::unordered_map<int64_t, int64_t> holders = {{3, 2}, {8, 1}};
    auto groups = make_groups({1, 3, 5, 8, 9}, 2, [](int64_t id) { return id % 4; });
    deal(groups, {{1}, {2}, {3}}, &holders, false);
    std::vector<int64_t> ranks;
    for (const PlannedGroup& group : groups) ranks.push_back(group.rank);
    return ranks;
  };
  EXPECT_EQ(once(), once());
}

// Each rank reads of what rank 0 sends what concerns it.
TEST(RoundPlan, SurvivesTheJourney) {
  RoundPlan plan{.kind = RoundPlan::Kind::kTrain,
                 .round = 5,
                 .exchange = 1,
                 .new_model = false,
                 .clients = {3, 1},
                 .samples = {80, 10}};
  plan.groups = {{.ids = {7, 1}, .limits = {3, 0}, .rank = 2},
                 {.ids = {4}, .limits = {2}, .rank = 1, .lane = 1},
                 {.ids = {9}, .rank = 2}};
  plan.moves = {{4, 3, 1}, {7, 1, 2}};
  const std::string bytes = plan.encode();

  const RoundPlan one = RoundPlan::decode(bytes, 1);
  EXPECT_EQ(one.kind, RoundPlan::Kind::kTrain);
  EXPECT_EQ(one.round, 5);
  EXPECT_EQ(one.exchange, 1);
  EXPECT_FALSE(one.new_model);
  EXPECT_THAT(one.clients, ElementsAre(3, 1));
  EXPECT_THAT(one.samples, ElementsAre(80, 10));
  EXPECT_THAT(ids_of(one.groups), ElementsAre(ElementsAre(4)));
  EXPECT_EQ(one.groups[0].rank, 1);
  EXPECT_EQ(one.groups[0].lane, 1);
  EXPECT_THAT(one.groups[0].limits, ElementsAre(2));
  EXPECT_THAT(RoundPlan::decode(bytes, 2).groups[0].limits, ElementsAre(3, 0));
  ASSERT_EQ(one.moves.size(), 2u);
  EXPECT_EQ(one.moves[0].client, 4);
  EXPECT_EQ(one.moves[0].from, 3);
  EXPECT_EQ(one.moves[0].to, 1);
  EXPECT_EQ(one.moves[1].client, 7);

  EXPECT_THAT(ids_of(RoundPlan::decode(bytes, 2).groups),
              ElementsAre(ElementsAre(7, 1), ElementsAre(9)));
  EXPECT_EQ(RoundPlan::decode(bytes, 2).moves.size(), 1u);
  EXPECT_THAT(RoundPlan::decode(bytes, 0).groups, IsEmpty());
  EXPECT_THAT(RoundPlan::decode(bytes, 0).moves, IsEmpty());

  const RoundPlan last;
  EXPECT_EQ(RoundPlan::decode(last.encode(), 0).kind, RoundPlan::Kind::kStop);
  EXPECT_THAT(RoundPlan::decode(last.encode(), 0).groups, IsEmpty());
}

}  // namespace
}  // namespace fl_sim
