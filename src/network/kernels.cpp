// Compiled once for each instruction set by Highway's foreach_target, which includes this file.
#include "network/kernels.h"

#include <algorithm>
#include <cmath>

// Sets that differ in nothing that is used here are left out, and those whose vectors have no size
// at compile time.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#define HWY_BROKEN_EMU128 0  // the fallback: four lanes, not one
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "network/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fl_sim::kernels::HWY_NAMESPACE {
// NOLINTBEGIN(readability-identifier-naming): Highway's way to name what is compiled once a target
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;
using Mask = hn::Mask<Tag>;
constexpr Tag kTag;
constexpr int64_t kLanes = hn::MaxLanes(Tag());

// A tile's sums stay in registers: 32 of them with AVX-512, 16 otherwise.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kTileRows = 14, kDotRows = 10;
#else
constexpr int kTileRows = 6, kDotRows = 5;
#endif
constexpr int kTileVectors = 2;

// Without them Highway's masked loads and stores touch whole vectors.
#undef FL_NO_MASKS
#define FL_NO_MASKS (!HWY_ARCH_X86 || HWY_TARGET > HWY_AVX2)

// The first `count` lanes of a vector in memory: no other is read or written.
struct Part {
  explicit Part(int64_t a_count)
      : count(a_count), mask(hn::FirstN(kTag, static_cast<size_t>(a_count))) {}

  HWY_INLINE Vec load(const float* from) const {
#if FL_NO_MASKS
    HWY_ALIGN float whole[kLanes] = {};
    std::copy_n(from, count, whole);
    return hn::Load(kTag, whole);
#else
    return hn::MaskedLoad(mask, kTag, from);
#endif
  }
  HWY_INLINE void store(const Vec& vector, float* to) const {
#if FL_NO_MASKS
    HWY_ALIGN float whole[kLanes];
    hn::Store(vector, kTag, whole);
    std::copy_n(whole, count, to);
#else
    hn::BlendedStore(vector, mask, kTag, to);
#endif
  }

  int64_t count;
  Mask mask;
};

// kRows x kVectors vectors of a product; of the last vector only `tail`, if kTail.
template <int kRows, int kVectors, bool kTail>
HWY_INLINE void tile(const Product& p, int64_t row, int64_t column, const Part& tail) {
  const auto load_column = [&](const float* from, int v) HWY_ATTR {
    return kTail && v == kVectors - 1 ? tail.load(from + v * kLanes)
                                      : hn::LoadU(kTag, from + v * kLanes);
  };
  Vec sum[kRows][kVectors];
  float* c = p.c + row * p.c_row + column;
  for (int v = 0; v < kVectors; ++v) {
    const Vec start = p.bias != nullptr ? load_column(p.bias + column, v) : hn::Zero(kTag);
    HWY_UNROLL(16)
    for (int m = 0; m < kRows; ++m) sum[m][v] = start;
  }

  // One pointer for three rows of a: the processor can address p, p + s and p + 2 s.
  constexpr int kPointers = (kRows + 2) / 3;
  const int64_t a_row = p.a_row;
  const float* a_start = p.a + row * a_row;
  const float* b_start = p.b + column;
  for (int64_t outer = 0; outer < p.outer.count; ++outer) {
    for (int64_t middle = 0; middle < p.middle.count; ++middle) {
      const float* a[kPointers];
      const int64_t a_offset = outer * p.outer.a + middle * p.middle.a;
      for (int i = 0; i < kPointers; ++i) a[i] = a_start + a_offset + 3 * i * a_row;
      const float* b = b_start + outer * p.outer.b + middle * p.middle.b;
      for (int64_t inner = 0; inner < p.inner.count; ++inner) {
        Vec column_of_b[kVectors];
        for (int v = 0; v < kVectors; ++v) column_of_b[v] = load_column(b, v);
        HWY_UNROLL(16)
        for (int m = 0; m < kRows; ++m) {
          const Vec factor = hn::Set(kTag, a[m / 3][m % 3 * a_row]);
          for (int v = 0; v < kVectors; ++v) {
            sum[m][v] = hn::MulAdd(factor, column_of_b[v], sum[m][v]);
          }
        }
        for (int i = 0; i < kPointers; ++i) a[i] += p.inner.a;
        b += p.inner.b;
      }
    }
  }
  const Vec decay = hn::Set(kTag, p.decay);
  HWY_UNROLL(16)
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      Vec& result = sum[m][v];
      if (p.plus != nullptr) {
        result = hn::Add(result, load_column(p.plus + (row + m) * p.c_row + column, v));
      }
      if (p.add) {
        const Vec old = load_column(c + m * p.c_row, v);
        result = hn::Add(old, hn::NegMulAdd(decay, old, result));
      }
      float* to = c + m * p.c_row + v * kLanes;
      if (kTail && v == kVectors - 1) {
        tail.store(result, to);
      } else {
        hn::StoreU(result, kTag, to);
      }
    }
  }
}

