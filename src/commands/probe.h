// What a plan needs to know and cannot work out: seconds and working memory, measured on this
// machine with a few local steps of some of a job's clients and the evaluation of some test
// samples.
#pragma once

#include <cstdint>

#include "engine/experiment.h"
#include "engine/traffic.h"
#include "process/communicator.h"

namespace fl_sim {

// Bytes that this process has in memory.
struct ProcessMemory {
  int64_t resident = 0;
  int64_t peak = 0;
  int64_t files = 0;  // of it: pages of programs and libraries
};

ProcessMemory memory_now();

struct Measured {
  // A client takes start + step * steps seconds in a round, all exchanges together.
  double start = 0, step = 0;
  double update = 0;             // seconds a round of the server
  double evaluation = 0;         // of a model on the test set, seconds
  double client_evaluation = 0;  // of a client's models on what it holds back, seconds
  int64_t evaluating = 0;        // clients that do so after a round
  int64_t training_memory = 0;   // bytes beyond model, sum and data while a group trains
  int64_t evaluation_memory = 0;
  // Sizes that follow from the job, bytes.
  Traffic traffic = {};       // of a client that trains the whole model, in a round
  Traffic mean_traffic = {};  // of those that may train, in the first one
  int64_t weights = 0, shared = 0, hidden = 0;
  int64_t sum = 0;  // of all lanes
};

// On this rank alone, without a round of the job. `experiment` is as before afterwards. Throws
// Error if nobody of the first cohort trains.
Measured probe(Experiment& experiment, Communicator& alone);

}  // namespace fl_sim
