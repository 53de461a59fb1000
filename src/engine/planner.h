// What everyone does next, on rank 0: who takes part in a round, together with whom, and where.
//
// Who takes part, and in which groups, follows from the job alone; where groups are trained follows
// from how long clients took so far.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/absence.h"
#include "engine/async_rounds.h"
#include "engine/evaluation_plan.h"
#include "engine/experiment.h"
#include "engine/faults.h"
#include "engine/schedule.h"
#include "engine/time_model.h"
#include "engine/traffic.h"
#include "engine/virtual_clock.h"
#include "learning/batches.h"

namespace fl_sim {

// What planning remembers before round 1: the job's sampler, and what time it is where there is
// any.
State planning_memory(const Experiment& experiment);

class Planner {
 public:
  // For a run on so many ranks.
  Planner(const Experiment& experiment, int ranks);
  Planner(const Experiment& experiment, int ranks, const Traffic& traffic)
      : Planner(experiment, ranks) {
    charge(traffic);
  }

  // Goes on after this round instead of beginning with the first. `saved`: the round of the last
  // checkpoint. `holders`: which rank has which client's state. `drawn`: see ServerState.
  void resume_after(int64_t round, int64_t saved, std::unordered_map<int64_t, int64_t> holders,
                    std::vector<int64_t> drawn = {});

  // How things stand when it is asked.
  struct Situation {
    bool over = false;         // the target has been reached, or patience is at its end
    bool interrupted = false;  // a signal wants the run to stop after the round
    bool may_save = false;     // a checkpoint may begin
  };
  // What a client that trains the whole model is sent and sends in an exchange, which takes virtual
  // time. Before anything is planned.
  void charge(const Traffic& traffic);

  // The next exchange of a round, clients' evaluation of its model, or that the run is over, or
  // interrupted. `memory` is the server's.
  RoundPlan next(const Situation& situation, const State& memory);

  // The same where nobody answers what the sampler asks: all that are asked say 1.
  RoundPlan next_unanswered(const State& memory) {
    RoundPlan plan = next({}, memory);
    return plan.kind == RoundPlan::Kind::kAsk ? next({}, memory) : plan;
  }

  // Whether the run's last round is saved.
  bool keeps_end() const { return keeps_end_; }

  // Whether next() will begin a round that is to save the one before first, if the run is not over.
  bool checkpoint_due(bool over) const;

  // Those that the sampler asked have answered. Where nobody says what, all say 1.
  void end_asking(std::vector<Answer> answers);
  // Bytes to and from all of them, in the round that was planned last; and whether they have the
  // model, so that the cohort is not sent it again.
  Traffic asking_traffic() const;
  bool asked() const { return !asked_.empty(); }
  // What the mean of this round's updates is multiplied by.
  double factor() const { return factor_; }

  // The exchange that was planned last is through: what its clients' records say of times.
  void end_exchange(const std::vector<ClientRecord>& trained);
  // As if the round under way had not begun.
  void drop_round();

  int64_t round() const { return round_; }  // the last one that was planned
  bool last_exchange() const { return exchange_ + 1 == exchanges_; }
  // Whether the model after a round is evaluated on the test set, and by clients.
  bool evaluates(int64_t round) const;
  bool clients_evaluate(int64_t round) const { return evaluation_.share > 0 && evaluates(round); }

  // Records of those who were drawn for a lane of this round, but do nothing.
  std::vector<ClientRecord> absent(int64_t lane) const;
  // Of an asynchronous run, else null.
  const AsyncTimetable* asynchronous() const { return async_ ? &async_->timetable() : nullptr; }
  // See ServerState::drawn: up to the round that was planned last.
  std::vector<int64_t> drawn() const {
    return async_ ? async_->timetable().drawn() : std::vector<int64_t>();
  }
  // Former versions of the model that rank 0 has to keep beside the newest one, of the round before
  // the one that was planned last, and that one if something starts from it.
  std::set<int64_t> held() { return async_ ? async_->held(round_ - 1) : std::set<int64_t>(); }
  // What becomes of the mean of these clients' updates.
  AsyncRounds::Mixing mixing(const std::vector<ClientRecord>& records) const {
    return async_ ? async_->mixing(round_, records) : AsyncRounds::Mixing();
  }

