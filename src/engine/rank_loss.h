// A run whose ranks may die: the others go on without them, with the same bits.
#pragma once

#include <string>

#include "engine/experiment.h"
#include "engine/ledger.h"
#include "engine/survival_options.h"
#include "process/communicator.h"

namespace fl_sim {

// Runs the job to its end, or until a signal interrupts it, see Simulation::run(). All ranks
// together. `checkpoint`: the folder of one to go on from; empty: from the beginning. `trackers`
// count on rank 0.
//
// Where on-rank-loss is continue, the ranks that are left when others die go on as a smaller run.
// If clients keep nothing between rounds, they repeat the round that was under way, from rank 0's
// memory. Otherwise states died with their rank: all go back to the last checkpoint, or to the
// beginning where there is none, and repeat what came after it. Throws Error if rank 0 is lost.
Outcome simulate(const Experiment& experiment, Communicator& comm, const std::string& checkpoint,
                 const Trackers& trackers = {});

}  // namespace fl_sim
