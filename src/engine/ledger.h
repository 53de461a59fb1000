// What a run has come to, on rank 0: what each round cost and brought, when its row is complete,
// and who is told.
//
// A row of /rounds is complete once its model has been evaluated, which the server does while
// others train: so rows wait here, and leave in order.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/best_model.h"
#include "engine/experiment.h"
#include "engine/planner.h"
#include "engine/traffic.h"
#include "learning/evaluation.h"
#include "learning/tracker.h"
#include "storage/results.h"

namespace fl_sim {

// Who is told of a run; the results file is one of them, where there is one.
struct Trackers {
  Results* results = nullptr;
  std::vector<Tracker*> all = {};
};

class Ledger {
 public:
  Ledger(const Experiment& experiment, Trackers trackers);

  // What the results say of the rounds before, `round` in all, of which the first `former` are
  // another run's.
  void restore(int64_t round, int64_t former);

  // A plan that is about to be carried out.
  void begin(const RoundPlan& plan);
  // As if the round under way had not begun.
  void drop_round() { underway_ = {}; }

  // Records of a lane's clients, those of absent ones included, before the server's step. Throws
  // Error if a client diverged and the job says to stop then.
  // `whole`: of a client that trains the whole model.
  void add(const std::vector<ClientRecord>& records, const Traffic& whole);
  // Bytes of the round beside those of its exchanges.
  void charge(const Traffic& traffic) {
    underway_.bytes_down += traffic.down;
    underway_.bytes_up += traffic.up;
  }
  // Clients that were too few for an aggregator: their updates do not count.
  void leave_out(const std::vector<int64_t>& clients);
  // After all lanes of an exchange, `seconds` after it began.
  void end_exchange(double seconds) { underway_.seconds += seconds; }

  // One record a client of the round under way, ascending by client: of its last exchange, with
  // the time of all.
  std::vector<ClientRecord> records() const;

  // The round is through: `evaluates` says who looks at its model, `hosts` how many there are.
  struct Evaluation {
    bool test_set, clients;
  };
  // `absent`: clients that could not be drawn.
  void end_round(const ServerState& model, const Figures& figures, const VirtualRound& times,
                 Evaluation evaluates, int64_t hosts, int64_t absent);

  // After clients evaluated the model of the round.
  void add_evaluations(std::vector<ClientEvaluation> evaluations);

  // Evaluates a little; returns whether there is more to do.
  bool evaluate_some() { return evaluator_.step(); }
  void finish_evaluation() { evaluator_.finish(); }
  // Called before a round is shown, when a signal has asked the run to stop: there may be no later.
  void before_shown(std::function<void()> work) { before_shown_ = std::move(work); }
  // Once an error ends the run: the rounds that are through are told, and evaluated first unless in
  // a `hurry`. It may be a tracker's or the evaluation's own error: what else fails is passed over.
  void finish_by_error(bool hurry) noexcept;
  double evaluate_seconds() const { return evaluator_.seconds(); }

  // A run ends with the model that reached the target, or that took the last of the job's patience.
  // What is under way when that is known is thrown away, so that it does not matter when it is
  // known.
  bool may_end_early() const { return target_accuracy_ > 0 || best_.has_patience(); }
  // Whether no further round is to begin. That nobody counted is known before another one does.
  bool over() const {
    return outcome_.target_reached || outcome_.out_of_patience || outcome_.gave_up;
  }

  int64_t rounds() const { return outcome_.rounds; }        // that made the model
  int64_t complete_rows() const { return complete_rows_; }  // of rounds, told to all

  void note(const std::string& text, LogLevel level) const;
  void save(const ServerState& model, bool force) const;
  // Before an error ends the run, which may be one of a tracker: each is told, whatever becomes of
  // the others.
  void save_what_there_is(const ServerState& model) const noexcept;

  // Tells the end. All rounds must have been evaluated. `paused`: others will follow.
  const Outcome& finish(const ServerState& model, std::vector<RankRecord> ranks, bool paused);

 private:
  struct PendingRound {
    RoundRecord record;
    bool waiting;          // for its evaluation on the test set
    bool waiting_clients;  // for that by clients
    torch::Tensor model;   // as it was evaluated; undefined where the best is not saved
  };
  // What a round has come to so far, over its exchanges.
  struct Underway {
    int64_t round = 0;
    std::map<std::pair<int64_t, int64_t>, ClientRecord> records;  // by client and task
    std::set<int64_t> left_out = {};                              // clients
    double seconds = 0;
    int64_t bytes_down = 0, bytes_up = 0, bytes_state = 0;
  };

  RoundRecord row_of_round(int64_t hosts) const;
  void stop_at_divergence();
  void report_failures() const;
  void hint_at_inputs();
  void evaluated(const TestResult& result);
  void complete_rounds();
  void tell(const RoundRecord& round);
  void leave_unevaluated();
  void count(const RoundRecord& round);
  void count_survivors(const RoundRecord& round);
  void judge(const PendingRound& round);

  const Experiment& e_;
  const Trackers trackers_;
  const double target_accuracy_;
  const bool stops_at_divergence_;
  const int64_t patience_;  // rounds in a row without a client that counts; 0: any number
  int64_t in_vain_in_row_ = 0;
  const int64_t state_bytes_;  // of a client
  bool hinted_ = false;        // at what inputs are like
  std::function<void()> before_shown_;
  Underway underway_;
  std::deque<PendingRound> pending_;
  int64_t complete_rows_ = 0;
  bool said_too_few_ = false;
  bool ends_by_error_ = false;
  BestModel best_;
  Evaluator evaluator_;
  Outcome outcome_;
};

}  // namespace fl_sim
