// The exact sum against 128-bit integers.
#include "engine/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace fl_sim {
namespace {

__extension__ typedef __int128 Int128;

constexpr float kBelowLimit = 2047.9999F;  // the largest float below 2048 is 2047.99988

// round(p x 2^40) to nearest, ties to even, without floating-point arithmetic: p = a 2^e and
// x = b 2^f with integers a, b of 24 bits.
int64_t reference_term(float weight, float value) {
  int e = 0, f = 0;
  const auto a = static_cast<int64_t>(std::ldexp(std::frexp(weight, &e), 24));
  const auto b = static_cast<int64_t>(std::ldexp(std::frexp(value, &f), 24));
  const int shift = e - 24 + f - 24 + 40;
  const Int128 product = static_cast<Int128>(a) * b;
  if (shift >= 0) return static_cast<int64_t>(product << shift);
  if (shift < -100) return 0;
  const Int128 magnitude = product < 0 ? -product : product;
  const Int128 unit = static_cast<Int128>(1) << -shift, half = unit / 2;
  Int128 quotient = magnitude / unit;
  const Int128 rest = magnitude % unit;
  if (rest > half || (rest == half && quotient % 2 == 1)) ++quotient;
  return static_cast<int64_t>(product < 0 ? -quotient : quotient);
}

// Values of all magnitudes from 1e-20 to just below 2048, both signs, zeros and exact ties.
torch::Tensor wide_values(int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> exponent(-66, 11), sign(-1, 1);
  torch::Tensor values = torch::empty({n});
  for (int64_t i = 0; i < n; ++i) {
    const double magnitude = std::exp2(exponent(generator));
    values[i] = std::clamp(static_cast<float>(sign(generator) < 0 ? -magnitude : magnitude),
                           -kBelowLimit, kBelowLimit);
  }
  values[0] = 0;
  values[1] = -kBelowLimit;
  values[2] = kBelowLimit;
  values[3] = std::ldexp(1.0F, -41);  // ties, for a weight of 1
  values[4] = -std::ldexp(3.0F, -41);
  values[5] = std::numeric_limits<float>::denorm_min();
  return values;
}

std::vector<int64_t> integers(WeightedSum& sum) {
  const torch::Tensor buffer = sum.buffer().cpu();
  return {buffer.data_ptr<int64_t>(), buffer.data_ptr<int64_t>() + buffer.numel()};
}

WeightedSum exact(std::vector<int64_t> sizes) {
  return WeightedSum(std::move(sizes), SumKind::kExact, torch::kCPU);
}

// Each term is the correctly rounded product, for lengths that leave every remainder of a vector
// register; terms add as integers; the weight is counted beside them.
TEST(ExactSum, EqualsIntegerArithmetic) {
  for (const int64_t n : {6, 7, 16, 37, 1003}) {
    WeightedSum sum = exact({n});
    std::vector<Int128> expected(static_cast<size_t>(n));
    Int128 weight = 0;
    uint32_t seed = 0;
    for (const float p : {1.0F, 0.1F, 1.0F / 3, 1e-4F, 0x1p-20F, 0.0F}) {
      const torch::Tensor values = wide_values(n, ++seed);
      sum.add({values}, p);
      for (int64_t i = 0; i < n; ++i) {
        expected[static_cast<size_t>(i)] += reference_term(p, values.data_ptr<float>()[i]);
      }
      weight += reference_term(p, 1);
    }
    const std::vector<int64_t> actual = integers(sum);
    ASSERT_EQ(actual.size(), static_cast<size_t>(n) + 1);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(expected[i] == actual[i]) << "element " << i << " of " << n;
    }
    EXPECT_TRUE(weight == actual.back());
    EXPECT_DOUBLE_EQ(sum.weight(), static_cast<double>(weight) / 0x1p40);
  }
}

