// Memory that a communicator's ranks on one machine share: data sets that are there once, and large
// broadcasts and sums that cross a machine in its memory instead of in messages.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace fl_sim {

struct MpiRanks;

// A communicator's. What it gave is valid as long as it lives.
class NodeMemory {
 public:
  explicit NodeMemory(MpiRanks& ranks);
  ~NodeMemory();  // Collective, unless after an error.
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  // A copy of rank 0's-on-this-node tensor that all ranks of a node share in memory. `tensor`
  // counts on the node's first rank only, and must be on the CPU. `shared` tells whether it was
  // possible: where the node's shared memory is too small, or `allowed` is false on its first rank,
  // each rank gets a copy of its own. Collective.
  torch::Tensor share(const torch::Tensor& tensor, bool allowed, bool& shared);

  // Zeros [n] of this rank's own, on the CPU, for which Communicator::sum_to_root() is fastest: in
  // shared memory, where there is room. Collective.
  torch::Tensor summing_buffer(int64_t n, torch::ScalarType type);

  // Zeros in shared memory, so many bytes for each rank of this machine, by rank within it, which
  // all of them read and write. None where there is no room, or if no machine has two ranks.
  // Collective.
  std::vector<char*> slots(int64_t bytes);

  // From rank 0 into everyone's tensor, on the CPU. False on all ranks, and nothing is done, where
  // it would not pay off or there is no room. Collective.
  bool broadcast(torch::Tensor& tensor);

  // Adds the buffers of this machine's ranks up in that of its first one, if `tensor` is what
  // summing_buffer() gave last; else false on all ranks. Collective.
  bool add_up(const torch::Tensor& tensor);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fl_sim
