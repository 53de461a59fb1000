// What a real server and its clients would send each other.
#pragma once

#include <cmath>
#include <cstdint>

#include "learning/algorithm.h"

namespace fl_sim {

struct Experiment;

// Bytes to and from a client in an exchange.
struct Traffic {
  int64_t down = 0, up = 0;

  // Of a client whose task takes so much of it.
  Traffic of(const TaskCost& cost) const {
    return {.down = std::llround(cost.down * static_cast<double>(down)),
            .up = std::llround(cost.up * static_cast<double>(up))};
  }
};
// Of one that trains the whole model.
Traffic client_traffic(const Experiment& experiment, const GlobalModel& model);

}  // namespace fl_sim
