// An experiment on every rank: what rank 0 has made reaches the others.
#pragma once

#include <string>

#include "base/job.h"
#include "data/dataset.h"
#include "engine/experiment.h"
#include "process/communicator.h"

namespace fl_sim {

// The experiment that rank 0's `job` describes, on every rank. Collective. Rank 0 checks everything
// before the others begin, so that an error is reported once.
Experiment set_up(const Job& job, Communicator& comm);

// Sizes and checksums of training and test samples.
std::string data_fingerprint(const Dataset& data);

}  // namespace fl_sim