// One in a function of its own: among others the compiler has too few registers for it.
template <int kRows, int kVectors, bool kTail>
HWY_NOINLINE void last_tile(const Product& p, int64_t row, int64_t column, const Part& tail) {
  tile<kRows, kVectors, kTail>(p, row, column, tail);
}

// All columns of kRows rows.
template <int kRows>
void strip(const Product& p, int64_t row) {
  constexpr int64_t kWide = kTileVectors * kLanes;
  const Part none(0), tail(p.columns % kLanes);
  int64_t column = 0;
  for (; column + kWide <= p.columns; column += kWide) {
    tile<kRows, kTileVectors, false>(p, row, column, none);
  }
  if (column + kLanes < p.columns) {
    last_tile<kRows, 2, true>(p, row, column, tail);
  } else if (column + kLanes == p.columns) {
    last_tile<kRows, 1, false>(p, row, column, none);
  } else if (column < p.columns) {
    last_tile<kRows, 1, true>(p, row, column, tail);
  }
}

using StripFunction = void (*)(const Product&, int64_t row);

// For `rows` rows, at most kRows.
template <int kRows = kTileRows>
StripFunction strip_of(int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return strip_of<kRows - 1>(rows);
  }
  return strip<kRows>;
}

// Cuts `rows` into parts of at most `most`, as even as can be, and calls part(first, count).
template <typename Part>
void evenly(int64_t rows, int64_t most, const Part& part) {
  const int64_t parts = (rows + most - 1) / most;
  for (int64_t i = 0, first = 0; i < parts; ++i) {
    const int64_t count = (rows - first) / (parts - i);
    part(first, count);
    first += count;
  }
}

void Product_(const Product& p) {
  evenly(p.rows, kTileRows, [&](int64_t row, int64_t rows) { strip_of(rows)(p, row); });
}

// Otherwise the compiler loads a vector again for each of its uses, and loads are what is short.
HWY_INLINE void keep_in_register(Vec& vector) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128
  asm("" : "+v"(vector.raw));
#else
  (void)vector;
#endif
}

using Four = hn::FixedTag<float, 4>;

// The sums over the lanes of four vectors.
HWY_INLINE hn::Vec<Four> sums_of_four(const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
  // Within each block of 128 bits: [a0+a2, b0+b2, a1+a3, b1+b3] and the like, then all four.
  const Vec ab = hn::Add(hn::InterleaveLower(kTag, a, b), hn::InterleaveUpper(kTag, a, b));
  const Vec cd = hn::Add(hn::InterleaveLower(kTag, c, d), hn::InterleaveUpper(kTag, c, d));
  const hn::Repartition<double, Tag> pairs;
  const auto ab2 = hn::BitCast(pairs, ab), cd2 = hn::BitCast(pairs, cd);
  const Vec four = hn::Add(hn::BitCast(kTag, hn::InterleaveLower(pairs, ab2, cd2)),
                           hn::BitCast(kTag, hn::InterleaveUpper(pairs, ab2, cd2)));
  HWY_ALIGN float blocks[kLanes];
  hn::Store(four, kTag, blocks);
  auto sum = hn::Load(Four(), blocks);
  for (int64_t i = 4; i < kLanes; i += 4) sum = hn::Add(sum, hn::Load(Four(), blocks + i));
  return sum;
}

