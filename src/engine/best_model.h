// Which of a run's models was the best so far, and whether looking further has become idle.
#pragma once

#include <cstdint>
#include <string>

#include "base/option_set.h"
#include "learning/records.h"

namespace fl_sim {

struct BestOptions {
  std::string metric;    // a column of /rounds; "auto": test_accuracy, or test_loss of numbers
  bool save = false;     // /best_model
  int64_t patience = 0;  // rounds; 0: without end
  static const OptionSet<BestOptions> kOptions;
};

class BestModel {
 public:
  // `classifies`: models have an accuracy. Throws Error if the job cannot be judged so.
  BestModel(const Job& job, bool classifies);

  bool saves() const { return options_.save; }
  bool has_patience() const { return options_.patience > 0; }
  const std::string& metric() const { return options_.metric; }

  // A row of /rounds that is complete; they come in order. Returns whether its model is better
  // than all before; what was not measured, or is not finite, is no better than anything.
  bool take(const RoundRecord& record);

  int64_t round() const { return round_; }  // of the best; 0: there is none
  double value() const { return value_; }   // its metric
  // Whether as many rounds as the job's patience have passed without a better one.
  bool exhausted() const { return exhausted_; }

 private:
  BestOptions options_;
  int64_t round_ = 0;
  double value_ = kNotMeasured;
  bool exhausted_ = false;
};

}  // namespace fl_sim
