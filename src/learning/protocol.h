// When clients of a run start, and when the server makes a new version of its model.
//
// Plug-ins live in src/plugins/protocols/; a job names one by its key `async.protocol`. A protocol
// is told what happens, in virtual time and before anything is trained: the engine makes the
// timetable of the whole run with it, and trains by that.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/registry.h"
#include "base/virtual_time.h"

namespace fl_sim {

// A client's work from one version of the model.
struct Dispatch {
  int64_t client = 0;
  int64_t base = 0;  // the version that it starts from; 0: the initial model
  Micros start = 0;
};

// The run as it is at an instant, and what a protocol may do then. A task has a number, its
// dispatch: 0, 1, ... in the order of their starts.
class Course {
 public:
  virtual ~Course() = default;

  virtual Micros now() const = 0;
  virtual int64_t versions() const = 0;  // of the model, made so far: the number of the newest one
  // Clients that may start before async.concurrency are at work; and those of a round, the cohort
  // times clock.over-commit.
  virtual int64_t places() const = 0;
  virtual int64_t drawn() const = 0;
  virtual Dispatch task(int64_t dispatch) const = 0;
  // Those that may train, ascending, and how long a task of theirs usually takes in virtual
  // seconds, without the chances of one task. An oracle: no server knows that before it has asked.
  virtual std::vector<int64_t> clients() const = 0;
  virtual double usual_seconds(int64_t client) const = 0;
  // The oldest version that somebody at work has started from.
  virtual std::optional<int64_t> oldest_base() const = 0;

  // So many clients, drawn by the job's sampler among those that are idle and can be reached, and
  // of whom `among` says so where it is given, start from the newest version now. Fewer, where
  // there are not enough. Returns their dispatches.
  virtual std::vector<int64_t> start(int64_t clients,
                                     const std::function<bool(int64_t client)>& among = {}) = 0;

  // The next version is made of these, which have arrived and are in none yet. `part`: what the
  // algorithm is told of it (Sum::part).
  virtual void make_version(std::vector<int64_t> due, int64_t part = 0) = 0;

  // Protocol::woken() is called then.
  virtual void wake(Micros when) = 0;
};

class Protocol {
 public:
  static constexpr const char* kKind = "protocol";
  struct Setup {
    const Job& job;
  };

  virtual ~Protocol() = default;

  // Whether it has rounds, and heeds clock.keep, clock.over-commit and clock.deadline.
  virtual bool closes_rounds() const { return false; }

  // One makes one timetable. If it reads async.mixing, all of a version must have the same base. At
  // its begin; and at the end of each instant at which something happened: who starts now.
  virtual void begin(Course& course) { (void)course; }
  virtual void start(Course& course) = 0;

  // What happens at an instant: first tasks that arrive, in the order of their dispatch, then those
  // that are lost, then what it asked to be woken for. A task that is older than
  // async.max-staleness when it arrives is gone, too. At most one version is made in each call.
  virtual void arrived(Course& course, int64_t dispatch) = 0;
  virtual void gone(Course& course, int64_t dispatch) { (void)course, (void)dispatch; }
  virtual void woken(Course& course) { (void)course; }

  // Of what a version is made: "of 10 updates".
  virtual std::string made() const = 0;
};

}  // namespace fl_sim
