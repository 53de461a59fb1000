#include "commands/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/statistics.h"
#include "commands/time_to_target.h"

namespace fl_sim {
namespace {

// Proves the t test on Student's own example: additional hours of sleep of ten patients under two
// drugs, "The probable error of a mean", Biometrika 1908: mean 1.58, t = 4.0621, p = 0.002833.
TEST(PairedTest, StudentsSleepData) {
  const std::vector<double> differences = {1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4};
  const PairedTest test = paired_test(differences);
  EXPECT_EQ(test.n, 10);
  EXPECT_NEAR(test.mean, 1.58, 1e-12);
  EXPECT_NEAR(test.t, 4.0621, 5e-5);
  EXPECT_NEAR(test.p, 0.002833, 5e-7);
}

// Proves what is said of too few and of equal differences.
TEST(PairedTest, EdgeCases) {
  EXPECT_TRUE(std::isnan(paired_test({0.5}).p));
  EXPECT_TRUE(std::isinf(paired_test({0.5, 0.5}).t));
  EXPECT_EQ(paired_test({0.5, 0.5}).p, 0);
  EXPECT_EQ(paired_test({0, 0, 0}).p, 1);
}

// Proves that the crossing is that of the best value so far, on straight lines: 0.9 lies halfway
// between the best so far, 0.8 in round 3, and 1.0 in round 4; the dip before does not count.
TEST(FirstCrossing, IsOfTheBestValueSoFar) {
  EXPECT_DOUBLE_EQ(first_crossing({1, 2, 3, 4}, {0.5, 0.8, 0.6, 1.0}, 0.9), 3.5);
  EXPECT_DOUBLE_EQ(first_crossing({1, 2, 4}, {0.5, 0.75, 0.875}, 0.8125), 3);
  EXPECT_DOUBLE_EQ(first_crossing({3, 4}, {0.9, 1.0}, 0.9), 3);
  EXPECT_TRUE(std::isnan(first_crossing({1, 2}, {0.1, 0.2}, 0.9)));
  EXPECT_DOUBLE_EQ(first_crossing({1, 2}, {-2, -1}, -1.5), 1.5);  // a loss that falls to 1.5
}

// Proves that the median is a bound just where what was not reached may change it: 4 and more than
// 9 have their middle above 6.5, but 4 is the middle of 1, 4 and more than 9, however long that is.
TEST(MedianOfLengths, IsABoundWhereItMustBe) {
  const Length one{1, true}, four{4, true}, nine{9, false};
  EXPECT_EQ(median_of({four, one}), (Length{2.5, true}));
  EXPECT_EQ(median_of({nine, four}), (Length{6.5, false}));
  EXPECT_EQ(median_of({nine, one, four}), (Length{4, true}));
  EXPECT_EQ(median_of({nine, nine, four}), (Length{9, false}));
  EXPECT_EQ(median_of({{2, false}, one, four}), (Length{2, false}));  // it may be 2 to 4
  EXPECT_EQ(least_of({nine, four}), (Length{4, true}));
  EXPECT_EQ(least_of({four, {2, false}}), (Length{2, false}));
  EXPECT_EQ(most_of({nine, four}), (Length{9, false}));
  EXPECT_EQ(most_of({{2, false}, four}), (Length{4, false}));
}

// Proves the statistics on numbers whose figures are known: numpy.percentile([1, 2, 4], 75) is 3.
TEST(Statistics, KnownFigures) {
  EXPECT_DOUBLE_EQ(percentile({1, 2, 4}, 0.75), 3);
  EXPECT_DOUBLE_EQ(percentile({1, 2, 4}, 1), 4);
  EXPECT_DOUBLE_EQ(nearest_rank({1, 2, 4}, 0.75), 4);
  EXPECT_DOUBLE_EQ(nearest_rank({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.9), 9);
  EXPECT_DOUBLE_EQ(nearest_rank({}, 0.9), 0);
  EXPECT_DOUBLE_EQ(jain_index({3, 3, 3}), 1);
  EXPECT_DOUBLE_EQ(jain_index({3, 0, 0, 0}), 0.25);
  EXPECT_DOUBLE_EQ(jain_index({1, 2, 3}), 36.0 / 42);
  EXPECT_DOUBLE_EQ(jain_index({0, 0}), 0);
}

}  // namespace
}  // namespace fl_sim
