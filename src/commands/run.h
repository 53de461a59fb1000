// A run: what rank 0 finds out before MPI starts, and the run itself.
#pragma once

#include <string>
#include <vector>

#include "base/job.h"
#include "process/communicator.h"

namespace fl_sim {

// What rank 0 knows before MPI starts.
struct Start {
  Job job = {};
  bool complete = false;  // its results are there already, which has been said
};

// On rank 0, without MPI. Throws Error for what is wrong with the job as it is written.
Start prepare_run(const std::vector<std::string>& arguments);

// Collective; `start` counts on rank 0. Returns the program's exit code. Throws Error; `left` then
// says what there is of results, lines to go behind the error's, if anything is to be said.
int run(Start start, Communicator& comm, std::string& left);

}  // namespace fl_sim
