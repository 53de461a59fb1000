// The kernels against triple loops in double precision, for every instruction set that this
// processor has, on shapes that leave remainders everywhere. Memory around a result must stay as it
// was, and a result that is overwritten must not be read.
#include "network/kernels.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"

namespace fl_sim::kernels {
namespace {

constexpr float kGuard = 12345;
const float kNaN = std::numeric_limits<float>::quiet_NaN();

class Kernels : public testing::TestWithParam<int64_t> {
 protected:
  Kernels() { hwy::SetSupportedTargetsForTest(GetParam()); }
  ~Kernels() override { hwy::SetSupportedTargetsForTest(0); }

  std::vector<float> random(int64_t n) {
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<float>(rng_.normal()));
    return values;
  }
  int64_t below(int64_t n) { return rng_.below(n); }

 private:
  Rng rng_{1, "check"};
};

std::vector<int64_t> targets() {
  std::vector<int64_t> result;
  for (int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    // A set that is not compiled in falls back to another.
    if (instruction_set() == std::string(hwy::TargetName(target))) result.push_back(target);
    hwy::SetSupportedTargetsForTest(0);
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(, Kernels, testing::ValuesIn(targets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

// The best set and the fallback at least.
TEST(KernelSets, AreTested) { EXPECT_GE(targets().size(), 2u); }

// Sums of n products of normal numbers may be off by about n roundings.
void expect_close(double actual, double expected, double size, const std::string& where) {
  ASSERT_NEAR(actual, expected, 1e-6 * (size + 1)) << where;
}

TEST_P(Kernels, Product) {
  for (int trial = 0; trial < 120; ++trial) {
    const int64_t rows = 1 + below(33), columns = 1 + below(70);
    const bool transposed = below(2) == 0;
    Terms outer{.count = 1 + below(3)}, middle{.count = 1 + below(3)}, inner{.count = 1 + below(9)};
    // Any strides will do; those of b leave room for a row.
    inner.b = columns + below(3);
    middle.b = inner.b * inner.count + below(5);
    outer.b = middle.b * middle.count;
    inner.a = transposed ? rows + below(4) : 1;
    middle.a = inner.a * inner.count;
    outer.a = middle.a * middle.count + below(3);
    const int64_t a_row = transposed ? 1 : outer.a * outer.count;
    const std::vector<float> a = random(a_row * rows + outer.a * outer.count);
    const std::vector<float> b = random(outer.b * outer.count + columns);
    const int64_t c_row = columns + below(20);
    const std::vector<float> bias = random(columns), plus = random(rows * c_row);
    const std::vector<float> before = random(rows * c_row);
    const bool with_bias = below(2) == 0, with_plus = below(2) == 0, adds = below(2) == 0;
    std::vector<float> c = before;
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < c_row; ++n) {
        if (n >= columns) c[m * c_row + n] = kGuard;
        if (n < columns && !adds) c[m * c_row + n] = kNaN;  // must not be read
      }
    }
    product({.rows = rows,
             .columns = columns,
             .a = a.data(),
             .a_row = a_row,
             .b = b.data(),
             .c = c.data(),
             .c_row = c_row,
             .outer = outer,
             .middle = middle,
             .inner = inner,
             .bias = with_bias ? bias.data() : nullptr,
             .plus = with_plus ? plus.data() : nullptr,
             .add = adds,
             .decay = 0.25F});
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < c_row; ++n) {
        const int64_t at = m * c_row + n;
        if (n >= columns) {
          ASSERT_EQ(c[at], kGuard);
          continue;
        }
        double expected = with_bias ? bias[n] : 0;
        if (with_plus) expected += plus[at];
        if (adds) expected += 0.75 * before[at];
        double size = 3;
        for (int64_t i = 0; i < outer.count; ++i) {
          for (int64_t j = 0; j < middle.count; ++j) {
            for (int64_t k = 0; k < inner.count; ++k) {
              const double term =
                  static_cast<double>(a[m * a_row + i * outer.a + j * middle.a + k * inner.a]) *
                  b[n + i * outer.b + j * middle.b + k * inner.b];
              expected += term;
              size += std::abs(term);
            }
          }
        }
        expect_close(c[at], expected, size, "rows " + std::to_string(rows));
      }
    }
  }
}

TEST_P(Kernels, DotProducts) {
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t rows = 1 + below(25), columns = 1 + below(135);
    const int64_t depth = trial % 4 == 0 ? 1500 + below(400) : 1 + below(70);
    const int64_t a_row = depth + below(4), b_row = depth + below(4), c_row = columns + below(5);
    const std::vector<float> a = random(rows * a_row), b = random(columns * b_row);
    const std::vector<float> bias = random(columns);
    std::vector<float> c(rows * c_row, kNaN);
    for (int64_t m = 0; m < rows; ++m) {
      std::fill(c.begin() + m * c_row + columns, c.begin() + (m + 1) * c_row, kGuard);
    }
    dot_products({.rows = rows,
                  .columns = columns,
                  .depth = depth,
                  .a = a.data(),
                  .a_row = a_row,
                  .b = b.data(),
                  .b_row = b_row,
                  .bias = bias.data(),
                  .c = c.data(),
                  .c_row = c_row});
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < c_row; ++n) {
        if (n >= columns) {
          ASSERT_EQ(c[m * c_row + n], kGuard);
          continue;
        }
        double expected = bias[n], size = std::abs(expected);
        for (int64_t k = 0; k < depth; ++k) {
          const double term = static_cast<double>(a[m * a_row + k]) * b[n * b_row + k];
          expected += term;
          size += std::abs(term);
        }
        expect_close(c[m * c_row + n], expected, size, "depth " + std::to_string(depth));
      }
    }
  }
}

