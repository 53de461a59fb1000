#include "engine/survival_options.h"

namespace fl_sim {

const OptionSet<SurvivalOptions> SurvivalOptions::kOptions(
    610, {{&SurvivalOptions::grace,
           {.name = "grace",
            .default_value = "60",
            .meaning = "seconds after a signal for the round under way to end in; then it is "
                       "dropped (unless state-memory limits what is remembered of it). Clients' "
                       "evaluation is always finished",
            .range = between(0, 1e8),
            .changes_results = false}},
          {&SurvivalOptions::stall_timeout,
           {.name = "stall-timeout",
            .default_value = "900",
            .meaning = "seconds without progress after which a rank is named and the run ended; "
                       "0: never",
            .range = between(0, 1e8),
            .changes_results = false}},
          {&SurvivalOptions::on_rank_loss,
           {.name = "on-rank-loss",
            .default_value = "end",
            .meaning = "what the others do when a rank dies: end, or go on without it, with the "
                       "same bits (continue: Open MPI 5, and mpirun --with-ft ulfm)",
            .choices = {"end", "continue"},
            .changes_results = false}}});

}  // namespace fl_sim
