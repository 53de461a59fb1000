// The server's evaluation on the test set, cut into small pieces so that it fits into the time that
// rank 0 waits.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "dataset.h"
#include "network.h"

namespace fl_sim {

struct TestResult {
  int64_t round = 0;
  double loss = 0;      // mean over the test set
  double accuracy = 0;  // fraction
};

class Evaluator {
 public:
  // The test samples should be on the rows' device. `done` is called once per model, in order. With
  // `direct`, float32 models on a CPU go the network's direct pass, if it has one.
  Evaluator(const Network& network, Samples test, double scale, double shift, bool direct,
            std::function<void(const TestResult&)> done);
  ~Evaluator();

  // Queues the model [1, P] after `round`; the rows are copied.
  void add(int64_t round, const torch::Tensor& rows);

  // Evaluates one batch, some milliseconds. Returns whether there is more to do.
  bool step();

  // Evaluates until at most `left` models are queued.
  void finish(size_t left = 0);

  double seconds() const { return seconds_; }  // spent so far

 private:
  // A fixed size, since results may depend on it in the last bits; about 5 ms for a small
  // convolutional network.
  static constexpr int64_t kBatch = 30;
  static constexpr int64_t kDeviceBatch = 500;  // on a GPU

  struct Model {
    int64_t round;
    torch::Tensor rows;
    int64_t next = 0;              // sample
    double loss = 0, correct = 0;  // summed
    torch::Tensor on_device = {};  // [2] float64, the same; fetched once, at the end
  };

  void evaluate_directly(Model& model, int64_t count);
  void evaluate(Model& model, int64_t count) const;

  const Network& network_;
  Samples test_;
  double scale_, shift_;
  bool direct_;
  std::function<void(const TestResult&)> done_;
  std::deque<Model> queue_;
  std::unique_ptr<DirectPass> direct_pass_;  // made when it is first needed
  double seconds_ = 0;
};

}  // namespace fl_sim
