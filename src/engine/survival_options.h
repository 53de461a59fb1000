// What a run waits for, and whom it can do without.
#pragma once

#include <string>

#include "base/option_set.h"

namespace fl_sim {

struct SurvivalOptions {
  double grace = 0;          // seconds after a signal for the round under way
  double stall_timeout = 0;  // seconds without progress; 0: any number
  std::string on_rank_loss;  // "end" or "continue"
  bool goes_on() const { return on_rank_loss == "continue"; }
  static const OptionSet<SurvivalOptions> kOptions;
};

}  // namespace fl_sim
