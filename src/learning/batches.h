// How long clients train, and on which samples in which step.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/option_set.h"
#include "learning/algorithm.h"

namespace fl_sim {

// How long a client trains.
struct LocalPlan {
  int64_t epochs = 1, steps = 0, batch_size = 1;

  LocalPlan() = default;
  explicit LocalPlan(const Job& job) { kOptions.read(job, *this); }
  static const OptionSet<LocalPlan> kOptions;

  int64_t batches_per_epoch(int64_t samples) const {
    return samples / batch_size + (samples % batch_size == 0 ? 0 : 1);
  }
  // 0 for a client without samples. `limit`: at most so many epochs, or steps if the plan counts in
  // steps; 0 for no limit.
  int64_t steps_of(int64_t samples, int64_t limit = 0) const;
  // How many samples such a client goes through: the last batch of an epoch may be a short one.
  int64_t samples_of(int64_t samples, int64_t limit = 0) const;
};

// The samples of all steps of a group. Each client goes through its own in an order that is
// reshuffled for every epoch, from the stream (purpose, round, client).
class Batches {
 public:
  struct Step {
    int64_t clients;        // A, the group's first, that still train
    int64_t longest;        // B, samples of the largest batch
    int64_t first;          // where the step's [B, A] indices begin
    bool ragged;            // a client has fewer than B samples; its last one fills up
    const int64_t* counts;  // [A] real samples
  };

  // `steps` of each client, the most first.
  Batches(const ClientGroup& group, const std::string& purpose, int64_t round,
          const LocalPlan& plan, const std::vector<int64_t>& steps);

  const Step& at(int64_t step) const { return steps_[static_cast<size_t>(step)]; }

  // One client's samples in a step; or all clients', ordered by sample, then client.
  std::span<const int64_t> indices(const Step& step) const {
    return std::span(indices_).subspan(static_cast<size_t>(step.first),
                                       static_cast<size_t>(step.longest * step.clients));
  }

  // All at once, so that no step waits for a transfer.
  void upload(const torch::TensorOptions& rows);

  // After upload(): [B * A], ordered by sample, then client; the numbers of real samples [A]; and
  // those samples as ones in [B, A].
  torch::Tensor device_indices(const Step& step) const;
  torch::Tensor sizes(int64_t step) const;
  torch::Tensor mask(int64_t step) const;

 private:
  int64_t group_size_;
  std::vector<int64_t> counts_;   // [steps, G]
  std::vector<int64_t> indices_;  // into the training set, step after step
  std::vector<Step> steps_;
  torch::Tensor device_indices_, device_counts_, positions_;
};

}  // namespace fl_sim
