// fl_sim --plan JOB-OPTIONS [--plan-ranks K]: what a run of a job would take, without a round of
// it. Memory, bytes, the deal to ranks, the time, and a batch script for Slurm that asks for them.
//
// Sizes and the deal follow from the job by the engine's own code. Seconds and the working memory
// of training are measured: a few local steps of some of the job's clients, and the evaluation of
// some test samples, on this machine.
#pragma once

#include <string>
#include <vector>

#include "process/communicator.h"

namespace fl_sim {

// Without MPI: throws Error for what is wrong with the words of the command line.
void check_plan(const std::vector<std::string>& arguments);

// Every rank together; rank 0 prints, the others wait. `arguments` is the whole command line.
// Throws Error.
void plan_run(const std::vector<std::string>& arguments, Communicator& comm);

}  // namespace fl_sim
