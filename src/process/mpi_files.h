// The files that MPI makes on a machine: memory that its ranks share, under names in /dev/shm, and
// the launcher's session folder. A run that is killed would leave them behind.
//
// Memory: its files are made in a folder of this process, and lose their names as soon as every
// rank of the machine has opened them. Memory without a name is freed with the last process that
// uses it, however that ends. A folder is there only while files are made or removed in it: at
// MPI's start and end, and when a window is made.
//
// What a death at such a moment leaves, and the session folder of a launcher that was killed, is
// removed when the same user starts the next run on that machine. Whom it belonged to holds a lock
// (flock) on it, and locks end with their processes, so that living ones are never touched; nothing
// is that no fl_sim has marked as its own.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// One for the process. Does nothing before begin(), where there is no /dev/shm, and with an MPI
// that cannot be told where to put its files. Main thread only.
class MpiFiles {
 public:
  static MpiFiles& get();

  // Before MPI starts: removes what dead runs have left, and tells MPI where to put its files,
  // unless the environment does already.
  void begin();

  // Around MPI's making files that it removes itself.
  void open();
  void close();

  // Once every rank of this machine has opened what the others made at the start; before MPI ends,
  // which expects to find them; and after.
  void hide();
  void show();
  void end();

 private:
  MpiFiles() = default;
  ~MpiFiles() { end(); }  // MPI may call exit(): when it has lost its launcher, for one

  std::string folder_;              // empty: MPI puts its files where it likes
  std::vector<std::string> names_;  // of files that lost their names
  int lock_ = -1;                   // on folder_, while it is there
  int session_ = -1;                // on the mark in the launcher's session folder
};

}  // namespace fl_sim
