// The hosting side of a round: clients' state, their training and evaluation, and this rank's part
// of the sums.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "engine/exact_sum.h"
#include "engine/experiment.h"
#include "engine/faults.h"
#include "engine/schedule.h"
#include "learning/full_pass.h"
#include "learning/local_training.h"
#include "learning/scorer.h"
#include "process/communicator.h"
#include "storage/client_store.h"

namespace fl_sim {

// What a client keeps between rounds: the algorithm's vectors, and the momentum if the job keeps
// it.
VectorSizes state_sizes(const Experiment& experiment);

class Host {
 public:
  // `lanes`: the communicator of each lane that this rank takes part in, null for the others.
  // `trains`: whether this rank ever hosts clients; the training set goes to its device then.
  Host(const Experiment& experiment, Communicator& comm, const std::vector<Communicator*>& lanes,
       bool trains);

  // Every rank together: client state goes where the plan wants it, and the sums start at zero.
  void begin(const RoundPlan& plan);

  // Trains a group and adds what its clients return to its lane's sum. A client one of whose
  // vectors cannot be summed is left out and keeps its state.
  void train(const PlannedGroup& group, const GlobalModel& global);

  // Evaluates the global model, and the clients' own ones, on what a group's clients hold back.
  void evaluate(const PlannedGroup& group, const GlobalModel& global);

  // What a round that was dropped did to clients' state is undone.
  void roll_back() { store_.roll_back(); }
  // Whether a round can be dropped half done: what clients had before is kept in memory.
  bool can_roll_back() const { return can_roll_back_; }
  // Numbers in a client's state; 0: clients keep nothing.
  int64_t state_length() const { return state_length_; }

  WeightedSum& sum(int64_t lane) { return sums_.at(lane); }
  // Of this rank, since begin().
  std::vector<ClientRecord> records(int64_t lane) const;
  const std::vector<ClientEvaluation>& evaluations() const { return evaluations_; }
  double compute_seconds() const { return compute_seconds_; }  // of the whole run

  // Every rank together: inner products [m, m] of the trainable parts of the round's deltas, in the
  // order of `clients`, 0 for one whose delta was not accepted. On rank 0 only.
  torch::Tensor products(const std::vector<int64_t>& clients);

  // Where clients' state is kept: saved and restored by tests of what a run must not forget.
  ClientStore& store() { return store_; }

 private:
  ClientGroup make_group(const PlannedGroup& planned, const GlobalModel& global);
  void move_state(const std::vector<StateMove>& moves);
  void load_state(ClientGroup& group);
  void keep_state(int64_t client, const State& old, const State& state, int64_t row);
  float weight_of(int64_t client, int64_t lane) const;
  bool finite_state(const State& state, int64_t row) const;

  const Experiment& e_;
  Communicator& comm_;
  VectorSizes state_sizes_;
  bool can_roll_back_;
  VectorSizes extra_sizes_;
  int64_t state_length_ = 0;
  std::vector<std::string> scalars_;
  uint64_t seed_;
  enum class Weighting { kSamples, kUniform, kLoss } weighting_;
  bool pooled_;
  Partition pool_;  // everybody's training samples as one client's
  ClientData data_;
  Samples split_;                        // what clients evaluate on is among these
  const Partition* held_back_;           // each client's
  std::map<int64_t, WeightedSum> sums_;  // by lane
  ClientStore store_;
  Scorer scorer_;
  Faults faults_;
  RoundPlan plan_;
  std::vector<std::pair<int64_t, ClientRecord>> records_;  // lane, record
  std::set<int64_t> refused_;  // in an exchange of this round: none of theirs counts after it
  std::vector<ClientEvaluation> evaluations_;
  std::map<int64_t, torch::Tensor> deltas_;  // client -> [T], if the algorithm compares them
  double compute_seconds_ = 0;
};

}  // namespace fl_sim
