// When clients can be reached.
//
// Plug-ins live in src/plugins/availability/. They are pure functions of the job, the client and
// the time: asked twice, and in any order, they say the same.
#pragma once

#include <cstdint>
#include <string>

#include "base/job.h"
#include "base/registry.h"
#include "base/virtual_time.h"

namespace fl_sim {

class Availability {
 public:
  static constexpr const char* kKind = "availability";
  struct Setup {
    const Job& job;
    std::string argument;  // behind the colon of its name
    int64_t clients;       // ids 0 to clients - 1, those held out included
  };

  virtual ~Availability() = default;

  // Whether every client can be reached at any time.
  virtual bool everybody() const { return false; }

  // Whether it follows virtual time, which then needs devices, and not rounds.
  virtual bool follows_time() const { return true; }

  // Whether the client can be reached in a round that begins at `time`.
  virtual bool online(int64_t client, int64_t round, Micros time) const = 0;

  // For those that follow time, which are made of intervals [on, off): the first instant at or
  // after `time` at which the client can be reached, and at which it cannot; kNever: there is none.
  virtual Micros next_on(int64_t client, Micros time) const {
    (void)client;
    return time;
  }
  virtual Micros next_off(int64_t client, Micros time) const {
    (void)client, (void)time;
    return kNever;
  }

  // Whether the client can be reached in the whole of [time, time + duration).
  bool on_throughout(int64_t client, Micros time, Micros duration) const {
    return online(client, 0, time) && next_off(client, time) - time >= duration;
  }

  // The instant at which the client has been reachable for `work` since `time`, kNever if it never
  // is for so long.
  Micros after_work(int64_t client, Micros time, Micros work) const;
};

}  // namespace fl_sim
