// A rank has died.
#pragma once

#include "base/check.h"

namespace fl_sim {

// Thrown by what ranks do together where one of them may have died, after allow_losses() of
// rank_survival.h.
struct RankLost : Error {
  using Error::Error;
};

}  // namespace fl_sim