// kRows x 2 dot products over part of the depth, added to c or to the bias.
template <int kRows, int kColumns>
void dots(const DotProducts& p, int64_t row, int64_t column, int64_t first, int64_t depth) {
  Vec sum[kRows][kColumns];
  HWY_UNROLL(16)
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kColumns; ++n) sum[m][n] = hn::Zero(kTag);
  }
  constexpr int kPointers = (kRows + 2) / 3;
  const int64_t a_row = p.a_row;
  const float* a[kPointers];
  for (int i = 0; i < kPointers; ++i) a[i] = p.a + (row + 3 * i) * a_row + first;
  const float* b = p.b + column * p.b_row + first;
  const int64_t b_row = p.b_row;
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    Vec factor[kColumns];
    for (int n = 0; n < kColumns; ++n) factor[n] = hn::LoadU(kTag, b + n * b_row + k);
    HWY_UNROLL(16)
    for (int m = 0; m < kRows; ++m) {
      Vec x = hn::LoadU(kTag, a[m / 3] + m % 3 * a_row + k);
      keep_in_register(x);
      for (int n = 0; n < kColumns; ++n) sum[m][n] = hn::MulAdd(x, factor[n], sum[m][n]);
    }
  }
  if (k < depth) {
    const Part tail(depth - k);
    Vec factor[kColumns];
    for (int n = 0; n < kColumns; ++n) factor[n] = tail.load(b + n * b_row + k);
    HWY_UNROLL(16)
    for (int m = 0; m < kRows; ++m) {
      const Vec x = tail.load(a[m / 3] + m % 3 * a_row + k);
      for (int n = 0; n < kColumns; ++n) sum[m][n] = hn::MulAdd(x, factor[n], sum[m][n]);
    }
  }

  // Four sums at a time, in the order of rows, then columns; the last ones may repeat.
  constexpr int kSums = kRows * kColumns;
  const auto at = [&](int i) HWY_ATTR -> const Vec& {
    const int inside = i < kSums ? i : kSums - 1;
    return sum[inside / kColumns][inside % kColumns];
  };
  HWY_UNROLL(16)
  for (int i = 0; i < kSums; i += 4) {
    HWY_ALIGN float four[4];
    hn::Store(sums_of_four(at(i), at(i + 1), at(i + 2), at(i + 3)), Four(), four);
    for (int j = 0; j < 4 && i + j < kSums; ++j) {
      const int n = (i + j) % kColumns;
      float* c = p.c + (row + (i + j) / kColumns) * p.c_row + column + n;
      *c = (first == 0 ? p.bias[column + n] : *c) + four[j];
    }
  }
}

using DotsFunction = void (*)(const DotProducts&, int64_t row, int64_t column, int64_t first,
                              int64_t depth);

template <int kRows = kDotRows>
DotsFunction dots_of(int64_t rows, bool two_columns) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return dots_of<kRows - 1>(rows, two_columns);
  }
  return two_columns ? dots<kRows, 2> : dots<kRows, 1>;
}

void DotProducts_(const DotProducts& p) {
  // kDotRows rows of a, this deep, stay in the first-level cache, and 64 of b in the second.
  constexpr int64_t kDepth = 784, kColumns = 64;
  for (int64_t first = 0; first < p.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, p.depth - first);
    for (int64_t block = 0; block < p.columns; block += kColumns) {
      const int64_t end = std::min(block + kColumns, p.columns);
      evenly(p.rows, kDotRows, [&](int64_t row, int64_t rows) {
        const DotsFunction two = dots_of(rows, true);
        int64_t column = block;
        for (; column + 2 <= end; column += 2) two(p, row, column, first, depth);
        if (column < end) dots_of(rows, false)(p, row, column, first, depth);
      });
    }
  }
}

// The compiler makes vectors of these.
void Add(int64_t n, const float* HWY_RESTRICT x, float* HWY_RESTRICT y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void Blend(int64_t n, float scale, const float* HWY_RESTRICT x, const float* HWY_RESTRICT plus,
           bool add, float decay, float* HWY_RESTRICT y) {
  if (plus != nullptr && add) {
    for (int64_t i = 0; i < n; ++i) y[i] += scale * x[i] + plus[i] - decay * y[i];
  } else if (plus != nullptr) {
    for (int64_t i = 0; i < n; ++i) y[i] = scale * x[i] + plus[i];
  } else if (add) {
    for (int64_t i = 0; i < n; ++i) y[i] += scale * x[i] - decay * y[i];
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = scale * x[i];
  }
}

void ConvertBytes(int64_t n, const uint8_t* HWY_RESTRICT x, float scale, float shift,
                  float* HWY_RESTRICT y) {
  for (int64_t i = 0; i < n; ++i) y[i] = scale * static_cast<float>(x[i]) + shift;
}

void ConvertFloats(int64_t n, const float* HWY_RESTRICT x, float scale, float shift,
                   float* HWY_RESTRICT y) {
  for (int64_t i = 0; i < n; ++i) y[i] = scale * x[i] + shift;
}

void Relu(int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] <= 0 ? 0 : x[i];
}

void ReluGradient(int64_t n, const float* y, float* g) {
  for (int64_t i = 0; i < n; ++i) g[i] = y[i] <= 0 ? 0 : g[i];
}

// Calls body(part) for all channels of a pixel, a vector at a time.
template <typename Body>
HWY_INLINE void each_part(int64_t channels, const Part& last, const Body& body) {
  int64_t first = 0;
  for (; first + kLanes <= channels; first += kLanes) {
    body(
        first, [](const float* from) HWY_ATTR { return hn::LoadU(kTag, from); },
        [](const Vec& vector, float* to) HWY_ATTR { hn::StoreU(vector, kTag, to); });
  }
  if (first < channels) {
    body(
        first, [&](const float* from) HWY_ATTR { return last.load(from); },
        [&](const Vec& vector, float* to) HWY_ATTR { last.store(vector, to); });
  }
}

