// Keeps two live runs from writing to the same place.
#pragma once

#include <string>

namespace fl_sim {

// <path>.lock, locked while this run lives, and removed at its end. A lock (flock) ends with its
// process, so that a run that died is in nobody's way; on NFS the server keeps it, for all
// machines. File systems without locks protect nobody.
class RunLock {
 public:
  // Waits some seconds for a run that is just ending. Throws Error if another one goes on, with
  // where that is; `remedy` says what to choose instead.
  RunLock(const std::string& path, const std::string& remedy);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace fl_sim
