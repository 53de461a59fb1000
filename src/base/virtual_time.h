// Virtual time: what passes for the clients and the server that are simulated, in whole
// microseconds since the run's start, so that sums and comparisons have the same bits everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "base/check.h"

namespace fl_sim {

using Micros = int64_t;

// Later than everything; no time that is reached comes near it.
constexpr Micros kNever = std::numeric_limits<Micros>::max();
constexpr Micros kSecond = 1'000'000;
// 2^61 microseconds, 73,000 years.
constexpr double kLongest = 0x1p61;

// Rounded once. Throws Error where it is not a number, negative, or longer than kLongest.
inline Micros micros(double seconds) {
  const double exact = seconds * static_cast<double>(kSecond);
  FL_CHECK(exact >= 0 && exact <= kLongest, "a time of ", seconds,
           " s (must be at least 0 and at most 73,000 years; are the devices' figures right?)");
  return std::llround(exact);
}

inline double seconds_of(Micros time) {
  return static_cast<double>(time) / static_cast<double>(kSecond);
}

}  // namespace fl_sim
