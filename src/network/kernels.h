// Products and element-wise loops of small networks in float32 on one core, in the widest vectors
// that the processor has (chosen at run time by Google's Highway).
//
// Plain pointers, no allocation, no threads. A value depends on the operands and on the kind of
// processor, never on where the operands lie. Matrices are row by row; `x_row` is the distance from
// one row of x to the next, in floats.
#pragma once

#include <cstdint>

namespace fl_sim::kernels {

// Up to three nested sums: how many terms, and how far a and b move from one to the next.
struct Terms {
  int64_t count = 1, a = 0, b = 0;
};

// With sum = the sum over all terms of a[m * a_row + ...] * b[n + ...], started with bias[n] if
// there is a bias, and plus[m, n] added if there is a plus, laid out as c:
//   c[m, n] = sum, or with `add`
//   c[m, n] = c[m, n] + (sum - decay * c[m, n]): small changes of large numbers are not lost.
// A matrix product has one loop of terms; a convolution has three.
struct Product {
  int64_t rows, columns;
  const float* a;
  int64_t a_row;
  const float* b;
  float* c;
  int64_t c_row;
  Terms outer = {}, middle = {}, inner;
  const float* bias = nullptr;
  const float* plus = nullptr;
  bool add = false;
  float decay = 0;
};
void product(const Product& p);

// c[m, n] = bias[n] + sum over k < depth of a[m, k] * b[n, k].
struct DotProducts {
  int64_t rows, columns, depth;
  const float* a;
  int64_t a_row;
  const float* b;
  int64_t b_row;
  const float* bias;
  float* c;
  int64_t c_row;
};
void dot_products(const DotProducts& p);

// y[n] += x[n].
void add(int64_t n, const float* x, float* y);

// With change = scale * x[n], and + plus[n] if there is a plus: y[n] = change, or y[n] + (change -
// decay * y[n]) with `add`.
void blend(int64_t n, float scale, const float* x, const float* plus, bool add, float decay,
           float* y);

// y[n] = scale * x[n] + shift.
void convert(int64_t n, const uint8_t* x, float scale, float shift, float* y);
void convert(int64_t n, const float* x, float scale, float shift, float* y);

// x[n] = max(x[n], 0); not a number stays so. And its gradient: g[n] = 0 where y[n] is 0.
void relu(int64_t n, float* x);
void relu_gradient(int64_t n, const float* y, float* g);

// Maxima of windows of size x size pixels, side by side, of one sample [height, width, channels]
// whose rows lie `x_row` apart; pixels that fill no window are left out. y [height / size, width /
// size, channels].
struct MaxPool {
  int64_t height, width, channels, size;
  int64_t x_row, y_row;
};
void max_pool(const MaxPool& p, const float* x, float* y);

// The gradient by x, laid out as x, or in its place: that of its window, g, for the first pixel
// that equals the maximum y, 0 for the others. g and y are laid out alike.
void max_pool_gradient(const MaxPool& p, const float* x, const float* y, const float* g, float* dx);

// The name of the instruction set in use.
const char* instruction_set();

}  // namespace fl_sim::kernels
