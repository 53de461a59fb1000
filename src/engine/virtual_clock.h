// Virtual time of synchronous rounds: who finishes when, whose updates count, and when a round
// ends.
//
// All of it follows from the job: devices, planned samples, planned bytes and draws by (seed,
// purpose, round, client); nothing is measured, and nothing of it depends on what was learnt. So
// the whole timetable of a run is there without training, and the same on any number of ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/option_set.h"
#include "base/virtual_time.h"
#include "engine/traffic.h"
#include "learning/batches.h"
#include "learning/devices.h"
#include "learning/records.h"
#include "learning/sampler.h"

namespace fl_sim {

struct Experiment;

struct ClockOptions {
  std::string rule = "plain";
  double pass_factor = 3, latency = 0;
  std::string kappa_text = "1";  // "auto": by operations
  double kappa = 1;              // what it comes to
  double over_commit = 1, deadline = 0, quorum = 0, server_seconds = 0, limit = 0;
  std::string keep = "all", late = "drop", deadline_rule = "fixed";
  double deadline_ratio = 1, deadline_share = 0.5;
  double server_bps = 0;
  bool energy = false;
  std::string watts;
  bool wait_lost = true;
  int64_t min_online = 1;
  std::string assign = "order", interruption = "throughout";
  static const OptionSet<ClockOptions> kOptions;
};

// A task of a round: a client is sent the model, trains, and sends its update.
struct TimedTask {
  int64_t client = 0;
  int64_t limit = 0;    // of its work, see ClientGroup; 0: none
  int64_t samples = 0;  // that it would process
  Micros start = 0;
  Micros down = 0, compute = 0, up = 0;
  double joules = kNotMeasured;  // where the job asks for them
  Micros finish = 0;     // when its update arrives, or where it does not, when that is known
  bool offline = false;  // it cannot be reached any more before that
  bool lost = false;     // it never answers, whatever the reason
  enum class End { kKept, kLate, kNotNeeded, kLost } end = End::kKept;

  Micros duration() const { return down + compute + up; }
};

// How a round is closed.
struct ClosingRule {
  enum class Keep { kAll, kFastest, kDeadline } keep = Keep::kAll;
  int64_t wanted = 0;     // updates, m
  Micros deadline = 0;    // since the round's start; 0: none
  double quorum = 0;      // share of m without which no update counts
  bool wait_lost = true;  // a lost client is waited for as one that may still come
};

// When a round ends that has started at `start`, and whether its updates count. Tasks are in the
// order of the draw, which decides between those that arrive at once; sets their `end`.
struct RoundEnd {
  Micros at;
  bool counts;
};
RoundEnd close_round(const ClosingRule& rule, Micros start, std::vector<TimedTask>& tasks);

// A round's tasks, ascending by client.
struct Timetable {
  Micros start = 0, end = 0;
  std::vector<TimedTask> tasks;

  const TimedTask* task_of(int64_t client) const;  // nullptr: it was not drawn
};

// Of tasks that take so long, ascending: when the most are through for the time that has passed,
// the first such instant (FedBalancer's peak, Shin et al., MobiSys 2022); and when four in five are
// (SmartPC, Li et al., RTSS 2019). 0 where there are none.
Micros peak_of(const std::vector<Micros>& durations);
Micros four_fifths_of(const std::vector<Micros>& durations);
// When such a share of them is through, at least one (TimelyFL, Zhang et al., 2023).
Micros share_of(const std::vector<Micros>& durations, double share);

class VirtualClock {
 public:
  // Chances of a client's further tasks from one model are those of round + n * kAgain.
  static constexpr int64_t kAgain = int64_t{1} << 22;

  // Throws Error where the job's options contradict each other, or cannot work with its algorithm
  // or sampler.
  explicit VirtualClock(const Experiment& experiment);

  bool runs() const { return runs_; }
  const ClockOptions& options() const { return o_; }

  // How many clients are drawn where `cohort` updates are wanted.
  int64_t drawn(int64_t cohort) const;

  // The first instant at or after `time` at which `clock.min-online` of those that may train can
  // be reached; kNever: there is none. begin() throws Error then.
  Micros next_begin(Micros time) const;
  Micros begin(Micros time) const;

  // A round that starts at `start` with these clients, ascending. `limit`: of a client's work, 0
  // for none; `lost`: those that never answer; `traffic`: of a client that trains the whole model.
  Timetable round(int64_t round, Micros start, const std::vector<int64_t>& clients,
                  const std::function<int64_t(int64_t client)>& limit,
                  const std::set<int64_t>& lost, const Traffic& traffic,
                  bool trained = false) const;  // `trained` already, when they were asked

  // A client's task in a round, and one without the chances of a task: its phases alone.
  TimedTask planned(int64_t round, int64_t client, const Traffic& traffic) const;
  TimedTask usual(int64_t client, const Traffic& traffic) const;
  // What samplers may ask beyond what a server knows; `task` plans one of a client's.
  Oracle oracle(std::function<TimedTask(int64_t client)> task, const Traffic& traffic) const;

  // Clients are asked at `start`: they are sent the model, look, and answer. Until when, and who
  // cannot be reached any more before that.
  struct Asking {
    Micros end = 0;
    std::set<int64_t> silent = {};
    std::map<int64_t, int64_t> samples = {};  // that each of them processes
  };
  Asking ask(int64_t round, Micros start, const std::vector<int64_t>& clients,
             Sampler::Question question, const Traffic& traffic) const;

  // One client's task that starts at `start`; its chances are those of `round`. `deadline`: since
  // the start, of partial work; `most_bps`: what the server's link has for it, in each direction.
  TimedTask task(int64_t round, Micros start, int64_t client, int64_t limit, Micros deadline,
                 double most_bps, const Traffic& traffic) const;
  double link_share(int64_t clients) const;  // that share it
  // What a task costs that started at `start`, where its client waits until `end`.
  double joules(const TimedTask& task, Micros start, Micros end) const;

  Device device_of(int64_t client) const;

 private:
  void check() const;
  void read_watts();
  Micros deadline_of(int64_t round, const std::vector<int64_t>& clients,
                     const std::function<int64_t(int64_t client)>& limit, double most_bps,
                     const Traffic& traffic) const;
  Device device_for(int64_t round, int64_t client, double most_bps) const;
  void time(TimedTask& task, const Device& device, int64_t round, const Traffic& whole) const;
  int64_t limit_for(const TimedTask& task, const Device& device, int64_t round, Micros deadline,
                    const Traffic& traffic) const;
  void interrupt(TimedTask& task, Micros start) const;

  const Experiment& e_;
  const bool runs_;
  const ClockOptions o_;
  const LocalPlan local_;
  const int64_t exchanges_;
  const uint64_t seed_;
  struct Watts {
    double compute, up, down, idle;
  };
  std::vector<Watts> watts_;   // by class of device, or one for all
  std::vector<int64_t> rows_;  // of devices, by client; empty: client k has row k
};

}  // namespace fl_sim
