// The server's evaluation on the test set, cut into small pieces so that it fits into the time that
// rank 0 waits.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "base/job.h"
#include "data/dataset.h"
#include "learning/records.h"
#include "learning/scorer.h"
#include "network/network.h"

namespace fl_sim {

struct TestResult {
  int64_t round = 0;
  double loss = 0;      // mean over the test set
  double accuracy = 0;  // fraction
  // Of each model, where there are several; the above is then their mixture's: the mean of the
  // predicted probabilities.
  std::vector<double> model_loss = {}, model_accuracy = {};
  Metrics metrics = {};
};

// Which metrics a job asks for beside loss and accuracy.
struct MetricChoice {
  bool balanced_accuracy = false, area_under_curve = false, class_accuracy = false,
       macro_f1 = false, class_f1 = false, confusion = false, perplexity = false;
  int64_t classes = 0;

  // By client there are no metrics of single classes.
  bool needs_detail_by_client() const { return balanced_accuracy || area_under_curve || macro_f1; }
  bool needs_detail() const {
    return needs_detail_by_client() || class_accuracy || class_f1 || confusion;
  }
};

// What the job's key `metrics` names. Throws Error if one is unknown, or has no meaning for the
// objective or for sequences.
MetricChoice choose_metrics(const Job& job, const Network& network, int64_t classes);

class Evaluator {
 public:
  // The test samples should be on the rows' device. `done` is called once per model, in order. With
  // `direct`, float32 models on a CPU go the network's direct pass, if it has one.
  Evaluator(const Network& network, Samples test, double scale, double shift, bool direct,
            const MetricChoice& metrics, std::function<void(const TestResult&)> done);

  // Queues the models [M, P] after `round`; the rows are copied.
  void add(int64_t round, const torch::Tensor& rows);

  // Evaluates one batch, some milliseconds. Returns whether there is more to do.
  bool step();

  // Evaluates until at most `left` models are queued.
  void finish(size_t left = 0);

  double seconds() const { return seconds_; }  // spent so far

 private:
  struct Model {
    int64_t round;
    torch::Tensor rows;
    int64_t next;  // sample
    Scorer::Totals totals;
  };

  Samples test_;
  Scorer scorer_;
  MetricChoice metrics_;
  std::function<void(const TestResult&)> done_;
  std::deque<Model> queue_;
  std::vector<int64_t> indices_;  // of the batch
  double seconds_ = 0;
};

}  // namespace fl_sim
