// MPI from its start to its end, and what all communicators of this process know of one another.
//
// Beside the session this room has four things of which a process has one, each reached by its
// get(): Interruption, Watchdog, MpiFiles and TestHooks. Signals, a process's own files and its
// environment are one for the process, too. They belong to the main thread but where a header says
// otherwise.
#pragma once

#include <memory>
#include <string>

namespace fl_sim {

struct MpiState;

// Communicators borrow it and must end before it. Without a launcher the run has one rank. After
// the loss of a rank the destructor leaves MPI as it is, which might wait for it. Main thread only.
class MpiSession {
 public:
  MpiSession();   // Collective.
  ~MpiSession();  // Collective.
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  MpiState& state() { return *state_; }  // for this room's own sources

 private:
  std::unique_ptr<MpiState> state_;
};

std::string mpi_library_version();  // "Open MPI v4.1.4"

}  // namespace fl_sim
