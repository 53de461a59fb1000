// A batch script for Slurm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/job.h"

namespace fl_sim {

// As those in slurm/, for this job on one machine: `words` are its options on the command line,
// `bytes` and `seconds` what it is expected to take.
std::string batch_script(const Job& job, const std::vector<std::string>& words, int ranks,
                         int64_t bytes, double seconds);

}  // namespace fl_sim
