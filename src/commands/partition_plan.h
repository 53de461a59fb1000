// fl_sim --plan partition JOB-OPTIONS [--picture FILE] [--picture-kind bubbles|bars]: who would
// hold what, without training.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// Reads the data, splits it as the job says, and shows the partition on standard output; draws it
// where --picture says so. `arguments` is the whole command line. Throws Error.
void plan_partition(const std::vector<std::string>& arguments);

}  // namespace fl_sim
