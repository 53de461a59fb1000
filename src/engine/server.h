// The server's side of a round, on rank 0: the plan, the new model, its evaluation, and what is
// reported.
#pragma once

#include <torch/types.h>

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "commands/progress.h"
#include "engine/exact_sum.h"
#include "engine/experiment.h"
#include "engine/faults.h"
#include "engine/schedule.h"
#include "engine/time_model.h"
#include "learning/batches.h"
#include "learning/evaluation.h"
#include "storage/results.h"

namespace fl_sim {

// What a run came to.
struct Outcome {
  int64_t rounds = 0;   // that made the model
  int64_t samples = 0;  // processed by them, those of a former run left out
  int64_t bytes = 0;    // sent to and by clients
  std::string checksum = {};
  bool paused = false;           // interrupted by a signal
  int64_t rounds_of_former = 0;  // that a run before this one did
  double best_accuracy = kNotMeasured, last_accuracy = kNotMeasured;
  double last_loss = kNotMeasured;  // on the test set, as the metrics
  Metrics last_metrics = {};
  RoundRecord evaluated = {};  // the last round whose model clients evaluated
  bool target_reached = false;
  std::vector<RankRecord> ranks = {};
};

// Bytes to and from each client in an exchange, as a real server and its clients would send it.
struct Traffic {
  int64_t down = 0, up = 0;
};
Traffic client_traffic(const Experiment& experiment, const GlobalModel& model);

class Server {
 public:
  // `ranks` of the run. `results` and `progress` may be null.
  Server(const Experiment& experiment, int ranks, Results* results, Progress* progress);

  // Goes on after this round instead of beginning with the first. `saved`: the round of the last
  // checkpoint.
  void resume_after(int64_t round, int64_t saved) {
    round_ = round;
    saved_ = saved;
    exchange_ = exchanges_ - 1;
  }
  // What the results say of the rounds before, up to `former` of another run, and which rank holds
  // which clients' state.
  void restore(std::unordered_map<int64_t, int64_t> holders, int64_t former);
  int64_t round() const { return round_; }  // the last one that was planned

  // As if the round under way had not begun.
  void drop_round();

  // Rows of how many rounds are complete, and in the results.
  int64_t complete_rows() const { return outcome_rows_; }
  void save(const ServerState& model, bool force);

  // Clients will take start + step * steps seconds, as long as nothing is known better.
  void expect(double start, double step) { times_.assume(start, step); }

  // Whether next() will begin a round that is to save the one before first.
  bool checkpoint_due() const;

  // What comes next: an exchange of a round, clients' evaluation of its model, or that the run is
  // over, or interrupted. Who takes part, together with whom, and where. `may_save`: whether a
  // checkpoint may begin.
  RoundPlan next(bool may_save = false);

  // The server's half of an exchange, for each lane when its sum is there: with `products` if it is
  // asked for, which all ranks compute together. Throws Error if a client diverged and the job says
  // to stop then.
  void update(ServerState& model, int64_t lane, const WeightedSum& sum,
              std::vector<ClientRecord> records,
              const std::function<torch::Tensor(const std::vector<int64_t>&)>& products);

  // After all lanes of an exchange, `seconds` after it began.
  void end_exchange(ServerState& model, double seconds);

  // After clients evaluated the model of the round.
  void add_evaluations(std::vector<ClientEvaluation> evaluations);

  // Evaluates a little; returns whether there is more to do. A row of results is complete once its
  // evaluation is.
  bool evaluate_some() { return evaluator_.step(); }
  // How long the hosts will need, from its beginning, for a lane of what was planned last; 0 where
  // nothing is known.
  double expected_seconds(int64_t lane) const {
    return expected_seconds_[static_cast<size_t>(lane)];
  }
  void finish_evaluation() { evaluator_.finish(); }
  double evaluate_seconds() const { return evaluator_.seconds(); }

  // A run ends with the model that reached the target. What is under way when that is known is
  // thrown away, so that it does not matter when it is known.
  bool waits_for_target() const { return target_accuracy_ > 0; }
  bool target_reached() const { return outcome_.target_reached; }

  // Writes the last results. All rounds must have been evaluated. `paused`: others will follow.
  const Outcome& finish(const ServerState& model, std::vector<RankRecord> ranks, bool paused);

 private:
  struct PendingRound {
    RoundRecord record;
    bool waiting;          // for its evaluation on the test set
    bool waiting_clients;  // for that by clients
  };
  // What a round has come to so far, over its exchanges.
  struct Underway {
    RoundPlan plan;                    // of its first exchange
    std::vector<ClientRecord> absent;  // who was drawn, but does nothing
    std::vector<int64_t> absent_lane;
    std::vector<ClientRecord> measured;       // of this exchange, by who trained
    std::map<int64_t, ClientRecord> records;  // by client
    double seconds = 0;
    int64_t bytes_down = 0, bytes_up = 0, bytes_state = 0;
    bool evaluate_clients = false;  // what comes after it
  };

  RoundPlan plan_training(int64_t round);
  RoundPlan plan_evaluation();
  void deal_groups(RoundPlan& plan);
  std::vector<int64_t> draw_cohort(int64_t round);
  bool evaluation_due(int64_t round) const;
  void end_round(ServerState& model);
  void stop_at_divergence(const ServerState& model);
  void report_failures(const ServerState& model);
  void evaluated(const TestResult& result);
  void complete_rounds();
  void count(const RoundRecord& round);
  std::vector<NamedTensor> named_model(const ServerState& model) const;

  const Experiment& e_;
  Results* results_;
  Progress* progress_;
  int64_t rounds_, evaluate_every_, checkpoint_every_, exchanges_, lanes_;
  uint64_t seed_;
  double target_accuracy_, evaluate_clients_;
  LocalPlan local_;
  int ranks_;
  int64_t round_ = 0, exchange_ = 0;  // the last one that was planned
  bool new_model_ = true;             // since the last plan
  bool dropped_ = false;              // the last round
  int64_t saved_ = 0;                 // the round of the last checkpoint that was begun
  int64_t outcome_rows_ = 0;
  Underway underway_;
  TimeModel times_;
  Faults faults_;
  std::unordered_map<int64_t, int64_t> holders_;  // client -> rank that holds its state
  std::vector<double> expected_seconds_;          // by lane
  std::deque<PendingRound> pending_;              // rounds that are not in the results yet
  Evaluator evaluator_;
  Outcome outcome_;
};

}  // namespace fl_sim
