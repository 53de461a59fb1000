// Who can be drawn where not everybody can be reached.
#pragma once

#include <cstdint>
#include <functional>

#include "base/rng.h"
#include "engine/experiment.h"
#include "learning/sampler.h"

namespace fl_sim {

// Those that may train.
Candidates all_candidates(const Experiment& experiment);

// Those that may train and `reached` says of; it outlives what is returned. Listed, or where
// `may_wait` and there are more than 16,384 that may train, not before somebody wants all of them:
// uniform draws go without.
Candidates candidates_among(const Experiment& experiment,
                            std::function<bool(int64_t client)> reached, bool may_wait);

// How many they are: counted, or where they are not listed estimated from 8,192 clients by chance,
// with a standard error of half a percent of all.
int64_t count_of(const Candidates& who, Rng rng);

}  // namespace fl_sim
