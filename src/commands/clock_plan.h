// The timetable of a job with devices, without training: how long its rounds are in virtual time,
// and whose work counts.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// `--plan clock` and the words of a job. Throws Error where the job has no devices.
void plan_clock(const std::vector<std::string>& arguments);

}  // namespace fl_sim