void MaxPool_(const MaxPool& p, const float* x, float* y) {
  const Part last(p.channels % kLanes);
  for (int64_t row = 0; row < p.height / p.size; ++row) {
    for (int64_t column = 0; column < p.width / p.size; ++column) {
      const float* window = x + row * p.size * p.x_row + column * p.size * p.channels;
      float* to = y + row * p.y_row + column * p.channels;
      each_part(p.channels, last, [&](int64_t first, auto load, auto store) HWY_ATTR {
        Vec best = load(window + first);
        for (int64_t i = 0; i < p.size; ++i) {
          for (int64_t j = i == 0 ? 1 : 0; j < p.size; ++j) {
            const Vec pixel = load(window + i * p.x_row + j * p.channels + first);
            const Mask better = hn::Or(hn::Gt(pixel, best), hn::IsNaN(pixel));
            best = hn::IfThenElse(better, pixel, best);
          }
        }
        store(best, to + first);
      });
    }
  }
}

// dx may be x.
void MaxPoolGradient(const MaxPool& p, const float* x, const float* y, const float* g, float* dx) {
  const int64_t rows = p.height / p.size, columns = p.width / p.size;
  const Part last(p.channels % kLanes);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t at = row * p.y_row + column * p.channels;
      const int64_t window = row * p.size * p.x_row + column * p.size * p.channels;
      each_part(p.channels, last, [&](int64_t first, auto load, auto store) HWY_ATTR {
        const Vec best = load(y + at + first);
        Vec left = load(g + at + first);  // what no pixel has taken yet
        for (int64_t i = 0; i < p.size; ++i) {
          for (int64_t j = 0; j < p.size; ++j) {
            const int64_t pixel = window + i * p.x_row + j * p.channels + first;
            const Mask takes = hn::Eq(load(x + pixel), best);
            store(hn::IfThenElseZero(takes, left), dx + pixel);
            left = hn::IfThenZeroElse(takes, left);
          }
        }
      });
    }
    for (int64_t i = 0; i < p.size; ++i) {
      float* line = dx + (row * p.size + i) * p.x_row;
      std::fill(line + columns * p.size * p.channels, line + p.width * p.channels, 0.0F);
    }
  }
  for (int64_t i = rows * p.size; i < p.height; ++i) {
    std::fill(dx + i * p.x_row, dx + i * p.x_row + p.width * p.channels, 0.0F);
  }
}

const char* Name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
// NOLINTEND(readability-identifier-naming)
}  // namespace fl_sim::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fl_sim::kernels {

HWY_EXPORT(Product_);
HWY_EXPORT(DotProducts_);
HWY_EXPORT(Add);
HWY_EXPORT(Blend);
HWY_EXPORT(ConvertBytes);
HWY_EXPORT(ConvertFloats);
HWY_EXPORT(Relu);
HWY_EXPORT(ReluGradient);
HWY_EXPORT(MaxPool_);
HWY_EXPORT(MaxPoolGradient);
HWY_EXPORT(Name);

void product(const Product& p) { HWY_DYNAMIC_DISPATCH(Product_)(p); }
void dot_products(const DotProducts& p) { HWY_DYNAMIC_DISPATCH(DotProducts_)(p); }
void add(int64_t n, const float* x, float* y) { HWY_DYNAMIC_DISPATCH(Add)(n, x, y); }
void blend(int64_t n, float scale, const float* x, const float* plus, bool add, float decay,
           float* y) {
  HWY_DYNAMIC_DISPATCH(Blend)(n, scale, x, plus, add, decay, y);
}
void convert(int64_t n, const uint8_t* x, float scale, float shift, float* y) {
  HWY_DYNAMIC_DISPATCH(ConvertBytes)(n, x, scale, shift, y);
}
void convert(int64_t n, const float* x, float scale, float shift, float* y) {
  HWY_DYNAMIC_DISPATCH(ConvertFloats)(n, x, scale, shift, y);
}
void relu(int64_t n, float* x) { HWY_DYNAMIC_DISPATCH(Relu)(n, x); }
void relu_gradient(int64_t n, const float* y, float* g) {
  HWY_DYNAMIC_DISPATCH(ReluGradient)(n, y, g);
}
void max_pool(const MaxPool& p, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(MaxPool_)(p, x, y);
}
void max_pool_gradient(const MaxPool& p, const float* x, const float* y, const float* g,
                       float* dx) {
  HWY_DYNAMIC_DISPATCH(MaxPoolGradient)(p, x, y, g, dx);
}
const char* instruction_set() { return HWY_DYNAMIC_DISPATCH(Name)(); }

}  // namespace fl_sim::kernels
#endif
