// Clients that are absent or late by the job's own chances, whatever virtual time says.
#pragma once

#include <string>

#include "base/option_set.h"

namespace fl_sim {

// Who cannot be reached, who is late, and who never answers.
struct AbsenceOptions {
  double stragglers = 0;  // share of a cohort
  std::string policy;     // what they return: "drop" or "partial"
  double available = 1;   // chance that a client can be drawn
  double dropout = 0;     // chance that it then does not answer
  static const OptionSet<AbsenceOptions> kOptions;
};

}  // namespace fl_sim
