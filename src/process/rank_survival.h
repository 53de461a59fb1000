// Going on without ranks that died. Needs ULFM (User-Level Failure Mitigation), which Open MPI 5
// has.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "process/rank_lost.h"

namespace fl_sim {

class Communicator;

// From here on a rank's death does not end the others: operations of all communicators of the
// session throw RankLost. Throws Error if this MPI cannot. Collective.
void allow_losses(Communicator& comm);

struct Survivors {
  std::unique_ptr<Communicator> comm;  // in the same order as before
  std::vector<int> lost;               // as they were numbered when the run started
};

// After RankLost, on all that live: who they are. Communicators of before are of no use then, and
// `comm` must outlive this call only. Throws Error if rank 0 is not among them, or if nobody is
// missing: `why` is what was thrown. Collective.
Survivors survivors(Communicator& comm, const std::string& why);

}  // namespace fl_sim
