// The round loop.
#pragma once

#include <torch/types.h>

#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "communicator.h"
#include "evaluation.h"
#include "exact_sum.h"
#include "experiment.h"
#include "progress.h"
#include "results.h"
#include "schedule.h"

namespace fl_sim {

// What a run came to; on rank 0.
struct Outcome {
  int64_t rounds = 0;   // that made the model
  int64_t samples = 0;  // processed by them
  int64_t bytes = 0;    // sent to and by clients
  std::string checksum;
  double best_accuracy = kNotMeasured, last_accuracy = kNotMeasured;
  bool target_reached = false;
  std::vector<RankRecord> ranks;
};

class Simulation {
 public:
  // All ranks together. `results` and `progress` on rank 0; either may be null.
  Simulation(Experiment& experiment, Communicator& comm, Results* results, Progress* progress);

  // Runs the job to its end. Throws Error if a client diverges and the job says to stop then.
  Outcome run();

  // Rank 0's model [1, P]; for tests.
  const torch::Tensor& weights() const { return server_.weights; }
  const ServerState& server() const { return server_; }

 private:
  bool is_server() const { return comm_.rank() == 0; }

  RoundPlan plan_round(int64_t round);
  void broadcast_model();
  void move_client_state(const RoundPlan& plan);
  void train_group(const PlannedGroup& group);
  std::vector<ClientRecord> collect_records(const RoundPlan& plan);
  void update_model(const std::vector<ClientRecord>& records, double seconds);
  void report_divergence(const std::vector<ClientRecord>& records) const;
  void evaluated(const TestResult& result);
  void complete_rounds();
  void save(bool force) const;
  void finish();
  std::vector<NamedTensor> named_model() const;

  State load_state(const std::vector<int64_t>& ids) const;
  void keep_state(int64_t client, const State& state, int64_t row);
  void weigh_cohort(const std::vector<int64_t>& cohort);

  Experiment& e_;
  Communicator& comm_;
  Results* results_;
  Progress* progress_;

  uint64_t seed_;
  int64_t rounds_, group_size_, evaluate_every_;
  double target_accuracy_;
  VectorSizes state_sizes_, extra_sizes_;

  ServerState server_;
  ClientData data_;
  WeightedSum sum_;
  std::unordered_map<int64_t, float> weights_;  // p_k over the planned cohort
  std::vector<ClientRecord> own_records_;       // of this rank's clients in this round
  std::unordered_map<int64_t, torch::Tensor> client_state_;  // client -> its vectors, one after the other; held here
  double compute_seconds_ = 0;

  // Rank 0 only.
  struct PendingRound {
    RoundRecord record;
    bool waiting;  // for its evaluation
  };
  std::optional<Evaluator> evaluator_;
  std::unordered_map<int64_t, int64_t> holders_;  // client -> rank that holds its state
  std::deque<PendingRound> pending_;              // rounds that are not in the results yet
  int64_t bytes_moved_ = 0;                       // client state in this round
  Outcome outcome_;
};

}  // namespace fl_sim