// 57 clients in five orders and split over 1, 2, 5 and 57 partial sums: the same bits.
TEST(ExactSum, BitsDoNotDependOnOrderOrSplitting) {
  constexpr int64_t kClients = 57, kSize = 101;
  std::vector<torch::Tensor> values;
  std::vector<float> weights;
  for (int64_t k = 0; k < kClients; ++k) {
    values.push_back(wide_values(kSize, static_cast<uint32_t>(k)));
    weights.push_back(static_cast<float>(static_cast<double>(k + 1) / (57 * 58 / 2.0)));
  }
  std::vector<int64_t> order(kClients);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 generator(3);
  std::vector<int64_t> reference;
  bool float_differs = false;
  torch::Tensor float_reference;
  for (int trial = 0; trial < 5; ++trial) {
    for (const int64_t parts : {1, 2, 5, 57}) {
      WeightedSum total = exact({kSize});
      for (int64_t part = 0; part < parts; ++part) {
        WeightedSum sum = exact({kSize});
        for (int64_t i = part; i < kClients; i += parts) {
          const auto k = static_cast<size_t>(order[static_cast<size_t>(i)]);
          sum.add({values[k]}, weights[k]);
        }
        total.buffer().add_(sum.buffer());
      }
      if (reference.empty()) reference = integers(total);
      EXPECT_EQ(integers(total), reference) << parts << " parts";
    }
    WeightedSum floats({kSize}, SumKind::kFloat, torch::kCPU);
    for (const int64_t k : order) {
      floats.add({values[static_cast<size_t>(k)]}, weights[static_cast<size_t>(k)]);
    }
    if (!float_reference.defined()) float_reference = floats.buffer().clone();
    float_differs |= !torch::equal(floats.buffer(), float_reference);
    std::shuffle(order.begin(), order.end(), generator);
  }
  EXPECT_TRUE(float_differs) << "these values do not show what exactness is for";
}

// Several vectors lie one after the other, each with its own mean; clear() forgets everything.
TEST(ExactSum, MeansOfSeveralVectors) {
  WeightedSum sum = exact({2, 3});
  EXPECT_EQ(sum.weight(), 0);
  sum.add({torch::tensor({1.0F, 2.0F}), torch::tensor({3.0F, 4.0F, 5.0F})}, 0.25F);
  sum.add({torch::tensor({5.0F, -2.0F}), torch::tensor({0.0F, 8.0F, 1.0F})}, 0.5F);
  EXPECT_EQ(sum.weight(), 0.75);  // as if a client of weight 1/4 had been left out
  const std::vector<torch::Tensor> means = sum.means(torch::kFloat64);
  ASSERT_EQ(means.size(), 2u);
  const torch::Tensor first = torch::tensor({11.0, -2.0}, torch::kFloat64) / 3;
  const torch::Tensor second = torch::tensor({3.0, 20.0, 7.0}, torch::kFloat64) / 3;
  EXPECT_TRUE(torch::allclose(means[0][0], first, 1e-15, 0));
  EXPECT_TRUE(torch::allclose(means[1], second, 1e-15, 0));
  EXPECT_EQ(sum.means(torch::kFloat32)[0].scalar_type(), torch::kFloat32);
  sum.clear();
  EXPECT_EQ(integers(sum), std::vector<int64_t>(6));
}

// Float64 values, columns of a matrix and slices take the path of tensor operations: same bits.
TEST(ExactSum, EveryPathGivesTheSameBits) {
  constexpr int64_t kSize = 1003;
  const torch::Tensor values = wide_values(kSize, 9);
  for (const float p : {1.0F, 0.3F, 1e-4F}) {
    WeightedSum reference = exact({kSize});
    reference.add({values}, p);
    const torch::Tensor column = torch::stack({values, values * 2}, 1).select(1, 0);
    const torch::Tensor slice = torch::stack({values, values * 2})[0];
    ASSERT_FALSE(column.is_contiguous());
    for (const torch::Tensor& other : {column, slice, values.to(torch::kFloat64)}) {
      WeightedSum sum = exact({kSize});
      sum.add({other}, p);
      EXPECT_EQ(integers(sum), integers(reference)) << "weight " << p;
    }
  }
}

// A row is refused if any value is NaN, infinite, or 2048 or more in magnitude, wherever it stands;
// float32, float64 and non-contiguous rows are judged alike, each row for itself.
TEST(ExactSum, Range) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int64_t n : {1, 5, 16, 33}) {
    for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
      for (const auto& [value, good] : {std::pair{std::nanf(""), false},
                                        {-std::nanf(""), false},
                                        {infinity, false},
                                        {-infinity, false},
                                        {2048.0F, false},
                                        {-2048.0F, false},
                                        {3e38F, false},
                                        {2047.99F, true},
                                        {-2047.99F, true},
                                        {kBelowLimit, true},
                                        {0.0F, true}}) {
        torch::Tensor rows = torch::ones({3, n});
        rows[1][place] = value;
        const std::vector<bool> expected = {true, good, true};
        EXPECT_EQ(acceptable(rows), expected) << value << " at " << place << " of " << n;
        EXPECT_EQ(acceptable(rows.to(torch::kFloat64)), expected);
        EXPECT_EQ(acceptable(rows.t().contiguous().t()), expected);
        EXPECT_EQ(acceptable(torch::cat({rows, rows * 1e9}, 1).narrow(1, 0, n)), expected);
      }
    }
  }
}

