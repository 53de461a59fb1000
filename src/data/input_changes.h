// What happens to samples between the data set and the network: augmentation and noise, anew each
// time a client trains on one, and what a client does not see of its samples.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/job.h"
#include "base/option_set.h"
#include "base/rng.h"
#include "data/partitioner.h"

namespace fl_sim {

// How training inputs are augmented.
struct Augmentation {
  int64_t crop = 0;  // pixels
  bool flip = false;
  double noise = 0;  // standard deviation
  static const OptionSet<Augmentation> kOptions;
};

class InputChanges {
 public:
  // Nothing changes.
  InputChanges() = default;

  // What the job's augment.* keys and its partitioner's view() ask for. `shape`: of a sample.
  // Throws Error if the samples cannot be changed so.
  InputChanges(const Job& job, const Partitioner& partitioner, int64_t clients,
               const std::vector<int64_t>& shape);

  bool training() const {
    return augment_.crop > 0 || augment_.flip || augment_.noise > 0 || !views_.empty();
  }
  bool evaluation() const { return masks_; }
  bool by_client() const { return !views_.empty(); }  // clients differ in what they see

  // Changes x [B·A, shape...], ordered by sample, then client, as networks see it, for training:
  // crop, flip, noise, mask. Client a has the id ids[a], draws from streams[a], and counts[a] of
  // the B samples are its own; empty: all are.
  torch::Tensor apply(const torch::Tensor& x, std::span<const int64_t> ids, std::span<Rng> streams,
                      std::span<const int64_t> counts = {}) const;

  // Only what the client does not see: for losses of the samples as they are, and for evaluation.
  torch::Tensor masked(const torch::Tensor& x, int64_t client) const;

 private:
  torch::Tensor change(torch::Tensor sample, int64_t client, Rng& rng) const;

  Augmentation augment_;
  bool masks_ = false;
  std::vector<ClientView> views_;  // of each client; empty: they see what there is
};

}  // namespace fl_sim
