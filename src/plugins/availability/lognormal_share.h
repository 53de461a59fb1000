// How often clients can be reached where some always are and many hardly ever.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/rng.h"

namespace fl_sim {

// FLGo's: client k draws LN(0, -ln(1 - beta)) once, over the largest that anybody drew. For that we
// take the law's 99.9 % quantile, so that no client depends on who else there is: the thousandth
// above it has 1, and the thousandth below the 0.1 % quantile what stands there.
inline double lognormal_share(uint64_t seed, int64_t client, double beta) {
  constexpr double kQuantile = 3.0902323061678132;  // of the normal law, 99.9 %
  const double z =
      std::clamp(Rng(seed, "availability-share", 0, client).normal(), -kQuantile, kQuantile);
  return std::exp(-std::log1p(-beta) * (z - kQuantile));
}

}  // namespace fl_sim
