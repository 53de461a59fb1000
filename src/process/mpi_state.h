// What all communicators of a session share. Of this room's headers only this one includes <mpi.h>;
// only sources of this room that speak MPI include it.
#pragma once

#include <mpi.h>

#include <vector>

#include "process/rank_lost.h"

namespace fl_sim {

struct MpiState {
  bool yields = false;  // ranks that wait in blocking calls let others have the processor
  bool losses_allowed = false;
  std::vector<MPI_Comm> waited_in;  // this process's own, in which a rank may wait for others
  int losses = 0;                   // times that ranks were lost
  int survivor = 0;                 // this rank, among those that are left

  // Throws unless `code` is success: Error, or RankLost where losses are allowed.
  void check(int code, const char* what) const;
};

}  // namespace fl_sim
