#include "base/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "any_job.h"

namespace fl_sim {
namespace {

// Moments below are held to 4.5 standard errors of the estimate: a right generator fails one such
// check in 150,000, and the seeds are fixed.
constexpr double kStandardErrors = 4.5;

struct Moments {
  double mean = 0, variance = 0;
};

Moments moments(int64_t n, const std::function<double()>& draw) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = draw();
    sum += x;
    squares += x * x;
  }
  const double mean = sum / static_cast<double>(n);
  return {mean, squares / static_cast<double>(n) - mean * mean};
}

// Known answers published with Random123 (tests/kat_vectors, "philox4x32 10").
TEST(Philox, GivesThePublishedAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t f = 0xffffffff;
  EXPECT_EQ(philox({f, f, f, f}, {f, f}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, TheSameNameGivesTheSameNumbers) {
  Rng a(7, "shuffle", 3, 17), b(7, "shuffle", 3, 17);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.bits(), b.bits());
}

// Every part of the name counts, the high half of the seed too. Streams of one seed differ in their
// counters, so their blocks of 128 bits never meet; across seeds a match has probability 2^-128.
TEST(Rng, EveryPartOfTheNameCounts) {
  std::set<std::pair<uint64_t, uint64_t>> blocks;
  const auto add = [&](Rng rng) {
    const uint64_t first = rng.bits64();
    blocks.emplace(first, rng.bits64());
  };
  add(Rng(7, "shuffle", 3, 17));
  add(Rng(8, "shuffle", 3, 17));
  add(Rng(7 + (uint64_t{1} << 32), "shuffle", 3, 17));
  add(Rng(7, "dropout", 3, 17));
  add(Rng(7, "shuffle", 4, 17));
  add(Rng(7, "shuffle", 3, 18));
  add(Rng(7, "shuffle", 17, 3));
  EXPECT_EQ(blocks.size(), 7u);
}

// Names enter the counter as 32-bit hashes; those that the program uses must not collide. Add
// yours.
TEST(Rng, PurposesInUseDiffer) {
  const std::vector<const char*> purposes = {"asked",
                                             "asked batch",
                                             "cyclic",
                                             "forecast",
                                             "availability",
                                             "availability-share",
                                             "check",
                                             "client-split",
                                             "dropout",
                                             "dropout personal",
                                             "evaluate-clients",
                                             "fcube",
                                             "gaussian",
                                             "head",
                                             "holdout",
                                             "ifca-mixture",
                                             "jitter",
                                             "lanes",
                                             "lost",
                                             "markov",
                                             "markov-epoch",
                                             "partition",
                                             "personal",
                                             "population",
                                             "sampler",
                                             "sessions",
                                             "shuffle",
                                             "stragglers",
                                             "synthetic",
                                             "time-zone",
                                             "weights"};
  std::set<std::pair<uint64_t, uint64_t>> blocks;
  for (const char* purpose : purposes) {
    Rng rng(0, purpose);
    const uint64_t first = rng.bits64();
    blocks.emplace(first, rng.bits64());
  }
  EXPECT_EQ(blocks.size(), purposes.size());
}

// A stream is philox of a counter that counts up, so none of its blocks of four words repeats.
TEST(Rng, WordsComeBlockByBlockWithoutRepetition) {
  Rng rng(0, "shuffle");
  std::set<std::array<uint32_t, 4>> blocks;
  for (int i = 0; i < 1000; ++i) {
    std::array<uint32_t, 4> block;
    for (uint32_t& word : block) word = rng.bits();
    blocks.insert(block);
  }
  EXPECT_EQ(blocks.size(), 1000u);
}

TEST(Rng, RefusesNamesThatDoNotFitTheCounter) {
  EXPECT_ERROR(Rng(0, "shuffle", -1), "round -1 is out of range");
  EXPECT_ERROR(Rng(0, "shuffle", 0, int64_t{1} << 32), "client 4294967296 is out of range");
  EXPECT_NO_THROW(Rng(0, "shuffle", 0, (int64_t{1} << 32) - 1));
}

TEST(Rng, UniformHasTheMomentsOfTheUniformDistribution) {
  Rng rng(1, "test");
  constexpr int64_t n = 200'000;
  double low = 1, high = 0;
  const Moments m = moments(n, [&] {
    const double u = rng.uniform();
    low = std::min(low, u);
    high = std::max(high, u);
    return u;
  });
  EXPECT_GE(low, 0);
  EXPECT_LT(high, 1);
  EXPECT_NEAR(m.mean, 0.5, kStandardErrors * std::sqrt(1.0 / 12 / n));
  // Var((u - 1/2)^2) = 1/80 - 1/144
  EXPECT_NEAR(m.variance, 1.0 / 12, kStandardErrors * std::sqrt((1.0 / 80 - 1.0 / 144) / n));
}

TEST(Rng, NormalHasTheMomentsOfTheNormalDistribution) {
  Rng rng(2, "test");
  constexpr int64_t n = 200'000;
  std::array<double, 5> raw{};  // E x^p
  int64_t beyond_two = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = rng.normal();
    for (int p = 1; p <= 4; ++p) raw[p] += std::pow(x, p) / n;
    if (std::abs(x) > 2) ++beyond_two;
  }
  // Var(x) = 1, Var(x^2) = 2, Var(x^3) = 15, Var(x^4) = 105 - 9
  EXPECT_NEAR(raw[1], 0, kStandardErrors * std::sqrt(1.0 / n));
  EXPECT_NEAR(raw[2], 1, kStandardErrors * std::sqrt(2.0 / n));
  EXPECT_NEAR(raw[3], 0, kStandardErrors * std::sqrt(15.0 / n));
  EXPECT_NEAR(raw[4], 3, kStandardErrors * std::sqrt(96.0 / n));
  const double p = std::erfc(std::sqrt(2.0));  // P(|x| > 2)
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, p, kStandardErrors * std::sqrt(p * (1 - p) / n));
}

