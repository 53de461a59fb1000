// Rank 0's half of checkpoints: brings together what all ranks write of one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/experiment.h"
#include "storage/checkpoint.h"
#include "storage/results.h"

namespace fl_sim {

class CheckpointKeeper {
 public:
  explicit CheckpointKeeper(const Experiment& experiment);

  // Of the checkpoint after `round`: the server's state is written at once, the files of `ranks`
  // are waited for. What was begun before and is not complete is given up.
  void begin(int64_t round, const ServerState& server, const std::vector<int>& ranks);

  // A rank is through with its file. Throws Error if it could not write it.
  void add(int rank, const CheckpointWriter::Done& done);

  bool waiting() const { return manifest_.round > 0; }  // one was begun and not committed
  bool all_there() const { return waiting() && missing_.empty(); }
  int64_t round() const { return manifest_.round; }
  int64_t committed() const { return committed_; }  // round of the last one; 0: none yet
  const std::string& folder() const { return folder_; }

  // The results must hold all rows up to round() by now.
  void commit();
  void give_up() { manifest_ = {}; }

 private:
  const Experiment& e_;
  std::string folder_;
  Manifest manifest_;
  std::vector<int> missing_;  // ranks
  int64_t committed_ = 0;
};

// What a run is to do about one that was before it.
struct Continuation {
  bool complete = false;    // nothing: its results are there
  std::string folder = {};  // of the checkpoint from which it goes on; empty: begins anew
  int64_t round = 0;        // after which that was taken
  // Of the former run: when it began, after which rounds it was continued, and whom it lost.
  std::string start = {}, resumed = {}, lost_ranks = {};
  std::string note = {};  // for the user; empty: none
};

// That the results file holds the whole of this job, which must be resolved, in words for the user;
// nothing if it does not. Throws Error if there is a file that cannot be read.
std::optional<std::string> completed(const Job& job, const Results& results);

// As `resume` and `overwrite` say, given what is at the job's output and in its checkpoint's
// folder. On rank 0. Throws Error if there is something that must not be touched, or that cannot be
// used.
Continuation look_for_former(const Experiment& experiment, const Results& results);

}  // namespace fl_sim
