// The hosting side of a round: clients' state, their training and evaluation, and this rank's part
// of the sums.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/client_state.h"
#include "engine/delta_shards.h"
#include "engine/exact_sum.h"
#include "engine/experiment.h"
#include "engine/faults.h"
#include "engine/schedule.h"
#include "learning/evaluation.h"
#include "learning/full_pass.h"
#include "learning/local_training.h"
#include "learning/scorer.h"
#include "process/communicator.h"
#include "storage/client_store.h"

namespace fl_sim {

class Host {
 public:
  // `lanes`: the communicator of each lane that this rank takes part in, null for the others.
  // `trains`: whether this rank ever hosts clients; the training set goes to its device then.
  Host(const Experiment& experiment, Communicator& comm, const std::vector<Communicator*>& lanes,
       bool trains);

  // Collective. Client state goes where the plan wants it, and the sums start at zero.
  void begin(const RoundPlan& plan);

  // Trains a group and adds what its clients return to its lane's sum. A client one of whose
  // vectors cannot be summed is left out and keeps its state.
  void train(const PlannedGroup& group, const GlobalModel& global);

  // What a group's clients answer to the sampler's question; nothing of it is kept.
  std::vector<Answer> ask(const PlannedGroup& group, const GlobalModel& global);

  // Collective. What rank 0 wants of the rows that hosts keep, in its order, on rank 0.
  std::vector<torch::Tensor> meet(const Meeting& meeting);

  // Evaluates the models [E, P], and the clients' own ones, on what a group's clients hold back.
  void evaluate(const PlannedGroup& group, const GlobalModel& global, const torch::Tensor& models);

  // What a round that was dropped did to clients' state is undone, and what was trained for later
  // ones forgotten.
  void roll_back() {
    store_.roll_back();
    later_.clear();
  }
  // Whether a round can be dropped half done: what clients had before is kept in memory.
  bool can_roll_back() const { return can_roll_back_; }
  // Numbers in a client's state; 0: clients keep nothing.
  int64_t state_length() const { return state_.length(); }

  WeightedSum& sum(int64_t lane) { return sums_.at(lane); }
  // Of this rank, since begin().
  std::vector<ClientRecord> records(int64_t lane) const;
  const std::vector<ClientEvaluation>& evaluations() const { return evaluations_; }
  double compute_seconds() const { return compute_seconds_; }  // of the whole run

  // Where clients' state is kept: saved and restored by tests of what a run must not forget.
  ClientStore& store() { return store_; }

 private:
  // Of an asynchronous run: what has been trained already and is due in a later version.
  struct Later {
    WeightedSum sum;
    std::vector<ClientRecord> records = {};
    std::vector<std::pair<int64_t, torch::Tensor>> rows = {};  // by task, where updates meet
  };

  // The steps of train(). `good`: which of the group's clients are accepted.
  ClientGroup make_group(const PlannedGroup& planned, const GlobalModel& global);
  void check_shapes(const std::string& who, const ClientGroup& group, const Update& update) const;
  void ruin(const PlannedGroup& planned, Update& update, int64_t round) const;
  std::vector<bool> accept(const PlannedGroup& planned, const Update& update);
  void transform(const PlannedGroup& planned, const ClientGroup& group, const GlobalModel& global,
                 Update& update, std::vector<bool>& good);
  void weigh(const PlannedGroup& planned, Update& update) const;
  void add(const PlannedGroup& planned, const Update& update, const std::vector<bool>& good);
  void keep_rows(const PlannedGroup& planned, const Update& update, const std::vector<bool>& good);
  std::vector<ClientStatus> commit(const ClientGroup& group, const Update& update,
                                   const std::vector<bool>& good);
  void record(const PlannedGroup& planned, const Update& update,
              const std::vector<ClientStatus>& statuses, double seconds);

  WeightedSum new_sum() const;
  Later& due_in(int64_t version);
  double training_loss(int64_t client, const GlobalModel& global, bool batch);
  int64_t model_of(int64_t lane) const { return needs_.lanes > 1 ? lane : 0; }
  torch::Tensor choose(const Meeting::Set& set);
  void measure_sent(Update& update) const;
  float weight_of(int64_t client, int64_t lane) const;
  bool finite_state(const State& state, int64_t row) const;

  const Experiment& e_;
  Communicator& comm_;
  const Needs needs_;
  const StateLayout state_;
  bool can_roll_back_;
  uint64_t seed_;
  enum class Weighting { kSamples, kUniform, kLoss } weighting_;
  Partition pool_;  // everybody's training samples as one client's, where the algorithm pools
  ClientData data_;
  const Partition* held_back_;           // each client's samples to evaluate on
  Samples held_back_samples_;            // which they are of
  std::map<int64_t, WeightedSum> sums_;  // by lane
  ClientStore store_;
  Scorer scorer_;
  MetricChoice metrics_;
  Faults faults_;
  RoundPlan plan_;
  std::vector<std::pair<int64_t, ClientRecord>> records_;  // lane, record
  std::map<int64_t, Later> later_;                         // by version
  std::set<int64_t> refused_;  // in an exchange of this round: none of theirs counts after it
  std::vector<ClientEvaluation> evaluations_;
  DeltaShards rows_;  // of the round, where clients' updates meet
  double compute_seconds_ = 0;
};

}  // namespace fl_sim
