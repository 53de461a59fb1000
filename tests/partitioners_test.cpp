#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "learning/sampler.h"
#include "partition_trial.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::Not;

TEST(Partition, ListsBecomeSortedRows) {
  const Partition p = make_partition({{5, 1}, {}, {0, 4, 2}});
  EXPECT_THAT(p.offsets, ElementsAre(0, 2, 2, 5));
  EXPECT_THAT(p.indices, ElementsAre(1, 5, 0, 2, 4));
  EXPECT_EQ(p.clients(), 3);
  EXPECT_EQ(p.size(1), 0);
  EXPECT_NO_THROW(check_partition(p, 6));
}

// The lists that holders give are those that one would write down; without a sample they are empty.
TEST(Partition, OfEachSamplesHolder) {
  const std::vector<int64_t> holders = {4, 1, 1, 0, 4, 1};
  const Partition p = partition_by_holder(holders, 6);
  EXPECT_THAT(p.offsets, ElementsAre(0, 1, 4, 4, 4, 6, 6));
  EXPECT_THAT(p.indices, ElementsAre(3, 1, 2, 5, 0, 4));
  EXPECT_NO_THROW(check_partition(p, 6));
  EXPECT_EQ(partition_by_holder({}, 2).size(1), 0);
}

// The lists of nobody are empty for everybody.
TEST(Partition, OfNobodyHasEmptyLists) {
  EXPECT_EQ(Partition().size(1'000'000), 0);
  EXPECT_TRUE(Partition().of(7).empty());
}

// Copies look at the same numbers, which live as long as one of them does.
TEST(Partition, IsCheapToCopy) {
  Partition copy;
  {
    const Partition p = make_partition({{1}, {0, 2}});
    copy = p;
    EXPECT_EQ(copy.indices.data(), p.indices.data());
  }
  EXPECT_THAT(copy.of(1), ElementsAre(0, 2));
}

TEST(Partition, CheckFindsWhatIsWrong) {
  EXPECT_ERROR(check_partition(make_partition({{0, 1}, {2, 1}}), 3),
               "sample 1 to client 0 and to client 1");
  EXPECT_ERROR(check_partition(make_partition({{0, 0}}), 3),
               "sample 0 to client 0 and to client 0");
  EXPECT_ERROR(check_partition(make_partition({{0}, {3}}), 3),
               "gives client 1 sample 3 (must be 0 to 2)");
  EXPECT_ERROR(check_partition(make_partition({{-1}}), 3), "sample -1");
  EXPECT_ERROR(check_partition(Partition({0, 3}, {0, 1}), 3), "offsets do not fit");
}

// Two classes, half each; client 0 has one class, client 1 both evenly. By hand:
// JS^2 = 1/2 log2(1 / 0.75) + 1/2 (1/2 log2(0.5 / 0.75) + 1/2 log2(0.5 / 0.25)),
// Hellinger^2 = 1 - sqrt(1/2), half the L1 distance = 1/2.
TEST(Skew, AgreesWithClosedForms) {
  const std::vector<int64_t> labels = {0, 0, 0, 1, 1, 1};
  const Skew skew = measure_skew(make_partition({{0, 1}, {2, 3}}), labels, 2);
  EXPECT_EQ(skew.histogram, (std::vector<int64_t>{2, 0, 1, 1}));
  const double divergence =
      0.5 * std::log2(1 / 0.75) + 0.5 * (0.5 * std::log2(0.5 / 0.75) + 0.5 * std::log2(0.5 / 0.25));
  EXPECT_NEAR(skew.jensen_shannon[0], std::sqrt(divergence), 1e-14);
  EXPECT_NEAR(skew.hellinger[0], std::sqrt(1 - std::sqrt(0.5)), 1e-14);
  EXPECT_NEAR(skew.earth_mover[0], 0.5, 1e-14);
  EXPECT_EQ(skew.jensen_shannon[1], 0);
  EXPECT_EQ(skew.hellinger[1], 0);
  EXPECT_EQ(skew.earth_mover[1], 0);
  EXPECT_NEAR(skew.mean_jensen_shannon, std::sqrt(divergence) / 2, 1e-14);
  EXPECT_NEAR(skew.max_jensen_shannon, std::sqrt(divergence), 1e-14);
}

