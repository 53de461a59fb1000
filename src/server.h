// The server's side of a round, on rank 0: the plan, the new model, its evaluation, and what is
// reported.
#pragma once

#include <torch/types.h>

#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "evaluation.h"
#include "exact_sum.h"
#include "experiment.h"
#include "progress.h"
#include "results.h"
#include "schedule.h"
#include "time_model.h"

namespace fl_sim {

// What a run came to.
struct Outcome {
  int64_t rounds = 0;   // that made the model
  int64_t samples = 0;  // processed by them
  int64_t bytes = 0;    // sent to and by clients
  std::string checksum;
  double best_accuracy = kNotMeasured, last_accuracy = kNotMeasured;
  bool target_reached = false;
  std::vector<RankRecord> ranks;
};

class Server {
 public:
  // `ranks` of the run. `results` and `progress` may be null.
  Server(const Experiment& experiment, int ranks, Results* results, Progress* progress);

  // Who takes part in a round, together with whom, and where; or that the run is over.
  RoundPlan plan(int64_t round);

  // The server's half of the round. Throws Error if a client diverged and the job says to stop
  // then.
  void update(ServerState& model, const WeightedSum& sum, const std::vector<ClientRecord>& records,
              double seconds);

  // Evaluates a little; returns whether there is more to do. A row of results is complete once its
  // evaluation is.
  bool evaluate_some() { return evaluator_.step(); }
  // How long the hosts will need for the round that was planned last; 0 where nothing is known.
  double expected_seconds() const { return expected_seconds_; }
  void finish_evaluation() { evaluator_.finish(); }
  double evaluate_seconds() const { return evaluator_.seconds(); }

  // A run ends with the model that reached the target. What is under way when that is known is
  // thrown away, so that it does not matter when it is known.
  bool waits_for_target() const { return target_accuracy_ > 0; }
  bool target_reached() const { return outcome_.target_reached; }

  // Writes the last results. All rounds must have been evaluated.
  const Outcome& finish(const ServerState& model, std::vector<RankRecord> ranks);

 private:
  struct PendingRound {
    RoundRecord record;
    bool waiting;  // for its evaluation
  };

  void report_divergence(const ServerState& model, const std::vector<ClientRecord>& records);
  void evaluated(const TestResult& result);
  void complete_rounds();
  void save(const ServerState& model, bool force);
  std::vector<NamedTensor> named_model(const ServerState& model) const;

  const Experiment& e_;
  Results* results_;
  Progress* progress_;
  int64_t rounds_, evaluate_every_;
  double target_accuracy_;
  TimeModel times_;
  std::unordered_map<int64_t, int64_t> holders_;  // client -> rank that holds its state
  double expected_seconds_ = 0;
  int64_t bytes_moved_ = 0;           // client state in this round
  std::deque<PendingRound> pending_;  // rounds that are not in the results yet
  Evaluator evaluator_;
  Outcome outcome_;
};

}  // namespace fl_sim
