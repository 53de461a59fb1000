// A model that others wrote is tried on some samples before the first round: what does not train,
// what fails, and what is told.
#pragma once

#include "engine/experiment.h"

namespace fl_sim {

// Adds to the experiment's notes: parameters that the loss does not depend on, outputs that are
// probabilities, what the network itself finds. Throws Error if nothing would train, or if clients
// would meet a batch that the model cannot take.
void try_foreign_model(Experiment& experiment);

}  // namespace fl_sim
