// Disturbances that tests cause through the environment variable FL_SIM_TEST, to prove that results
// do not depend on them: "delay=20,deal=random,diverge=2:17".
//
//   delay=MS             every rank sleeps a random time of up to MS milliseconds at random moments
//   deal=random          groups go to random ranks, so that client state has to move
//   slow=RANK:FACTOR     the rank takes so many times as long to train
//   diverge=ROUND:CLIENT the client's update of that round is not a number
//   machines=M           ranks are dealt to so many machines, whatever machine they are on
//   no-window            nodes have no shared memory
#pragma once

#include <cstdint>

namespace fl_sim {

// One for the process. Main thread only.
struct TestHooks {
  int64_t delay_ms = 0;
  bool random_deal = false;
  int64_t slow_rank = -1;
  double slowness = 1;
  int64_t diverging_round = 0, diverging_client = -1;
  bool no_window = false;
  int64_t machines = 1;

  static const TestHooks& get();  // read once; throws Error if it cannot be understood
  void disturb() const;           // sleeps, if delays are asked for
  void slow_down(int64_t rank,
                 double seconds) const;  // if asked for, after it computed for so long
};

}  // namespace fl_sim
