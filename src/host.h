// The hosting side of a round: clients' state, their training, and this rank's part of the sum.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "communicator.h"
#include "exact_sum.h"
#include "experiment.h"
#include "schedule.h"

namespace fl_sim {

class Host {
 public:
  // `trains`: whether this rank ever hosts clients; the training set goes to its device then.
  Host(const Experiment& experiment, Communicator& comm, bool trains);

  // Every rank together: client state goes where the plan wants it, and the sum starts at zero.
  void begin_round(const RoundPlan& plan);

  // Trains a group and adds what its clients return to the sum. A client one of whose vectors
  // cannot be summed is left out and keeps its state.
  void train(const PlannedGroup& group, const GlobalModel& global);

  WeightedSum& sum() { return sum_; }
  const std::vector<ClientRecord>& records() const { return records_; }  // of this rank and round
  double compute_seconds() const { return compute_seconds_; }            // of the whole run

 private:
  void move_state(const std::vector<StateMove>& moves);
  State load_state(const std::vector<int64_t>& ids) const;
  void keep_state(int64_t client, const State& state, int64_t row);
  float weight_of(int64_t client) const;

  const Experiment& e_;
  Communicator& comm_;
  VectorSizes state_sizes_, extra_sizes_;
  uint64_t seed_;
  bool uniform_;  // weights
  ClientData data_;
  WeightedSum sum_;
  std::unordered_map<int64_t, torch::Tensor>
      client_state_;                                 // client -> its vectors, one after the other
  int64_t cohort_clients_ = 0, cohort_samples_ = 0;  // of the round
  std::vector<ClientRecord> records_;
  double compute_seconds_ = 0;
};

}  // namespace fl_sim
