#include "engine/absence.h"

namespace fl_sim {

const OptionSet<AbsenceOptions> AbsenceOptions::kOptions(
    1040, {{&AbsenceOptions::stragglers,
            {.name = "stragglers.fraction",
             .default_value = "0",
             .meaning = "share of a cohort that trains for fewer epochs, 1 to local.epochs by "
                        "chance",
             .range = between(0, 1)}},
           {&AbsenceOptions::policy,
            {.name = "stragglers.policy",
             .default_value = "drop",
             .meaning = "what stragglers return: nothing that counts, or what they have",
             .choices = {"drop", "partial"}}},
           {&AbsenceOptions::available,
            {.name = "availability.probability",
             .default_value = "1",
             .meaning = "chance that a client can be drawn in a round",
             .range = {.low = 0, .high = 1, .open_low = true},
             .read_by = "availability"}},
           {&AbsenceOptions::dropout,
            {.name = "availability.dropout",
             .default_value = "0",
             .meaning = "chance that a client that was drawn does not answer",
             .range = from_below(0, 1)}}});

}  // namespace fl_sim
