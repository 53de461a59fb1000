// Disturbances that tests cause through the environment variable FL_SIM_TEST, to prove that results
// do not depend on them, and so that a test need not be faster than a run: "delay=20,deal=random".
//
//   delay=MS             every rank sleeps a random time of up to MS milliseconds at random moments
//   hold=ROUND:FILE      every rank waits in rounds from this one on while the file is there and no
//                        signal has asked the run to stop
//   deal=random          groups go to random ranks, so that client state has to move
//   machines=M           ranks are dealt to so many machines, whatever machine they are on
//   no-window            nodes have no shared memory
//   slow-disk=MS         a rank's file of a checkpoint takes so many milliseconds longer
#pragma once

#include <cstdint>
#include <string>

namespace fl_sim {

// One for the process. Main thread only.
struct TestHooks {
  int64_t delay_ms = 0;
  int64_t hold_round = 0;
  std::string hold_file = {};
  bool random_deal = false;
  bool no_window = false;
  int64_t slow_disk_ms = 0;
  int64_t machines = 1;

  static const TestHooks& get();  // read once; throws Error if it cannot be understood
  void disturb() const;           // sleeps, if delays are asked for
  // Waits, if asked for, when a rank has trained its part of a round.
  void hold(int64_t round) const;
};

}  // namespace fl_sim
