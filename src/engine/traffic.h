// What a real server and its clients would send each other.
#pragma once

#include <cstdint>

#include "learning/algorithm.h"

namespace fl_sim {

struct Experiment;

// Bytes to and from each client in an exchange.
struct Traffic {
  int64_t down = 0, up = 0;
};
Traffic client_traffic(const Experiment& experiment, const GlobalModel& model);

}  // namespace fl_sim
