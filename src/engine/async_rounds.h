// Which tasks of an asynchronous timetable are trained when, and on which rank.
//
// A round makes one version of the model. Before it can, every task that is due in it must have
// been trained; tasks due later are trained as soon as there is a rank that would be idle otherwise
// (conservative lookahead: all of it is known beforehand; but of a timetable that grows nothing). A
// task's result follows from the version that it starts from, the job and its number, and sums are
// exact: so no bit of a version depends on when, where and in which order its tasks were trained.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/async_timetable.h"
#include "engine/experiment.h"
#include "engine/schedule.h"
#include "engine/time_model.h"
#include "learning/batches.h"
#include "learning/records.h"

namespace fl_sim {

class AsyncRounds {
 public:
  AsyncRounds(const Experiment& experiment, const VirtualClock& clock, const Traffic& traffic);

  const AsyncTimetable& timetable() const { return table_; }
  int64_t versions() const { return table_.versions(); }
  void grow_to(int64_t version, const State& memory) {
    if (table_.grows()) table_.grow_to(version, memory);
  }
  // Of a run that has come to a version.
  void follow(int64_t version, std::vector<int64_t> drawn) {
    if (table_.grows() && versions() < version) table_.follow(version, std::move(drawn));
  }

  // After version `round` nothing is trained yet of what was not due until then.
  void go_on_after(int64_t round);

  // What is trained before version `round`, by hosts that are as fast as `times` says: groups with
  // their ranks. `random`: a test wants any deal.
  void plan(RoundPlan& plan, const TimeModel& times, bool random);

  // Versions up to `newest`, the newest one, that something not yet in it has started from.
  const std::set<int64_t>& held(int64_t newest);

  // Of version `round`: who was lost or too old; what records say of times; its row.
  std::vector<ClientRecord> missing(int64_t round) const;
  void put_times(std::vector<ClientRecord>& records) const;
  VirtualRound row(int64_t round, const Traffic& traffic) const;
  Timetable tasks_of(int64_t round) const;

  // What the server does with the mean of the updates that count: mean' = scale * (mean + w_base -
  // w), the latter where models are mixed.
  struct Mixing {
    double scale = 1;
    int64_t base = -1;  // -1: updates are added
    int64_t part = 0;   // see Course::make_version
  };
  Mixing mixing(int64_t round, const std::vector<ClientRecord>& records) const;

 private:
  // Tasks that start from one version and train together: dispatch numbers, those with the most
  // steps first.
  using Group = std::vector<int64_t>;
  using Ready = std::tuple<int64_t, int64_t>;  // first version that it is due in, group

  std::vector<Group> cut(const std::vector<int64_t>& tasks) const;
  void make_groups_of(int64_t base, int64_t after);
  void make_groups_due_in(int64_t round);
  PlannedGroup planned(const Group& group, const TimeModel& times) const;
  int64_t steps_of(int64_t dispatch) const;
  int64_t due_of(int64_t dispatch) const;

  const Experiment& e_;
  const LocalPlan local_;
  AsyncTimetable table_;
  const int64_t group_size_;
  std::vector<Group> groups_;
  std::set<Ready> ready_;    // not yet trained
  std::set<int64_t> there_;  // versions that hosts have
  std::set<int64_t> held_;   // see held(), of version held_at_
  int64_t held_at_ = -1;
  int64_t prepared_ = -1;  // groups have been made of versions up to this one
};

}  // namespace fl_sim