// A matrix that nobody could look at is left out; what it is summed up to is not.
TEST(Skew, LeavesOutAHugeHistogram) {
  const std::vector<int64_t> labels = {0, 0, 1, 1};
  const Partition halves = make_partition({{0, 1}, {2, 3}});
  const Skew large = measure_skew(halves, labels, Skew::kMostCounts / 2);
  const Skew huge = measure_skew(halves, labels, Skew::kMostCounts / 2 + 1);
  EXPECT_EQ(std::ssize(large.histogram), Skew::kMostCounts);
  EXPECT_TRUE(huge.histogram.empty());
  EXPECT_EQ(huge.earth_mover, large.earth_mover);
  EXPECT_NEAR(huge.earth_mover[0], 0.5, 1e-14);
}

// All distances tend to 1 where a client's labels hardly occur elsewhere.
TEST(Skew, ApproachesOneForAClientOfItsOwnKind) {
  std::vector<int64_t> labels(100'000, 0);
  labels[0] = 1;
  const Skew skew = measure_skew(make_partition({{0}}), labels, 2);
  EXPECT_GT(skew.jensen_shannon[0], 0.99);
  EXPECT_GT(skew.hellinger[0], 0.99);
  EXPECT_NEAR(skew.earth_mover[0], 1 - 1e-5, 1e-12);
}

// Nearest ranks of the sizes 1 to 8; a client without samples has no distribution and no distance.
TEST(Skew, ReportsSizes) {
  std::vector<std::vector<int64_t>> lists(8);
  int64_t next = 0;
  for (int64_t k = 0; k < 8; ++k) {
    for (int64_t i = 0; i < 8 - k; ++i) lists[k].push_back(next++);
  }
  const std::vector<int64_t> labels(next, 0);
  const Skew skew = measure_skew(make_partition(lists), labels, 1);
  EXPECT_EQ(skew.min_size, 1);
  EXPECT_EQ(skew.lower_quartile, 2);
  EXPECT_EQ(skew.median, 4);
  EXPECT_EQ(skew.upper_quartile, 6);
  EXPECT_EQ(skew.max_size, 8);
  const Skew with_empty =
      measure_skew(make_partition({{0, 1}, {}}), std::vector<int64_t>{0, 1, 1}, 2);
  EXPECT_EQ(with_empty.jensen_shannon[1], 0);
  EXPECT_EQ(with_empty.mean_jensen_shannon, with_empty.jensen_shannon[0]);
}

// Every partitioner says what it does, where it comes from and what its options mean.
TEST(Partitioners, ExplainThemselves) {
  EXPECT_GE(catalog()["partitioner"].size(), 22u);
  for (const auto& [name, info] : catalog()["partitioner"]) {
    EXPECT_FALSE(info.summary.empty() || info.source.empty() || info.rule.empty()) << name;
    for (const Option& option : info.options) EXPECT_FALSE(option.meaning.empty()) << name;
  }
}

struct Example {
  const char* name;
  const char* lines;
};

// What every random partitioner must have: the seed decides, and nothing else.
TEST(Partitioners, AreFunctionsOfTheSeed) {
  const std::vector<int64_t> labels = even_labels(10, 200);
  std::vector<int64_t> coarse;
  for (const int64_t label : labels) coarse.push_back(label / 2);
  Rng features(7, "features");
  torch::Tensor inputs = torch::empty({2000, 3});
  for (int64_t i = 0; i < inputs.numel(); ++i)
    inputs.data_ptr<float>()[i] = static_cast<float>(features.normal());
  for (const auto& [name, lines] :
       {Example{"iid", ""},
        Example{"shards", ""},
        Example{"dirichlet", "dirichlet.alpha = 0.5"},
        Example{"label-count", "label-count.k = 2"},
        Example{"quantity-dirichlet", "quantity-dirichlet.beta = 0.5"},
        Example{"inner-dirichlet", "inner-dirichlet.alpha = 0.5"},
        Example{"linear", ""},
        Example{"square", ""},
        Example{"exponential", "clients = 5"},
        Example{"sizes", "sizes.list = 100*10"},
        Example{"pathological", "pathological.k = 2"},
        Example{"pathological", "pathological.k = 2\npathological.mode = deterministic"},
        Example{"pathological", "pathological.k = 2\npathological.mode = first-deterministic"},
        Example{"lognormal", "lognormal.sigma = 1"},
        Example{"lognormal", "lognormal.sigma = 1\nlognormal.all = false\nlognormal.mu = 3"},
        Example{"powerlaw", "powerlaw.exponent = 0.5"},
        Example{"feature-noise", ""},
        Example{"distribution", "distribution.preset = fedprox"},
        Example{"continuous", "continuous.sigma = 0.5"},
        Example{"continuous", "continuous.sigma = 0.9\ncontinuous.column = 2"},
        Example{"semantic", "semantic.k = 4\nsemantic.alpha = 1"},
        Example{"pachinko", "pachinko.alpha = 0.1\npachinko.beta = 10"},
        Example{"vertical", "vertical.blocks = 3"}}) {
    SCOPED_TRACE(message(name, " ", lines));
    const int64_t clients = std::string(name) == "exponential" ? 5 : 10;
    const PartitionRequest request{labels, 10, clients, {}, coarse, inputs};
    const Partition a = split(name, lines, request, 1), b = split(name, lines, request, 1);
    const Partition c = split(name, lines, request, 2);
    EXPECT_THAT(a.offsets, ElementsAreArray(b.offsets)) << name;
    EXPECT_THAT(a.indices, ElementsAreArray(b.indices)) << name;
    EXPECT_THAT(a.indices, Not(ElementsAreArray(c.indices))) << name;
  }
}

// Who gets a sample of a class does not depend on where it stands in the file: the mean position of
// m of n is n / 2 within (n / sqrt(12)) sqrt((1 - m / n) / m).
TEST(Partitioners, DealSamplesInRandomOrder) {
  const std::vector<int64_t> labels = even_labels(2, 2000);
  for (const auto& [name, lines] :
       {Example{"iid", ""}, Example{"dirichlet", "dirichlet.alpha = 100"},
        Example{"label-count", "label-count.k = 2"},
        Example{"quantity-dirichlet", "quantity-dirichlet.beta = 100"},
        Example{"inner-dirichlet", "inner-dirichlet.alpha = 100\ninner-dirichlet.size = 500"},
        Example{"linear", ""}, Example{"square", ""}, Example{"exponential", ""},
        Example{"sizes", "sizes.list = 1000, 500*3"}, Example{"pathological", "pathological.k = 2"},
        Example{"lognormal", "lognormal.sigma = 1"}, Example{"powerlaw", "powerlaw.exponent = 1"},
        Example{"feature-noise", ""}, Example{"distribution", "distribution.preset = fedprox"},
        Example{"continuous", "continuous.sigma = 1"}}) {
    const Partition p = split(name, lines, {labels, 2, 4, {}});
    for (int64_t k = 0; k < 4; ++k) {
      const auto list = p.of(k);
      const double n = 4000, m = static_cast<double>(list.size());
      const double mean = std::accumulate(list.begin(), list.end(), 0.0) / m;
      EXPECT_NEAR(mean, n / 2, kErrors * n / std::sqrt(12.0) * std::sqrt((1 - m / n) / m)) << name;
    }
  }
}

TEST(Iid, SizesDifferByOneAndCover) {
  const std::vector<int64_t> labels = even_labels(10, 10);
  const Partition p = split("iid", "", {labels, 10, 7, {}});
  EXPECT_TRUE(covers(p, labels));
  for (int64_t k = 0; k < 7; ++k) EXPECT_EQ(p.size(k), k < 2 ? 15 : 14);  // 100 = 2 * 15 + 5 * 14
}

// A client's count of a class is hypergeometric: mean m K / n, variance m (K / n) (1 - K / n) (n -
// m) / (n - 1).
TEST(Iid, LabelsAreHypergeometric) {
  const std::vector<int64_t> labels = even_labels(10, 1000);
  constexpr double n = 10'000, m = 100, share = 0.1;
  const auto counts = histogram(split("iid", "", {labels, 10, 100, {}}), labels, 10);
  double squares = 0;
  for (const auto& row : counts) {
    for (const int64_t count : row)
      squares += std::pow(static_cast<double>(count) - m * share, 2) / 1000;
  }
  const double variance = m * share * (1 - share) * (n - m) / (n - 1);
  // The error of a mean of 1,000 squares of which, given the sums of rows and columns, 9 * 99 are
  // free.
  EXPECT_NEAR(squares, variance, kErrors * variance * std::sqrt(2.0 / 891));
}

TEST(Iid, RefusesMoreClientsThanSamples) {
  const std::vector<int64_t> labels = even_labels(2, 2);
  EXPECT_ERROR(split("iid", "", {labels, 2, 5, {}}),
               "iid: clients is 5 (must be at most 4, the number of training samples)");
  EXPECT_NO_THROW(split("iid", "", {labels, 2, 4, {}}));
}

// McMahan's setting in small: 20 shards a class, so no shard has two labels, and each shard goes to
// one client as a whole.
TEST(Shards, ClientsGetWholeShards) {
  const std::vector<int64_t> labels = even_labels(10, 600);
  const Partition p = split("shards", "", {labels, 10, 100, {}});
  EXPECT_TRUE(covers(p, labels));
  std::set<std::pair<int64_t, int64_t>> whole;  // (client, shard)
  for (int64_t k = 0; k < 100; ++k) {
    EXPECT_EQ(p.size(k), 60);
    std::map<int64_t, int64_t> held;  // shard -> samples
    for (const int64_t index : p.of(k)) {
      const int64_t position =
          labels[index] * 600 + index / 10;  // in the order by label, then file
      ++held[position / 30];
    }
    EXPECT_EQ(held.size(), 2u);
    for (const auto& [shard, samples] : held) EXPECT_EQ(samples, 30) << "shard " << shard;
  }
}

TEST(Shards, UnevenNumbersStillCover) {
  const std::vector<int64_t> labels = even_labels(3, 67);  // 201 samples, 21 shards of 9 or 10
  const Partition p = split("shards", "shards.per-client = 3", {labels, 3, 7, {}});
  EXPECT_TRUE(covers(p, labels));
  for (int64_t k = 0; k < 7; ++k) {
    EXPECT_GE(p.size(k), 27);
    EXPECT_LE(p.size(k), 30);
  }
  EXPECT_ERROR(split("shards", "shards.per-client = 29", {labels, 3, 7, {}}),
               "shards: 7 clients with 29 shards each need more shards than there are training "
               "samples (201)");
}

// Unbalanced, a client's share of a class is Beta(a, (N - 1) a): mean 1 / N, variance
// (1 / N) (1 - 1 / N) / (N a + 1). 300 classes are 300 draws.
TEST(Dirichlet, SharesHaveDirichletMoments) {
  constexpr int64_t classes = 300, per_class = 400, clients = 5;
  const std::vector<int64_t> labels = even_labels(classes, per_class);
  const Partition p = split("dirichlet", "dirichlet.alpha = 0.5\ndirichlet.balanced = false",
                            {labels, classes, clients, {}});
  EXPECT_TRUE(covers(p, labels));
  const auto counts = histogram(p, labels, classes);
  const double variance = 0.2 * 0.8 / (5 * 0.5 + 1);
  for (int64_t k = 0; k < clients; ++k) {
    double mean = 0, squares = 0, fourth = 0;
    for (const int64_t count : counts[k]) {
      const double share = static_cast<double>(count) / per_class;
      mean += share / classes;
      squares += std::pow(share - 0.2, 2) / classes;
      fourth += std::pow(share - 0.2, 4) / classes;
    }
    // Cutting at whole samples moves a share by less than 1 / per_class.
    EXPECT_NEAR(mean, 0.2, kErrors * std::sqrt(variance / classes) + 1.0 / per_class);
    const double error = std::sqrt((fourth - squares * squares) / classes);
    EXPECT_NEAR(squares, variance, kErrors * error + 1.0 / per_class);
  }
}

// Classes are dealt out in their order; a client that holds samples / clients gets none of the
// next.
TEST(Dirichlet, BalancedPassesOverFullClients) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Partition p = split("dirichlet", "dirichlet.alpha = 0.3", {labels, 10, 8, {}}, seed);
    EXPECT_TRUE(covers(p, labels));
    const auto counts = histogram(p, labels, 10);
    for (int64_t k = 0; k < 8; ++k) {
      EXPECT_GE(p.size(k), 10);  // partition.min-samples
      int64_t held = 0;
      for (int64_t c = 0; c < 10; ++c) {
        if (held >= 125) {
          EXPECT_EQ(counts[k][c], 0) << "client " << k << ", class " << c;
        }
        held += counts[k][c];
      }
    }
  }
}