// Mean and variance are the shape; the fourth central moment is 3 shape^2 + 6 shape.
TEST(Rng, GammaHasTheMomentsOfTheGammaDistribution) {
  for (const double shape : {0.1, 0.5, 1.0, 3.0, 50.0}) {
    Rng rng(3, "test");
    constexpr int64_t n = 200'000;
    const Moments m = moments(n, [&] { return rng.gamma(shape); });
    EXPECT_NEAR(m.mean, shape, kStandardErrors * std::sqrt(shape / n)) << shape;
    EXPECT_NEAR(m.variance, shape, kStandardErrors * std::sqrt((2 * shape * shape + 6 * shape) / n))
        << shape;
  }
}

TEST(Rng, BelowIsEvenAndInRange) {
  Rng rng(4, "test");
  constexpr int64_t n = 70'000;
  std::array<int64_t, 7> counts{};
  for (int64_t i = 0; i < n; ++i) ++counts.at(static_cast<size_t>(rng.below(7)));
  double chi_squared = 0;
  for (const int64_t count : counts) chi_squared += std::pow(count - n / 7.0, 2) / (n / 7.0);
  EXPECT_LT(chi_squared, 27.86);  // 6 degrees of freedom, exceeded once in 10,000
  EXPECT_EQ(rng.below(1), 0);
  EXPECT_ERROR(rng.below(0), "cannot draw one of 0 things");
}

// A plain remainder of 64 bits would put 3/4 of the draws into the lower 2/3 of this range.
TEST(Rng, BelowHasNoModuloBias) {
  Rng rng(5, "test");
  constexpr int64_t range = 3 * (int64_t{1} << 61), n = 20'000;
  int64_t low = 0;
  for (int64_t i = 0; i < n; ++i) low += rng.below(range) < range / 3 * 2 ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(low) / n, 2.0 / 3, kStandardErrors * std::sqrt(2.0 / 9 / n));
}

// A component of Dir(a, ..., a) in n dimensions is Beta(a, (n - 1) a): mean 1 / n and variance
// (1 / n) (1 - 1 / n) / (n a + 1). The variance's error comes from Beta's fourth moment, estimated.
TEST(Rng, DirichletHasTheMomentsOfItsMarginals) {
  for (const double alpha : {0.05, 0.5, 5.0}) {
    Rng rng(6, "test");
    constexpr int64_t draws = 20'000, n = 4;
    std::array<double, n> sum{};
    double squares = 0, fourth = 0;  // of the first component's distance from its mean
    for (int64_t i = 0; i < draws; ++i) {
      const std::vector<double> p = rng.dirichlet(alpha, n);
      ASSERT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 1, 1e-12);
      for (int64_t k = 0; k < n; ++k) sum[k] += p[k];
      squares += std::pow(p[0] - 1.0 / n, 2);
      fourth += std::pow(p[0] - 1.0 / n, 4);
    }
    const double variance = 1.0 / n * (1 - 1.0 / n) / (n * alpha + 1);
    for (const double total : sum) {
      EXPECT_NEAR(total / draws, 1.0 / n, kStandardErrors * std::sqrt(variance / draws)) << alpha;
    }
    const double error = std::sqrt((fourth / draws - variance * variance) / draws);
    EXPECT_NEAR(squares / draws, variance, kStandardErrors * error) << alpha;
  }
}

// At 1e-6 gamma variates themselves are far below the smallest double; nearly all mass is in one
// component.
TEST(Rng, DirichletSurvivesTinyAlpha) {
  Rng rng(7, "test");
  int concentrated = 0;
  for (int i = 0; i < 200; ++i) {
    const std::vector<double> p = rng.dirichlet(1e-6, 100);
    for (const double value : p) ASSERT_TRUE(value >= 0 && value <= 1);
    ASSERT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 1, 1e-12);
    concentrated += *std::max_element(p.begin(), p.end()) > 0.999 ? 1 : 0;
  }
  EXPECT_GE(concentrated, 198);
  EXPECT_ERROR(rng.dirichlet(0, 3), "Dirichlet needs alpha > 0");
}

TEST(Rng, ShuffleMakesEveryOrderEquallyLikely) {
  Rng rng(8, "test");
  constexpr int64_t n = 60'000;
  std::map<std::vector<int64_t>, int64_t> counts;
  for (int64_t i = 0; i < n; ++i) ++counts[rng.permutation(3)];
  ASSERT_EQ(counts.size(), 6u);
  double chi_squared = 0;
  for (const auto& [order, count] : counts) chi_squared += std::pow(count - n / 6.0, 2) / (n / 6.0);
  EXPECT_LT(chi_squared, 25.74);  // 5 degrees of freedom, exceeded once in 10,000
}

TEST(Rng, PermutationHoldsEveryNumberOnce) {
  Rng rng(9, "test");
  std::vector<int64_t> order = rng.permutation(1000);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < 1000; ++i) EXPECT_EQ(order[i], i);
  EXPECT_TRUE(rng.permutation(0).empty());
}

}  // namespace
}  // namespace fl_sim
