// What a run of a job takes, for any number of ranks: sizes and deals by the engine's own code,
// times from what was measured.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "commands/probe.h"
#include "engine/evaluation_plan.h"
#include "engine/experiment.h"
#include "engine/planner.h"

namespace fl_sim {

class RunEstimate {
 public:
  // `at_start`: before the experiment was made, whose making took `reading_peak` bytes at most.
  // Both references have to stay.
  RunEstimate(const Experiment& experiment, const Measured& measured, const ProcessMemory& at_start,
              int64_t reading_peak);

  struct Load {
    int64_t clients = 0, groups = 0, steps = 0;
  };
  // Of each host in the first round, in which a run knows nothing of times: by steps.
  std::map<int64_t, Load> first_deal(int ranks) const;

  struct Pace {
    double round = 0;      // seconds
    double busy = 0;       // share of the hosts' time
    bool waiting = false;  // for the server's evaluation
    double work = 0;       // seconds of all ranks together
  };
  Pace pace(int ranks) const;
  // The most ranks whose hosts are busy.
  int busy_ranks() const;
  double total_seconds(int ranks) const;

  struct Need {  // bytes
    std::vector<std::pair<std::string, int64_t>> parts;
    int64_t shared = 0;  // of it with the machine's other ranks
    int64_t all() const {
      int64_t sum = 0;
      for (const auto& [name, bytes] : parts) sum += bytes;
      return sum;
    }
  };
  Need server_need(int ranks) const { return need(ranks, true, ranks == 1); }
  Need host_need(int ranks) const { return need(ranks, false, true); }
  int64_t node_need(int ranks) const;  // all ranks on one machine

  int64_t cohort() const { return cohort_; }
  int64_t rows() const { return rows_; }
  int64_t groups() const { return groups_; }
  int64_t rounds() const { return rounds_; }
  int64_t state() const { return state_; }
  int64_t clients_with_state() const { return clients_with_state_; }
  int64_t checkpoint_server() const { return m_.weights + m_.shared + m_.hidden; }
  int64_t evaluations() const { return evaluations_; }

 private:
  void count_rounds();
  Planner planner_of(int ranks) const;  // that knows what clients are sent and send
  Need need(int ranks, bool serves, bool trains) const;
  static int hosts_of(int ranks) { return std::max(1, ranks - 1); }

  const Experiment& e_;
  const Measured& m_;
  const ProcessMemory at_start_;
  const int64_t reading_peak_;
  int64_t cohort_ = 0, groups_ = 0, rounds_ = 0, evaluations_ = 0, state_ = 0,
          clients_with_state_ = 0;
  int64_t rows_ = 0;  // that a round adds to /clients: to whom models are sent
};

}  // namespace fl_sim