// 64 changes that are each less than half of the last bit of c add up as their sum does.
TEST_P(Kernels, SmallTermsAreNotLost) {
  const std::vector<float> a(64, 1), b(64 * 20, 1e-9F);
  std::vector<float> c(20, 0.05F);
  product({.rows = 1,
           .columns = 20,
           .a = a.data(),
           .a_row = 64,
           .b = b.data(),
           .c = c.data(),
           .c_row = 20,
           .inner = {64, 1, 20},
           .add = true});
  for (const float value : c) EXPECT_NEAR(value - 0.05F, 64e-9, 4e-9);
}

// A sample's scores do not depend on which others stand beside it in the batch.
TEST_P(Kernels, ARowsDotProductsDoNotDependOnTheOtherRows) {
  const int64_t columns = 37, depth = 1000;
  const std::vector<float> a = random(23 * depth), b = random(columns * depth),
                           bias = random(columns);
  std::vector<float> together(23 * columns), alone(columns);
  const auto dots = [&](int64_t rows, const float* from, float* to) {
    dot_products({.rows = rows,
                  .columns = columns,
                  .depth = depth,
                  .a = from,
                  .a_row = depth,
                  .b = b.data(),
                  .b_row = depth,
                  .bias = bias.data(),
                  .c = to,
                  .c_row = columns});
  };
  dots(23, a.data(), together.data());
  for (int64_t m = 0; m < 23; ++m) {
    dots(1, a.data() + m * depth, alone.data());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + m * columns));
  }
}

