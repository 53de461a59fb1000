// Algorithms with several global models of which each client trains and uses one.
#pragma once

#include <cstdint>
#include <vector>

#include "learning/algorithm.h"
#include "learning/full_pass.h"
#include "learning/local_training.h"

namespace fl_sim {

// Which of the first `count` global models has the lowest mean loss on each client's training
// samples; the first of those that tie.
std::vector<int64_t> best_models(const FullPass& full, const ClientGroup& group,
                                 const GlobalModel& global, int64_t count);

// Trains each client from the global model that is named for it: LocalTraining::train() with the
// deltas from these models, and ClientOutcome::model.
Update train_models(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
                    const std::vector<int64_t>& models);

// These models as the clients' own.
std::vector<PersonalModel> as_personal(const GlobalModel& global,
                                       const std::vector<int64_t>& models);

}  // namespace fl_sim
