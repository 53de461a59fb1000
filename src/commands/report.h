// The texts at the beginning and the end of a run.
#pragma once

#include <string>
#include <vector>

#include "engine/experiment.h"
#include "engine/simulation.h"
#include "process/communicator.h"

namespace fl_sim {

// What is about to run. `places`: "host device" of every rank. `skew` of the experiment's
// partition.
std::string header(const Experiment& experiment, const Communicator& comm, const GpuComm& gpu_comm,
                   const std::vector<std::string>& places, const Skew& skew);

// What came out, after `seconds` of training.
std::string summary(const Outcome& outcome, double seconds, double target, const std::string& path);

}  // namespace fl_sim
