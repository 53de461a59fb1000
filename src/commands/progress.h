// What the user sees while it runs, on rank 0: a bar on a terminal, one line a round elsewhere.
// Messages go to stdout, warnings and errors to stderr.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "learning/records.h"
#include "learning/tracker.h"

namespace fl_sim {

// "error", "warning", "info" or "debug"; throws Error for anything else.
LogLevel parse_log_level(const std::string& name);

// Columns of the terminal that stdout ends at, or 0 if it ends elsewhere. Looks through the
// pseudo-terminal that mpirun puts between.
int terminal_columns();

// The texts themselves, without line ends.
std::string duration_text(double seconds);  // "1:02:03"
std::string joules_text(double joules);     // "95.0 J", "12.3 kJ"
// `round   7/25  train loss 0.8123  test loss 0.7012  accuracy 0.7431  5210 samples/s  4.2 s`; what
// is NaN is left out.
std::string round_line(const RoundRecord& round, int64_t rounds);
// `[########            ]  round  7/25  train loss 0.8123  accuracy 0.7431  5210 samples/s  0:01:23
// left`, shorter than `columns`: where it is narrow the least important parts give way, and at last
// the bar.
std::string bar_line(const RoundRecord& round, int64_t rounds, double seconds_left, int columns);

class Progress final : public Tracker {
 public:
  // `rounds` is the last round's number. Construct it when the first round starts: the time left
  // counts from there.
  Progress(bool quiet, bool terminal, LogLevel level, int64_t rounds);

  // Shown from LogLevel::kInfo on.
  void round(const RoundRecord& record) override;

  // A message of its own line, above the bar if there is one. Below `level`, or quiet and not at
  // least a warning: not shown.
  void note(const std::string& text, LogLevel level) override;
  void note(const std::string& text) { note(text, LogLevel::kInfo); }

  // Ends the bar's line. Nothing but note() may follow.
  void finish();

 private:
  bool shows(LogLevel level) const { return level <= level_; }

  LogLevel level_;
  bool terminal_;
  int64_t rounds_;
  int64_t rounds_done_ = 0;
  std::string bar_;                      // on the screen now; empty if there is none
  double test_accuracy_ = kNotMeasured;  // the latest
  Clock::time_point start_ = Clock::now();
};

}  // namespace fl_sim