// As alpha falls to 0 each class goes to one client; balanced, with as many clients as classes of
// one size, each client is full after one class and gets exactly one. Plain arithmetic ends in 0/0.
TEST(Dirichlet, TinyAlphaGivesEachClientOneClass) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  const auto counts =
      histogram(split("dirichlet", "dirichlet.alpha = 1e-5", {labels, 10, 10, {}}), labels, 10);
  for (const auto& row : counts) {
    EXPECT_EQ(std::count(row.begin(), row.end(), 0), 9);
    EXPECT_EQ(std::count(row.begin(), row.end(), 100), 1);
  }
}

// As alpha grows the shares become equal.
TEST(Dirichlet, LargeAlphaIsEven) {
  const std::vector<int64_t> labels = even_labels(10, 1000);
  const Partition p =
      split("dirichlet", "dirichlet.alpha = 1e8\ndirichlet.balanced = false", {labels, 10, 10, {}});
  for (const auto& row : histogram(p, labels, 10)) {
    for (const int64_t count : row) EXPECT_NEAR(static_cast<double>(count), 100, 2);
  }
}

// A class that is missing from the training set is nobody's; the others are dealt out all the same.
TEST(Dirichlet, CopesWithAnEmptyClass) {
  std::vector<int64_t> labels = even_labels(3, 100);
  for (int64_t& label : labels) label = label == 2 ? 3 : label;  // class 2 of 4 does not occur
  EXPECT_TRUE(covers(split("dirichlet", "dirichlet.alpha = 1", {labels, 5, 6, {}}), labels));
}

