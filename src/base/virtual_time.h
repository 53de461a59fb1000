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
// 73,000 years: later than what any run plans with.
constexpr Micros kEndOfTime = Micros{1} << 61;

// Rounded once. Throws Error where it is not a number, negative, or longer than 73,000 years.
inline Micros micros(double seconds) {
  const double exact = seconds * static_cast<double>(kSecond);
  FL_CHECK(exact >= 0 && exact <= static_cast<double>(kEndOfTime), "a time of ", seconds,
           " s (must be at least 0 and at most 73,000 years; are the devices' figures right?)");
  return std::llround(exact);
}

inline double seconds_of(Micros time) {
  return static_cast<double>(time) / static_cast<double>(kSecond);
}

}  // namespace fl_sim
