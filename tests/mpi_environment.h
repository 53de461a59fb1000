// MPI for tests that run the real round loop: one rank, without a launcher.
#pragma once

#include "communicator.h"

namespace fl_sim {

// Started with the first test that asks for it; MPI can start only once in a process.
inline Communicator& one_rank() {
  static MpiSession session;
  static Communicator communicator;
  return communicator;
}

}  // namespace fl_sim