TEST(Dirichlet, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 50);
  EXPECT_ERROR(split("dirichlet", "dirichlet.alpha = 1", {labels, 10, 51, {}}),
               "dirichlet: 51 clients cannot hold 10 samples each, there are 500; lower "
               "--partition.min-samples");
  const std::string what = error_of([&] {
    split("dirichlet", "dirichlet.alpha = 0.01\npartition.retries = 20", {labels, 10, 50, {}});
  });
  EXPECT_NE(
      what.find(
          " of 50 clients would hold fewer than 10 samples after 20 draws at alpha=0.01; lower "
          "--partition.min-samples or the number of clients"),
      std::string::npos)
      << what;
  EXPECT_ERROR(any_job("partitioner = dirichlet\ndirichlet.alpha = 0"),
               "dirichlet.alpha is 0 (must be more than 0)");
  EXPECT_ERROR(any_job("partitioner = dirichlet"), "dirichlet.alpha");
}

// The definition: client i has class i mod K and k - 1 others, and the holders of a class have
// equal parts of all of it.
TEST(LabelCount, IsWhatNiidBenchDefines) {
  const std::vector<int64_t> labels = even_labels(10, 101);
  for (const int64_t k : {1, 2, 3, 10}) {
    const Partition p = split("label-count", message("label-count.k = ", k), {labels, 10, 25, {}});
    EXPECT_TRUE(covers(p, labels));  // 25 clients name every class
    const auto counts = histogram(p, labels, 10);
    for (int64_t client = 0; client < 25; ++client) {
      EXPECT_GT(counts[client][client % 10], 0);
      EXPECT_EQ(10 - std::count(counts[client].begin(), counts[client].end(), 0), k) << client;
    }
    for (int64_t c = 0; c < 10; ++c) {
      int64_t low = 101, high = 0, total = 0;
      for (const auto& row : counts) {
        if (row[c] == 0) continue;
        low = std::min(low, row[c]);
        high = std::max(high, row[c]);
        total += row[c];
      }
      EXPECT_LE(high - low, 1);
      EXPECT_EQ(total, 101);
    }
  }
}

