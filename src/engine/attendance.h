// What a rank has to look after while it trains or waits: who lives, who wants the run to stop, and
// files that are written beside the training.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "process/communicator.h"
#include "process/roll.h"
#include "storage/checkpoint.h"

namespace fl_sim {

class Attendance {
 public:
  // On rank 0: `on_file`, a rank is through with its file of a checkpoint; `on_stop`, a signal asks
  // the run to stop.
  Attendance(Communicator& comm, std::function<void(int, const CheckpointWriter::Done&)> on_file,
             std::function<void()> on_stop);
  ~Attendance();
  Attendance(const Attendance&) = delete;
  Attendance& operator=(const Attendance&) = delete;

  // Collective. From here on it knows where everyone is, and looks whenever the process does (see
  // Interruption) or a communicator that it watches waits. `misses`: whether a rank's death is to
  // end the run.
  void begin(bool misses);
  void watch(Communicator& comm);

  // One look. Throws Error if a rank has been silent for too long, if one is gone, and on rank 0 if
  // another one says that it failed.
  void look();
  // Called at the end of each look.
  void after_look(std::function<void()> work) { after_ = std::move(work); }

  // On another rank than 0, with what is being thrown: tells rank 0, which then ends the run, and
  // waits for that. Returns if it does not come.
  void fail(const std::string& why, bool of_another) noexcept;

  // A rank was heard of otherwise: nobody would be here without it.
  void heard_of(int rank, const char* what, int64_t round) const;

  // Where this rank's clients are saved, in a thread of its own. Waits for what was begun before.
  CheckpointWriter& writer() { return writer_; }
  // Tells rank 0 of a file that is there; with `wait`, of the one under way.
  void report_file(bool wait = false);

 private:
  struct Post;  // what ranks tell each other beside all else

  void read(int from, const Post& post);
  void tell(const Post& post);
  void tell_of_signal();
  void watch_others();
  void miss();

  Communicator& comm_;
  const bool serves_;
  std::function<void(int, const CheckpointWriter::Done&)> on_file_;
  std::function<void()> on_stop_, after_;
  CheckpointWriter writer_;
  std::vector<std::string> places_;  // host names by rank
  std::vector<Communicator*> watched_;
  std::optional<Roll> roll_;
  bool told_ = false;  // the others that the run is to stop
};

}  // namespace fl_sim