TEST_P(Kernels, ElementByElement) {
  for (const int64_t n : {1, 3, 4, 15, 16, 17, 100}) {
    const std::vector<float> x = random(n), y = random(n), plus = random(n);
    std::vector<float> sum = y, blended = y, blended_plus = y, fresh(n, kNaN), fresh_plus = fresh;
    add(n, x.data(), sum.data());
    blend(n, -2, x.data(), nullptr, true, 0.5, blended.data());
    blend(n, -2, x.data(), plus.data(), true, 0.5, blended_plus.data());
    blend(n, -2, x.data(), nullptr, false, 0.5, fresh.data());
    blend(n, -2, x.data(), plus.data(), false, 0.5, fresh_plus.data());
    std::vector<uint8_t> bytes(n);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(below(256));
    std::vector<float> from_bytes(n), from_floats(n), rectified = x, gradient = y;
    convert(n, bytes.data(), 0.5, -1, from_bytes.data());
    convert(n, x.data(), 0.5, -1, from_floats.data());
    relu(n, rectified.data());
    relu_gradient(n, rectified.data(), gradient.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_FLOAT_EQ(sum[i], x[i] + y[i]);
      EXPECT_NEAR(blended[i], 0.5 * y[i] - 2.0 * x[i], 1e-6);
      EXPECT_NEAR(blended_plus[i], 0.5 * y[i] - 2.0 * x[i] + plus[i], 2e-6);
      EXPECT_EQ(fresh[i], -2 * x[i]);
      EXPECT_NEAR(fresh_plus[i], plus[i] - 2.0 * x[i], 1e-6);
      EXPECT_EQ(from_bytes[i], bytes[i] * 0.5F - 1);
      EXPECT_NEAR(from_floats[i], x[i] * 0.5 - 1, 1e-6);
      EXPECT_EQ(rectified[i], std::max(x[i], 0.0F));
      EXPECT_EQ(gradient[i], x[i] > 0 ? y[i] : 0);
    }
  }
}

// What is not a number must not vanish: a client that diverged is told by it.
TEST_P(Kernels, NaNStays) {
  std::vector<float> x(20, -1);
  x[3] = x[18] = kNaN;
  relu(20, x.data());
  EXPECT_TRUE(std::isnan(x[3]) && std::isnan(x[18]));
  EXPECT_EQ(x[4], 0);

  for (const int64_t at : {0, 1, 2, 3}) {
    constexpr int64_t kChannels = 20;  // whole vectors and a rest
    std::vector<float> pixels = random(4 * kChannels), y(kChannels);
    std::fill_n(pixels.begin() + at * kChannels, kChannels, kNaN);
    max_pool({.height = 2,
              .width = 2,
              .channels = kChannels,
              .size = 2,
              .x_row = 2 * kChannels,
              .y_row = kChannels},
             pixels.data(), y.data());
    for (const float value : y) EXPECT_TRUE(std::isnan(value)) << "at " << at;
  }
}

TEST_P(Kernels, MaxPoolAndItsGradient) {
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t size = 1 + below(3), height = size + below(6), width = size + below(6);
    const int64_t channels = trial % 3 == 0 ? 60 + below(80) : 1 + below(9);
    const int64_t x_row = width * channels + below(4);
    const int64_t rows = height / size, columns = width / size, y_row = columns * channels;
    std::vector<float> x = random(height * x_row);
    for (float& value : x) value = std::round(2 * value);  // so that some are equal
    const MaxPool shape{height, width, channels, size, x_row, y_row};
    std::vector<float> y(rows * y_row, kNaN);
    const std::vector<float> g = random(rows * y_row);
    std::vector<float> dx(height * x_row, kGuard);
    max_pool(shape, x.data(), y.data());
    max_pool_gradient(shape, x.data(), y.data(), g.data(), dx.data());

    std::vector<float> expected(height * x_row, 0);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        for (int64_t c = 0; c < channels; ++c) {
          int64_t best = -1;
          for (int64_t i = 0; i < size * size; ++i) {
            const int64_t at =
                (row * size + i / size) * x_row + (column * size + i % size) * channels + c;
            if (best < 0 || x[at] > x[best]) best = at;
          }
          EXPECT_EQ(y[row * y_row + column * channels + c], x[best]);
          expected[best] = g[row * y_row + column * channels + c];
        }
      }
    }
    std::vector<float> in_place = x;
    max_pool_gradient(shape, in_place.data(), y.data(), g.data(), in_place.data());
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t i = 0; i < x_row; ++i) {
        const int64_t at = row * x_row + i;
        const bool inside = i < width * channels;
        EXPECT_EQ(dx[at], inside ? expected[at] : kGuard);
        EXPECT_EQ(in_place[at], inside ? expected[at] : x[at]);
      }
    }
  }
}

}  // namespace
}  // namespace fl_sim::kernels