// Each other class is as likely as any: (k - 1) / (K - 1), over 200 * 5 choices.
TEST(LabelCount, OtherClassesAreRandom) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  double holders = 0;  // of class 9, among clients whose own class is 0
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Partition p = split("label-count", "label-count.k = 3", {labels, 10, 41, {}}, seed);
    const auto counts = histogram(p, labels, 10);
    for (int64_t client = 0; client < 41; client += 10) holders += counts[client][9] > 0 ? 1 : 0;
  }
  const double p = 2.0 / 9, n = 200 * 5;
  EXPECT_NEAR(holders / n, p, kErrors * std::sqrt(p * (1 - p) / n));
}

TEST(LabelCount, LeavesOutClassesThatNobodyHas) {
  const std::vector<int64_t> labels = even_labels(10, 20);
  const Partition p = split("label-count", "label-count.k = 1", {labels, 10, 3, {}});
  EXPECT_EQ(p.indices.size(), 60u);
  for (int64_t k = 0; k < 3; ++k) {
    for (const int64_t index : p.of(k)) EXPECT_EQ(labels[index], k);
  }
}

TEST(LabelCount, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 2);
  EXPECT_ERROR(split("label-count", "label-count.k = 11", {labels, 10, 3, {}}),
               "label-count.k is 11 (must be 1 to 10, the number of classes)");
  EXPECT_ERROR(split("label-count", "label-count.k = 1", {labels, 10, 25, {}}),
               "label-count: 5 of 25 clients would hold no sample at k=1");
}

