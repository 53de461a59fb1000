#include "engine/evaluation_plan.h"

namespace fl_sim {

const OptionSet<EvaluationPlan> EvaluationPlan::kOptions(
    400, {{&EvaluationPlan::every,
           {.name = "evaluate-every",
            .default_value = "1",
            .meaning = "rounds between evaluations on the test set; 0: only after the last",
            .range = at_least(0),
            .may_change = true}},
          {&EvaluationPlan::holdout,
           {.name = "holdout-clients",
            .default_value = "0",
            .meaning = "clients, drawn by the seed, that never train and are evaluated apart",
            .range = at_least(0)}},
          {&EvaluationPlan::share,
           {.name = "evaluate-clients",
            .default_value = "0",
            .meaning = "share of clients that evaluate the model on samples of their own that they "
                       "do not train on",
            .range = between(0, 1)}},
          {&EvaluationPlan::min_clients,
           {.name = "evaluate-min-clients",
            .default_value = "1",
            .meaning = "fewest clients that evaluate where evaluate-clients is above 0",
            .range = at_least(1)}},
          {&EvaluationPlan::split,
           {.name = "evaluate-split",
            .default_value = "test",
            .meaning = "which of their held-back samples clients evaluate on",
            .choices = {"test", "validation"}}},
          {&EvaluationPlan::target,
           {.name = "target-accuracy",
            .default_value = "0",
            .meaning = "end the run when test accuracy (0 to 1) reaches this; 0: never",
            .range = between(0, 1),
            .may_change = true}},
          {&EvaluationPlan::every_seconds,
           {.name = "clock.evaluate-seconds",
            .default_value = "0",
            .meaning = "virtual seconds between evaluations: after the first round that ends at or "
                       "after each multiple; 0: by evaluate-every alone",
            .range = between(0, 1e12),
            .read_by = "devices",
            .may_change = true}}});

}  // namespace fl_sim