  // Of the round that was planned last.
  const Timetable& timetable() const { return timetable_; }
  // What virtual time says of the round's clients.
  void put_times(std::vector<ClientRecord>& records) const;
  // And of the round, which is through: `memory` is told what time it is.
  VirtualRound end_round(State& memory) const;

  // Of those that may train, who could not be drawn in the round that was planned last.
  int64_t absent_clients() const { return absent_clients_; }
  // Of the round's records those that a sampler learns from, one for each client that was drawn.
  std::vector<ClientRecord> learned_from(std::vector<ClientRecord> records) const;

  // Clients will take start + step * steps seconds, as long as nothing is known better.
  void expect(double start, double step) { times_.assume(start, step); }
  // How long the hosts will need, from its beginning, for a lane of what was planned last; 0 where
  // nothing is known.
  double expected_seconds(int64_t lane) const {
    return expected_seconds_[static_cast<size_t>(lane)];
  }
  int64_t hosts() const { return std::ssize(times_.hosts()); }

 private:
  struct Fate;  // of a cohort's clients

  bool out_of_time(Micros time) const;
  RoundPlan next_version(const State& memory);
  bool passes_evaluation() const;
  RoundPlan stop(const Situation& situation);
  RoundPlan begin_round(const State& memory);
  RoundPlan asking();
  RoundPlan training(const State& memory);
  RoundPlan evaluation();
  Candidates candidates(int64_t round) const;
  SampleRequest request(const State& memory) const;
  std::vector<Drawn> draw(const State& memory);
  Fate fate_of(const std::vector<Drawn>& cohort);
  void plan_times(const std::vector<Drawn>& cohort, Fate& fate);
  std::vector<std::vector<Drawn>> cut_into_lanes(std::vector<Drawn> cohort) const;
  void plan_lane(RoundPlan& plan, int64_t lane, const std::vector<Drawn>& cohort, const Fate& fate);
  void deal_groups(RoundPlan& plan);
  void deal_lanes(RoundPlan& plan);

  const Experiment& e_;
  const Needs needs_;
  const int64_t rounds_, checkpoint_every_, exchanges_, group_size_, cohort_;
  const bool keeps_end_;
  const uint64_t seed_;
  const EvaluationPlan evaluation_;
  const AbsenceOptions absence_;
  const LocalPlan local_;
  const int ranks_;
  const int64_t state_length_;
  const Faults faults_;
  const VirtualClock clock_;
  std::optional<AsyncRounds> async_;
  Traffic traffic_;
  Timetable timetable_;          // of the round that was planned last
  Micros begun_ = 0;             // when it began, its asking included
  const Candidates population_;  // those that may train
  Candidates who_{0};            // and can be reached in the round
  double factor_ = 1;
  // Whom the sampler asked in the round, when, and what they say. `asking_` until it has drawn.
  std::vector<int64_t> asked_;
  VirtualClock::Asking asking_times_;
  std::map<int64_t, double> answers_;
  bool asking_ = false;
  Micros former_end_ = 0;             // of the round before it
  int64_t round_ = 0, exchange_ = 0;  // the last one that was planned
  RoundPlan first_;                   // of the round under way: that of its first exchange
  std::vector<int64_t> drawn_;        // whose samples a pool stands for
  std::vector<ClientRecord> absent_;  // `model` is the lane
  int64_t absent_clients_ = 0;
  bool clients_next_ = false;  // what comes next is their evaluation
  bool new_model_ = true;      // since the last plan
  bool dropped_ = false;       // the last round
  int64_t saved_ = 0;          // the round of the last checkpoint that was begun
  TimeModel times_;
  std::unordered_map<int64_t, int64_t> holders_;  // client -> rank that holds its state
  std::vector<double> expected_seconds_;          // by lane
};

}  // namespace fl_sim