// Sizes over 400 seeds: n Dir(beta), mean n / N, variance n^2 (1 / N) (1 - 1 / N) / (N beta + 1).
TEST(QuantityDirichlet, SizesHaveDirichletMoments) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  double mean = 0, squares = 0, fourth = 0;
  constexpr int64_t seeds = 400;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    const Partition p =
        split("quantity-dirichlet", "quantity-dirichlet.beta = 5\npartition.min-samples = 1",
              {labels, 10, 4, {}}, seed);
    EXPECT_TRUE(covers(p, labels));
    const double share = static_cast<double>(p.size(1)) / 1000;
    mean += share / seeds;
    squares += std::pow(share - 0.25, 2) / seeds;
    fourth += std::pow(share - 0.25, 4) / seeds;
  }
  const double variance = 0.25 * 0.75 / 21;
  EXPECT_NEAR(mean, 0.25, kErrors * std::sqrt(variance / seeds) + 1e-3);
  EXPECT_NEAR(squares, variance,
              kErrors * std::sqrt((fourth - squares * squares) / seeds) + 1e-3 * 0.25);
}

// Labels are IID: a large client's mix is the whole set's, up to sampling noise.
TEST(QuantityDirichlet, LabelsAreMixed) {
  const std::vector<int64_t> labels = even_labels(10, 2000);
  const Partition p =
      split("quantity-dirichlet", "quantity-dirichlet.beta = 0.5", {labels, 10, 5, {}});
  const auto counts = histogram(p, labels, 10);
  for (int64_t k = 0; k < 5; ++k) {
    EXPECT_GE(p.size(k), 10);
    const double m = static_cast<double>(p.size(k));
    for (const int64_t count : counts[k]) {
      EXPECT_NEAR(static_cast<double>(count), m / 10, kErrors * std::sqrt(m * 0.09) + 1);
    }
  }
}

TEST(QuantityDirichlet, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 10);
  EXPECT_ERROR(split("quantity-dirichlet", "quantity-dirichlet.beta = 1", {labels, 10, 11, {}}),
               "quantity-dirichlet: 11 clients cannot hold 10 samples each, there are 100");
  EXPECT_ERROR(split("quantity-dirichlet", "quantity-dirichlet.beta = 0.01\npartition.retries = 5",
                     {labels, 10, 10, {}}),
               " of 10 clients would hold fewer than 10 samples after 5 draws at beta=0.01");
}

// Every client holds exactly the size asked for, by default an equal share, however skewed the
// mixes are and although classes run out on the way.
TEST(InnerDirichlet, SizesAreExact) {
  const std::vector<int64_t> labels = even_labels(10, 101);
  for (const double alpha : {1e-5, 0.1, 100.0}) {
    const std::string lines = message("inner-dirichlet.alpha = ", alpha);
    const Partition whole = split("inner-dirichlet", lines, {labels, 10, 20, {}});
    const Partition part =
        split("inner-dirichlet", lines + "\ninner-dirichlet.size = 7", {labels, 10, 20, {}});
    for (int64_t k = 0; k < 20; ++k) {
      EXPECT_EQ(whole.size(k), 50);  // 1010 / 20, rounded down
      EXPECT_EQ(part.size(k), 7);
    }
    EXPECT_TRUE(covers(split("inner-dirichlet", lines, {labels, 10, 10, {}}), labels));
  }
}

