// Which of this machine's ranks live, as each of them sees for itself: MPI tells nobody of a death,
// and its launcher ends everybody without a word, if it was told to be quiet.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "process/communicator.h"

namespace fl_sim {

class Roll {
 public:
  // Collective. Sees nobody where the machine has no shared memory to spare.
  explicit Roll(Communicator& comm);
  ~Roll();  // leave_roll()
  Roll(const Roll&) = delete;
  Roll& operator=(const Roll&) = delete;

  // Somebody of this machine who is gone, but has not left.
  struct Gone {
    int rank = 0;
    std::string what;  // "rank 2 (process 4711 on node7) was killed: it was training client 3 ..."
  };
  // Looks, if the last look was long ago or if `now`. Where rank 0 is gone, one of those that are
  // left is told at once, and the others only if that has not ended them.
  std::optional<Gone> gone(bool now);

 private:
  using Clock = std::chrono::steady_clock;
  struct Mark;  // what a rank says of itself, in shared memory

  bool is_gone(const Mark& mark, bool thoroughly) const;

  const int rank_, own_;      // this rank, and its place on the machine
  std::vector<Mark*> marks_;  // by place
  Clock::time_point next_ = {}, next_thorough_ = {}, alone_since_ = {};
};

}  // namespace fl_sim
