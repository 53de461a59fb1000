// Each client's samples split into training, validation and test.
#include "data/client_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "any_job.h"

namespace fl_sim {
namespace {

using testing::ElementsAreArray;
using testing::Not;

constexpr double kErrors = 4.5;  // standard errors; see rng_test.cpp

// Clients of 0, 1, 2, ..., 59 samples, whose labels are drawn with unequal probabilities.
struct World {
  std::vector<int64_t> labels;
  Partition partition;

  World() {
    Rng rng(3, "labels");
    std::vector<std::vector<int64_t>> lists(60);
    for (size_t client = 0; client < lists.size(); ++client) {
      for (size_t i = 0; i < client; ++i) {
        lists[client].push_back(std::ssize(labels));
        labels.push_back(std::min(rng.below(7), rng.below(7)));
      }
    }
    partition = make_partition(std::move(lists));
  }
};

std::map<int64_t, int64_t> counts(std::span<const int64_t> list, const World& world) {
  std::map<int64_t, int64_t> result;
  for (const int64_t index : list) ++result[world.labels[static_cast<size_t>(index)]];
  return result;
}

// Proves that the three lists are a client's samples, that their sizes are the fractions rounded,
// with one sample at least to train with, and that labels are in proportion within one sample.
TEST(ClientSplit, SizesAndLabelsAreInProportion) {
  const World world;
  for (const auto& [test, validation] :
       std::vector<std::pair<double, double>>{{0.2, 0}, {0.25, 0.15}, {0, 0.3}, {0.5, 0.49}}) {
    const ClientSplit split = split_clients(world.partition, world.labels, test, validation, 1);
    for (int64_t k = 0; k < 60; ++k) {
      const int64_t n = world.partition.size(k);
      const auto tests = split.test.of(k), validations = split.validation.of(k),
                 train = split.train.of(k);
      std::vector<int64_t> all(tests.begin(), tests.end());
      all.insert(all.end(), validations.begin(), validations.end());
      all.insert(all.end(), train.begin(), train.end());
      std::sort(all.begin(), all.end());
      EXPECT_THAT(all, ElementsAreArray(world.partition.of(k)));
      EXPECT_TRUE(std::is_sorted(tests.begin(), tests.end()));

      const int64_t most = std::max<int64_t>(n - 1, 0);
      const int64_t wanted = std::min<int64_t>(std::llround(test * n), most);
      EXPECT_EQ(std::ssize(tests), wanted) << "of " << n;
      EXPECT_EQ(std::ssize(validations),
                std::min<int64_t>(std::llround(validation * n), most - wanted))
          << "of " << n;
      EXPECT_GE(std::ssize(train), std::min<int64_t>(n, 1));

      auto held = counts(world.partition.of(k), world), tested = counts(tests, world),
           validated = counts(validations, world);
      for (const auto& [label, count] : held) {
        const auto due = [&](int64_t size, int64_t m, int64_t of) {
          return static_cast<double>(size * m) / static_cast<double>(of);
        };
        EXPECT_LT(std::abs(tested[label] - due(std::ssize(tests), count, n)), 1);
        if (validations.empty()) continue;
        EXPECT_LT(std::abs(validated[label] - due(std::ssize(validations), count - tested[label],
                                                  n - std::ssize(tests))),
                  1);
      }
    }
  }
}

// Proves that nothing happens without fractions, and that a list nobody has needs no memory.
TEST(ClientSplit, WithoutFractionsIsThePartition) {
  const World world;
  const ClientSplit split = split_clients(world.partition, world.labels, 0, 0, 1);
  EXPECT_EQ(split.train.indices.data(), world.partition.indices.data());
  EXPECT_EQ(split.test.size(59), 0);
  EXPECT_TRUE(split.validation.of(1'000'000).empty());
}

// Proves that the seed decides, and that what a client tests with depends on its own samples and id
// only.
TEST(ClientSplit, IsAFunctionOfSeedAndClient) {
  const World world;
  const auto tests = [&](const Partition& partition, uint64_t seed) {
    return split_clients(partition, world.labels, 0.3, 0, seed).test;
  };
  EXPECT_THAT(tests(world.partition, 1).indices,
              ElementsAreArray(tests(world.partition, 1).indices));
  EXPECT_THAT(tests(world.partition, 1).indices,
              Not(ElementsAreArray(tests(world.partition, 2).indices)));
  std::vector<std::vector<int64_t>> fewer(60);
  for (const int64_t k : {40, 50}) {
    const auto list = world.partition.of(k);
    fewer[static_cast<size_t>(k)].assign(list.begin(), list.end());
  }
  const Partition alone = tests(make_partition(fewer), 1), all = tests(world.partition, 1);
  for (const int64_t k : {40, 50}) EXPECT_THAT(alone.of(k), ElementsAreArray(all.of(k)));
}

// Proves that every sample of a label is as likely as any to be tested with, and that equal
// remainders do not favour the first label: of 3 labels with 5 samples each, 2 samples are tested,
// so that each sample is in 2 of 15 splits.
TEST(ClientSplit, SamplesAreEquallyLikely) {
  constexpr int64_t kClients = 6000;
  std::vector<std::vector<int64_t>> lists(kClients);
  std::vector<int64_t> labels;
  for (int64_t k = 0; k < kClients; ++k) {
    for (int64_t i = 0; i < 15; ++i) {
      lists[static_cast<size_t>(k)].push_back(15 * k + i);
      labels.push_back(i / 5);
    }
  }
  const ClientSplit split = split_clients(make_partition(lists), labels, 2.0 / 15, 0, 1);
  std::vector<double> tested(15);
  for (const int64_t index : split.test.indices) tested[static_cast<size_t>(index % 15)] += 1;
  const double p = 2.0 / 15, error = std::sqrt(p * (1 - p) / kClients);
  for (const double count : tested) EXPECT_NEAR(count / kClients, p, kErrors * error);
}

TEST(ClientSplit, RefusesWhatLeavesNothingToTrainWith) {
  const World world;
  EXPECT_ERROR(
      split_clients(world.partition, world.labels, 0.5, 0.5, 1),
      "partition.test-fraction is 0.5 and partition.validation-fraction is 0.5 (must be at "
      "least 0 and together less than 1");
  EXPECT_ERROR(split_clients(world.partition, world.labels, std::nan(""), 0, 1), "is nan");
  EXPECT_ERROR(any_job("partition.test-fraction = 1"), "partition.test-fraction is 1");
}

// Test samples go to who holds all of their user's training samples: also to a client of several
// users. A user of nobody (-1), or without a holder, gives them to no one.
TEST(ClientSplit, OwnTestSamples) {
  const std::vector<int64_t> owners = {0, 0, 1, 2, 2, 3}, test_owners = {2, 0, -1, 1, 2, 3, 0};
  const auto lists_of = [](const Partition& partition) {
    std::vector<std::vector<int64_t>> lists;
    for (int64_t k = 0; k < partition.clients(); ++k) {
      const auto list = partition.of(k);
      lists.emplace_back(list.begin(), list.end());
    }
    return lists;
  };
  using Lists = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(
      lists_of(own_test_samples(make_partition({{0, 1}, {2}, {3, 4}, {5}}), owners, test_owners)),
      (Lists{{1, 6}, {3}, {0, 4}, {5}}));
  EXPECT_EQ(
      lists_of(own_test_samples(make_partition({{0, 1, 3, 4}, {2}, {}}), owners, test_owners)),
      (Lists{{0, 1, 4, 6}, {3}, {}}));
  for (const Partition& none :
       {own_test_samples(make_partition({{0, 1, 3}, {2, 4}, {5}}), owners, test_owners),  // 2's
        own_test_samples(make_partition({{0, 1}, {2}}), owners, {}),
        own_test_samples(make_partition({{0, 1}, {2}}), {}, test_owners)}) {
    EXPECT_TRUE(none.indices.empty());
  }
}

}  // namespace
}  // namespace fl_sim
