// The timetable of an asynchronous run: who starts from which version of the model, when its
// update arrives, and which version it helps to make.
//
// Clients start, arrive and are lost; a protocol (learning/protocol.h) says who starts when, and
// what makes a new version. Staleness is how many versions were made meanwhile.
//
// All of it follows from the job, as that of synchronous rounds does; but where the sampler learns,
// who is drawn follows from what was trained, too: then the timetable grows by a version at a time,
// and who starts from a version is drawn with what the server has learnt when it was made.
//
// Events are ordered by (time, kind, dispatch number); of one instant first what arrives, then what
// is lost, then what a protocol is woken for, then starts: who starts at an instant starts from
// what its arrivals have made.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/option_set.h"
#include "base/virtual_time.h"
#include "engine/faults.h"
#include "engine/traffic.h"
#include "engine/virtual_clock.h"
#include "learning/protocol.h"

namespace fl_sim {

struct Experiment;

struct AsyncOptions {
  std::string protocol = "rounds";  // a plug-in
  int64_t buffer = 10;              // updates that make a version
  double interval = 0;              // seconds between versions
  int64_t concurrency = 0;          // clients in flight; 0: the job's cohort
  std::string source = "clock";     // of staleness; or "drawn"
  std::string staleness = "polynomial";
  double a = 0.5, b = 4;
  int64_t max_staleness = -1;  // -1: any
  std::string on_stale = "drop";
  std::string normalise = "buffer";
  std::string weighting = "job";
  double mixing = 0;  // 0: deltas are added; else models are mixed
  int64_t keep_versions = 64;
  static const OptionSet<AsyncOptions> kOptions;

  bool on() const { return protocol != "rounds"; }
  bool drawn() const { return source == "drawn"; }
};

// s(staleness): what is left of an update's weight.
double staleness_weight(const AsyncOptions& options, double staleness);

// One client's work from one version of the model: a dispatch.
struct AsyncTask {
  enum class Fate { kInFlight, kCounts, kLost, kStale };
  TimedTask time = {};
  Micros start = 0;
  int64_t base = 0;    // the version that it starts from; 0: the initial model
  int64_t repeat = 0;  // how often the client has started from that version before
  Fate fate = Fate::kInFlight;
  int64_t version = 0;  // that it helps to make, or that was under way when it was lost or dropped
  double mass = 1;      // of its update, by the job's weighting: 1, or its samples
  double weight = 1;    // the same with its staleness, or unbiased

  int64_t staleness() const { return version - 1 - base; }
  // What its chances are keyed by, in place of a round: that of the base for the first of them, so
  // that a timetable without staleness is that of rounds.
  int64_t number() const { return base + 1 + repeat * VirtualClock::kAgain; }
};

struct AsyncVersion {
  Micros at = 0;                 // when it is made
  int64_t online = 0;            // who can be reached then, those in flight included
  std::vector<int64_t> due;      // dispatch numbers of what it is made of, in the order of arrival
  std::vector<int64_t> missing;  // and of what was lost or dropped since the version before
  double weight = 0;             // of what is due, all together
  int64_t part = 0;              // see Course::make_version
};

class AsyncTimetable {
 public:
  // Up to version `versions`, or the last one that begins before clock.limit; where the sampler
  // learns, it is empty at first. Throws Error where the job cannot work, with the figure.
  AsyncTimetable(const Experiment& experiment, const VirtualClock& clock, const Traffic& traffic,
                 int64_t versions);
  ~AsyncTimetable();
  AsyncTimetable(const AsyncTimetable&) = delete;
  AsyncTimetable& operator=(const AsyncTimetable&) = delete;

  // Whether it grows: then only what is due in the newest version is sure to count.
  bool grows() const { return grows_; }
  // As far as this version, if there can be one. `memory` is what the server has learnt when the
  // one before was made.
  void grow_to(int64_t version, const State& memory);
  // As far as this version, with the draws of a run that has come so far.
  void follow(int64_t version, std::vector<int64_t> drawn);
  // See ServerState::drawn.
  const std::vector<int64_t>& drawn() const { return drawn_; }
  // Whether there is a version of this number, the next one to be made at most, or will be.
  bool goes_to(int64_t version) const;

  const AsyncOptions& options() const { return o_; }
  int64_t versions() const { return std::ssize(versions_); }
  const AsyncVersion& version(int64_t number) const {  // 1, 2, ...
    return versions_[static_cast<size_t>(number - 1)];
  }
  int64_t tasks() const { return std::ssize(tasks_); }
  const AsyncTask& task(int64_t dispatch) const { return tasks_[static_cast<size_t>(dispatch)]; }
  // Dispatch numbers of what starts from a version, ascending.
  const std::vector<int64_t>& started_from(int64_t base) const;
  // The last version that something made of `base` helps to make; of what is in flight at the end,
  // and may count in a longer run, one behind the end. -1: nothing does.
  int64_t needed_until(int64_t base) const;
  bool timed() const { return !o_.drawn(); }

  // Tasks that could train at once, all alike and on enough ranks: their number over the longest
  // chain of versions, in tasks; where it grows, over the versions that are made of any.
  double parallelism() const;
  int64_t most_held() const;  // versions that have to be kept at a time

 private:
  class Events;

  bool may_begin_another() const;
  void run(int64_t versions);
  void draw(int64_t versions);
  std::vector<Drawn> select(const Candidates& candidates, int64_t places, Micros now, Rng& rng);
  AsyncVersion& add_version();
  int64_t add_task(int64_t client, Micros now, int64_t base);
  void decide(int64_t dispatch, AsyncTask::Fate fate, int64_t version);
  double staleness_of(const AsyncTask& task);
  void weigh(int64_t first);

  const Experiment& e_;
  const VirtualClock& clock_;
  const Traffic traffic_;
  const AsyncOptions o_;
  const int64_t concurrency_;
  const int64_t wanted_;  // versions
  const bool grows_;
  const Candidates population_;  // those that may train
  const double dropout_;         // chance that a task is never answered
  const uint64_t seed_;
  const Faults faults_;
  std::vector<AsyncTask> tasks_;
  std::vector<AsyncVersion> versions_;
  std::vector<std::vector<int64_t>> started_;          // by base
  std::vector<int64_t> needed_;                        // by base: of what counts, -1 if nothing
  std::vector<int64_t> undecided_;                     // by base: tasks in flight
  std::map<std::pair<int64_t, int64_t>, int64_t> of_;  // (base, client): how many tasks
  std::map<int64_t, std::vector<int64_t>> recent_;     // by client: staleness of its last updates
  Micros begin_ = 0;
  std::unique_ptr<Protocol> protocol_;
  std::unique_ptr<Events> events_;  // null: none has been looked at
  const State* memory_ = nullptr;   // while it grows
  std::vector<int64_t> drawn_;
  size_t followed_ = 0;  // of them, in this timetable
};

// What must hold of a job that is asynchronous, and of one that is not. Throws Error.
void check_asynchrony(const Experiment& experiment);

}  // namespace fl_sim