// 10,000 clients at the edge of the range, with weights that round up, do not overflow.
TEST(ExactSum, TenThousandClientsDoNotOverflow) {
  WeightedSum sum = exact({2});
  const torch::Tensor values = torch::tensor({kBelowLimit, -kBelowLimit});
  const float p = std::nextafter(1e-4F, 1.0F);
  for (int k = 0; k < 10000; ++k) sum.add({values}, p);
  const std::vector<int64_t> bits = integers(sum);
  EXPECT_EQ(bits[0], 10000 * reference_term(p, kBelowLimit));
  EXPECT_EQ(bits[1], -bits[0]);
  const torch::Tensor mean = sum.means(torch::kFloat64)[0][0];
  EXPECT_NEAR(mean[0].item<double>(), kBelowLimit, 1e-4);
  EXPECT_NEAR(mean[1].item<double>(), -kBelowLimit, 1e-4);

  // In float32 it is that mean, rounded once.
  const torch::Tensor in_float = sum.means(torch::kFloat32)[0][0];
  EXPECT_TRUE(torch::equal(in_float, mean.to(torch::kFloat32)));

  WeightedSum one = exact({2});  // a single client with all the weight
  one.add({values}, 1);
  EXPECT_TRUE(torch::equal(one.means(torch::kFloat32)[0][0], values));
}

// The mean of m clients is off by half of 2^-40 a client at most.
TEST(ExactSum, Resolution) {
  constexpr int64_t kSize = 200;
  WeightedSum sum = exact({kSize});
  std::vector<long double> expected(kSize);
  for (uint32_t k = 0; k < 4; ++k) {
    const torch::Tensor values = wide_values(kSize, k);
    sum.add({values}, 0.25F);
    for (int64_t i = 0; i < kSize; ++i) {
      expected[static_cast<size_t>(i)] += 0.25L * values.data_ptr<float>()[i];
    }
  }
  const torch::Tensor mean = sum.means(torch::kFloat64)[0][0];
  for (int64_t i = 0; i < kSize; ++i) {
    EXPECT_NEAR(mean[i].item<double>(), static_cast<double>(expected[static_cast<size_t>(i)]),
                4 * 0x1p-41 + 1e-15 * std::abs(mean[i].item<double>()));
  }
}

// sum = float is the plain weighted mean in float32, of all vectors and of the weights.
TEST(FloatSum, IsThePlainWeightedMean) {
  WeightedSum sum({3, 1}, SumKind::kFloat, torch::kCPU);
  EXPECT_EQ(sum.buffer().scalar_type(), torch::kFloat32);
  sum.add({torch::tensor({1.0F, 2.0F, -4.0F}), torch::tensor({8.0F})}, 0.125F);
  sum.add({torch::tensor({1.0F, 6.0F, 0.0F}), torch::tensor({-8.0F})}, 0.375F);
  EXPECT_EQ(sum.weight(), 0.5);
  const auto means = sum.means(torch::kFloat32);
  EXPECT_TRUE(torch::equal(means[0][0], torch::tensor({1.0F, 5.0F, -1.0F})));
  EXPECT_TRUE(torch::equal(means[1], torch::tensor({-4.0F})));
}

// Each client's first vector belongs to one model, and is divided by that model's weight alone; the
// others are shared. A model that nobody trained has weight 0 and means of 0, not of 0 / 0.
TEST(ExactSum, SeveralModels) {
  for (const SumKind kind : {SumKind::kExact, SumKind::kFloat}) {
    WeightedSum sum({2, 1}, kind, torch::kCPU, 3);
    sum.add({torch::tensor({1.0F, 2.0F}), torch::tensor({8.0F})}, 0.25F, 0);
    sum.add({torch::tensor({3.0F, 6.0F}), torch::tensor({16.0F})}, 0.125F, 2);
    sum.add({torch::tensor({5.0F, -2.0F}), torch::tensor({0.0F})}, 0.125F, 0);
    EXPECT_EQ(sum.weights(), (std::vector<double>{0.375, 0, 0.125}));
    EXPECT_EQ(sum.weight(), 0.5);
    const auto means = sum.means(torch::kFloat64);
    const torch::Tensor first =
        torch::tensor({(0.25 + 0.625) / 0.375, (0.5 - 0.25) / 0.375}, torch::kFloat64);
    EXPECT_TRUE(torch::allclose(means[0][0], first, 1e-12, 0)) << means[0];
    EXPECT_TRUE(torch::equal(means[0][1], torch::zeros({2}, torch::kFloat64)));
    EXPECT_TRUE(torch::equal(means[0][2], torch::tensor({3.0, 6.0}, torch::kFloat64)));
    EXPECT_TRUE(torch::equal(means[1], torch::tensor({(2.0 + 2.0) / 0.5}, torch::kFloat64)));
  }
}

}  // namespace
}  // namespace fl_sim
