// The timetable of a job with devices, round by round, without training.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/async_timetable.h"
#include "engine/experiment.h"
#include "engine/virtual_clock.h"
#include "learning/records.h"

namespace fl_sim {

struct TimedRound {
  int64_t number;  // 1, 2, ...
  const Timetable& table;
  const VirtualRound& times;
  bool evaluated;                      // whether its model is looked at
  const AsyncTimetable* asynchronous;  // null: there are rounds
};

// The rounds that a run would do, until the job's last one or its limit of time. A sampler learns
// who was drawn, and nothing of what they would have trained.
void each_timed_round(const Experiment& experiment,
                      const std::function<void(const TimedRound&)>& use);

}  // namespace fl_sim
