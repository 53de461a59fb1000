#include "commands/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

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

}  // namespace
}  // namespace fl_sim
