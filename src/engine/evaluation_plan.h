// When a run's model is evaluated, and by whom.
#pragma once

#include <cstdint>
#include <string>

#include "base/option_set.h"

namespace fl_sim {

struct EvaluationPlan {
  int64_t every = 1;         // rounds; 0: only after the last
  double every_seconds = 0;  // of virtual time: after the first round that ends at or after each; 0
  int64_t holdout = 0;       // clients that never train
  double share = 0;          // of the clients, who evaluate after such a round too
  int64_t min_clients = 1;   // who do, where share is above 0
  std::string split;         // of their samples: "test" or "validation"
  double target = 0;         // accuracy at which the run ends; 0: none

  // Whether models are looked at while the run goes on.
  bool on_the_way() const { return every > 0 || every_seconds > 0; }
  bool on_test() const { return split == "test"; }
  static const OptionSet<EvaluationPlan> kOptions;
};

}  // namespace fl_sim
