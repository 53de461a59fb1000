// Groups, the deal to ranks, moves of client state, and the plan as bytes.
#include "schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

namespace fl_sim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

PlannedGroup group_of(std::vector<int64_t> ids, int64_t cost) {
  return {.ids = std::move(ids), .cost = cost};
}

std::vector<std::vector<int64_t>> ids_of(const std::vector<PlannedGroup>& groups) {
  std::vector<std::vector<int64_t>> ids;
  for (const PlannedGroup& group : groups) ids.push_back(group.ids);
  return ids;
}

// Groups are cut from (steps descending, id); the last one may be short; costs are sums of steps.
TEST(Groups, AreSortedByStepsThenId) {
  const std::vector<int64_t> steps = {3, 12, 7, 7, 0, 12, 1};
  const auto steps_of = [&](int64_t client) { return steps[static_cast<size_t>(client)]; };
  const auto groups = make_groups({0, 1, 2, 3, 4, 5, 6}, 3, steps_of);
  EXPECT_THAT(ids_of(groups),
              ElementsAre(ElementsAre(1, 5, 2), ElementsAre(3, 0, 6), ElementsAre(4)));
  EXPECT_EQ(groups[0].cost, 31);
  EXPECT_EQ(groups[1].cost, 11);
  EXPECT_EQ(groups[2].cost, 0);
  EXPECT_EQ(make_groups({2, 4}, 1, steps_of).size(), 2u);
  EXPECT_EQ(make_groups({2, 4}, 128, steps_of).size(), 1u);
  EXPECT_THAT(make_groups({}, 3, steps_of), IsEmpty());
}

// Longest first, each to the least loaded rank (Graham 1969): no rank ends later than 4/3 of the
// best possible, and here the deal is perfect. Everyone is dealt exactly once, to a host.
TEST(Deal, LongestFirstToTheLeastLoaded) {
  std::vector<PlannedGroup> groups = {group_of({0}, 2), group_of({1}, 3), group_of({2}, 7),
                                      group_of({3}, 5), group_of({4}, 4), group_of({5}, 6)};
  EXPECT_THAT(deal(groups, {1, 2, 3}, nullptr, false), IsEmpty());
  std::map<int64_t, int64_t> load;
  std::set<int64_t> ids;
  for (const PlannedGroup& group : groups) {
    load[group.rank] += group.cost;
    ids.insert(group.ids.begin(), group.ids.end());
  }
  EXPECT_THAT(load, ElementsAre(std::pair{1, 9}, std::pair{2, 9}, std::pair{3, 9}));
  EXPECT_EQ(ids.size(), 6u);
}

// Greedy deals of random groups stay within Graham's bound of the mean load and the longest group.
TEST(Deal, KeepsGrahamsBound) {
  std::mt19937 generator(1);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<PlannedGroup> groups;
    int64_t total = 0, longest = 0;
    for (int64_t i = 0; i < 40; ++i) {
      groups.push_back(group_of({i}, static_cast<int64_t>(generator() % 100)));
      total += groups.back().cost;
      longest = std::max(longest, groups.back().cost);
    }
    deal(groups, {1, 2, 3, 4, 5, 6, 7}, nullptr, false);
    std::map<int64_t, int64_t> load;
    for (const PlannedGroup& group : groups) load[group.rank] += group.cost;
    for (const auto& [rank, cost] : load) EXPECT_LE(cost, total / 7 + longest);
  }
}

// One rank hosts everything, also rank 0 when it is alone, without moves.
TEST(Deal, ASingleHostGetsEverything) {
  std::unordered_map<int64_t, int64_t> holders;
  for (int round = 0; round < 2; ++round) {
    std::vector<PlannedGroup> groups = {group_of({0, 1}, 5), group_of({2}, 1)};
    EXPECT_THAT(deal(groups, {0}, &holders, false), IsEmpty());
    for (const PlannedGroup& group : groups) EXPECT_EQ(group.rank, 0);
  }
  EXPECT_EQ(holders, (std::unordered_map<int64_t, int64_t>{{0, 0}, {1, 0}, {2, 0}}));
}

// A client's first deal makes its rank the holder; dealt again it stays there, and nothing moves,
// although the least loaded rank would be another one.
TEST(Deal, PrefersTheHolder) {
  std::unordered_map<int64_t, int64_t> holders = {{0, 2}, {1, 1}};
  std::vector<PlannedGroup> groups = {group_of({0}, 50), group_of({1}, 50)};
  EXPECT_THAT(deal(groups, {1, 2}, &holders, false), IsEmpty());
  EXPECT_EQ(groups[0].rank, 2);
  EXPECT_EQ(groups[1].rank, 1);
}

// But not if that made the holder more than a tenth of an even share later: then the state moves,
// once, from the old holder to the new one, and the new one is remembered.
TEST(Deal, MovesStateWhenTheHolderIsBusy) {
  std::unordered_map<int64_t, int64_t> holders = {{0, 1}, {1, 1}};
  std::vector<PlannedGroup> groups = {group_of({0}, 50), group_of({1}, 50)};
  const std::vector<StateMove> moves = deal(groups, {1, 2}, &holders, false);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].client, 1);
  EXPECT_EQ(moves[0].from, 1);
  EXPECT_EQ(moves[0].to, 2);
  EXPECT_EQ(holders.at(1), 2);
  EXPECT_EQ(holders.at(0), 1);
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
    const auto moves = deal(groups, {1, 2, 3, 4}, &holders, /*random=*/round % 2 == 1);
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
    deal(groups, {1, 2, 3}, &holders, false);
    std::vector<int64_t> ranks;
    for (const PlannedGroup& group : groups) ranks.push_back(group.rank);
    return ranks;
  };
  EXPECT_EQ(once(), once());
}

// What rank 0 sends is what everyone reads.
TEST(RoundPlan, SurvivesTheJourney) {
  RoundPlan plan;
  plan.cohort = {1, 4, 7};
  plan.groups = {{.ids = {7, 1}, .cost = 12, .rank = 2}, {.ids = {4}, .cost = 3, .rank = 1}};
  plan.moves = {{4, 3, 1}};
  const RoundPlan copy = RoundPlan::decode(plan.encode());
  EXPECT_FALSE(copy.stop);
  EXPECT_EQ(copy.cohort, plan.cohort);
  EXPECT_THAT(ids_of(copy.groups), ElementsAre(ElementsAre(7, 1), ElementsAre(4)));
  EXPECT_EQ(copy.groups[0].cost, 12);
  EXPECT_EQ(copy.groups[0].rank, 2);
  EXPECT_EQ(copy.groups[1].cost, 3);
  EXPECT_EQ(copy.groups[1].rank, 1);
  ASSERT_EQ(copy.moves.size(), 1u);
  EXPECT_EQ(copy.moves[0].client, 4);
  EXPECT_EQ(copy.moves[0].from, 3);
  EXPECT_EQ(copy.moves[0].to, 1);

  RoundPlan last;
  last.stop = true;
  EXPECT_TRUE(RoundPlan::decode(last.encode()).stop);
  EXPECT_THAT(RoundPlan::decode(last.encode()).groups, IsEmpty());
}

}  // namespace
}  // namespace fl_sim