// While no class runs out, a client's count of a class is Dirichlet-multinomial: with m samples, K
// classes and p = 1 / K its mean is m p, its variance m p (1 - p) (m + K alpha) / (1 + K alpha).
// 500 clients are 500 draws; each class's pool is ten times what clients take of it.
TEST(InnerDirichlet, CountsAreDirichletMultinomial) {
  constexpr int64_t classes = 5, clients = 500, m = 20;
  const std::vector<int64_t> labels = even_labels(classes, 20'000);
  for (const double alpha : {0.2, 2.0}) {
    const Partition p =
        split("inner-dirichlet",
              message("inner-dirichlet.alpha = ", alpha, "\ninner-dirichlet.size = ", m),
              {labels, classes, clients, {}});
    const auto counts = histogram(p, labels, classes);
    const double share = 1.0 / classes;
    const double variance = m * share * (1 - share) * (m + classes * alpha) / (1 + classes * alpha);
    for (int64_t c = 0; c < classes; ++c) {
      double mean = 0, squares = 0, fourth = 0;
      for (const auto& row : counts) {
        const double deviation = static_cast<double>(row[c]) - m * share;
        mean += deviation / clients;
        squares += std::pow(deviation, 2) / clients;
        fourth += std::pow(deviation, 4) / clients;
      }
      EXPECT_NEAR(mean, 0, kErrors * std::sqrt(variance / clients)) << alpha;
      const double error = std::sqrt((fourth - squares * squares) / clients);
      EXPECT_NEAR(squares, variance, kErrors * error) << alpha;
    }
  }
}

// As alpha falls to 0 a client has one class, while no class is used up (20 clients with 50 samples
// each cannot use up 1,000). As alpha grows, all mixes are even.
TEST(InnerDirichlet, LimitsOfAlpha) {
  const std::vector<int64_t> labels = even_labels(10, 1000);
  const auto few =
      histogram(split("inner-dirichlet", "inner-dirichlet.alpha = 1e-5\ninner-dirichlet.size = 50",
                      {labels, 10, 20, {}}),
                labels, 10);
  for (const auto& row : few) EXPECT_EQ(std::count(row.begin(), row.end(), 50), 1);
  const auto even = histogram(
      split("inner-dirichlet", "inner-dirichlet.alpha = 1e8", {labels, 10, 10, {}}), labels, 10);
  for (const auto& row : even) {
    // Hypergeometric, as if IID: standard deviation below sqrt(1000 * 0.1 * 0.9).
    for (const int64_t count : row) EXPECT_NEAR(static_cast<double>(count), 100, 6 * 9.5);
  }
}

// Labels that do not occur are nobody's.
TEST(InnerDirichlet, CopesWithAnEmptyClass) {
  std::vector<int64_t> labels = even_labels(3, 100);
  for (int64_t& label : labels) label = label == 2 ? 3 : label;
  EXPECT_TRUE(
      covers(split("inner-dirichlet", "inner-dirichlet.alpha = 1", {labels, 5, 6, {}}), labels));
}

TEST(InnerDirichlet, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 10);
  EXPECT_ERROR(split("inner-dirichlet", "inner-dirichlet.alpha = 1\ninner-dirichlet.size = 11",
                     {labels, 10, 10, {}}),
               "inner-dirichlet: 10 clients cannot hold 11 samples each, there are 100; lower");
  EXPECT_ERROR(split("inner-dirichlet", "inner-dirichlet.alpha = 1", {labels, 10, 101, {}}),
               "inner-dirichlet: clients is 101 (must be at most 100");
  EXPECT_ERROR(any_job("partitioner = inner-dirichlet\ninner-dirichlet.alpha = 0"),
               "inner-dirichlet.alpha is 0 (must be more than 0)");
}

TEST(Natural, FollowsTheOwners) {
  const std::vector<int64_t> labels = {0, 1, 0, 1, 0}, owners = {2, 0, 1, 2, 0};
  const Partition p = split("natural", "", {labels, 2, 3, owners});
  EXPECT_THAT(p.offsets, ElementsAre(0, 2, 3, 5));
  EXPECT_THAT(p.indices, ElementsAre(1, 4, 2, 0, 3));
  EXPECT_ERROR(split("natural", "", {labels, 2, 3, {}}),
               "natural: this data set does not say who owns a sample");
  EXPECT_ERROR(split("natural", "", {labels, 2, 100, owners}),
               "natural: clients is 100 (must be 3,");
}

