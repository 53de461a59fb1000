// How long clients will train, learnt from how long they did.
//
// On a host of speed v, a client of s steps takes (a + b s) / v seconds: a is what it costs however
// little it trains (copying the model, adding the update), b a step. a and b are a weighted
// least-squares line through the measurements of all rounds, of which each round forgets a fifth. v
// is how much faster than the line a host was as a whole, in the middle one of its last five
// rounds: a host that was held up in one round is not slow, one that is held up in most of them is,
// and one within 5 % of the line is on it. Nothing is kept per client: in a simulator what tells
// clients apart is their steps.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/schedule.h"
#include "learning/records.h"

namespace fl_sim {

class TimeModel {
 public:
  explicit TimeModel(const std::vector<int64_t>& hosts);  // ranks that train

  // Predicted for a client on a host of speed 1. Before anything is learnt: its steps.
  double seconds(int64_t steps) const;

  // Predictions from now on, until something is learnt: start + step * steps seconds.
  void assume(double start, double step) {
    line_ = {start, step};
    learnt_ = true;
  }

  // 1 on average.
  const std::vector<HostSpeed>& hosts() const { return hosts_; }

  // When the last host will be through with the groups that it was dealt. Before anything is
  // learnt: 0.
  double makespan(const std::vector<PlannedGroup>& groups) const;

  // One round's records. For the line, a client that took more than 4 times as long as expected, or
  // less than a quarter of it, counts as that: when a host was held up, the client that it worked
  // on was not longer than others. A host that was dealt nothing is taken for an average one in
  // that round, so that it is tried again.
  void learn(const std::vector<ClientRecord>& records);

 private:
  struct Line {
    double start = 0, step = 1;  // a and b, seconds
    double at(int64_t steps) const { return start + step * static_cast<double>(steps); }
  };

  size_t host_of(int64_t rank) const;
  Line fitted() const;

  std::vector<HostSpeed> hosts_;  // ascending ranks
  Line line_;
  bool learnt_ = false;
  // Sums over records, older rounds counting less: of weights, steps, steps², seconds, steps ·
  // seconds.
  double w_ = 0, ws_ = 0, wss_ = 0, wt_ = 0, wst_ = 0;
  // By host: how many times as long as predicted it took for its last rounds. All start with 1.
  std::vector<std::deque<double>> ratios_;
};

}  // namespace fl_sim
