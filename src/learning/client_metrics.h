// Clients' evaluations summed up: weighted and unweighted means, percentiles, and the figures by
// which fairness is judged (Li et al., "Fair resource allocation in federated learning", ICLR 2020,
// section 4.1: variance, worst and best 10 %).
#pragma once

#include <vector>

#include "learning/records.h"

namespace fl_sim {

// Of the clients that never train (`holdout`) or of the others; of their own models (`personal`) or
// of the global one. Clients without such a measurement are left out; values that are not finite
// (a model that diverged) count as accuracies, but not in mean losses.
EvaluationSummary summarize(const std::vector<ClientEvaluation>& evaluations, bool holdout,
                            bool personal);

}  // namespace fl_sim