// With `group`, users who follow one another are one client; the last client is what is left.
TEST(Natural, MergesUsers) {
  const std::vector<int64_t> labels = {0, 1, 0, 1, 0, 1}, owners = {4, 0, 1, 2, 3, 0};
  const Partition p = split("natural", "natural.group = 2", {labels, 2, 3, owners});
  EXPECT_THAT(p.of(0), ElementsAre(1, 2, 5));
  EXPECT_THAT(p.of(1), ElementsAre(3, 4));
  EXPECT_THAT(p.of(2), ElementsAre(0));
  EXPECT_ERROR(split("natural", "natural.group = 2", {labels, 2, 5, owners}),
               "natural: clients is 5 (must be 3, the number of users in the data set over "
               "natural.group, 2, rounded up, or auto)");
  EXPECT_EQ(own_clients("natural", "natural.group = 2", owners), 3);
  EXPECT_EQ(own_clients("natural", "natural.group = 5", owners), 1);
  EXPECT_EQ(own_clients("natural", "", owners), 5);
  EXPECT_EQ(own_clients("natural", "", {}), -1);
}

std::unique_ptr<Sampler> uniform(int64_t cohort, int64_t clients) {
  const Job job = any_job(message("cohort = ", cohort));
  return make<Sampler>("uniform", {job, clients});
}

// A cohort among `candidates` clients, all of whom can be reached.
std::vector<int64_t> drawn(const Sampler& sampler, int64_t round, int64_t cohort,
                           int64_t candidates, Rng& rng) {
  const Candidates who(candidates);
  const Partition partition;
  const State memory;
  std::vector<int64_t> ids;
  for (const Drawn& one : sampler.sample({.round = round,
                          .cohort = cohort,
                          .candidates = who,
                          .partition = partition,
                          .memory = memory},
                                         rng)) {
    EXPECT_TRUE(std::isnan(one.weight));  // by the job
    ids.push_back(one.client);
  }
  return ids;
}

// Every one of the 10 pairs of 5 clients is equally likely.
TEST(Uniform, EverySetIsEquallyLikely) {
  const auto sampler = uniform(2, 5);
  std::map<std::vector<int64_t>, int64_t> counts;
  constexpr int64_t n = 20'000;
  for (int64_t round = 0; round < n; ++round) {
    Rng rng(0, "cohort", round);
    ++counts[drawn(*sampler, round, 2, 5, rng)];
  }
  ASSERT_EQ(counts.size(), 10u);
  double chi_squared = 0;
  for (const auto& [cohort, count] : counts) {
    EXPECT_LT(cohort.at(0), cohort.at(1));
    chi_squared += std::pow(static_cast<double>(count) - n / 10.0, 2) / (n / 10.0);
  }
  EXPECT_LT(chi_squared, 33.72);  // 9 degrees of freedom, exceeded once in 10,000
}

TEST(Uniform, CohortsAreDistinctAscendingAndOfTheAskedSize) {
  for (const auto& [cohort, clients] :
       {std::pair{1, 1}, std::pair{100, 100}, std::pair{1000, 1'000'000}}) {
    Rng rng(0, "cohort");
    const std::vector<int64_t> ids = drawn(*uniform(cohort, clients), 0, cohort, clients, rng);
    ASSERT_EQ(static_cast<int>(ids.size()), cohort);
    for (size_t i = 1; i < ids.size(); ++i) EXPECT_LT(ids[i - 1], ids[i]);
    EXPECT_GE(ids.front(), 0);
    EXPECT_LT(ids.back(), clients);
  }
}

// Where fewer clients can be reached than the cohort has, all of them take part.
TEST(Uniform, TakesEverybodyWhereTheyAreFew) {
  for (const int64_t candidates : {0, 1, 3, 4}) {
    Rng rng(0, "cohort");
    std::vector<int64_t> everybody(candidates);
    std::iota(everybody.begin(), everybody.end(), 0);
    EXPECT_EQ(drawn(*uniform(4, 10), 0, 4, candidates, rng), everybody);
  }
}

TEST(Uniform, RefusesALargerCohortThanThereAreClients) {
  EXPECT_ERROR(uniform(50, 20), "cohort is 50 (must be 1 to 20, the number of clients)");
}

}  // namespace
}  // namespace fl_sim
