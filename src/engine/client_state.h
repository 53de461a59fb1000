// How what a client keeps between rounds lies in one vector, where it is stored and how it moves.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/schedule.h"
#include "learning/algorithm.h"
#include "process/communicator.h"
#include "storage/client_store.h"

namespace fl_sim {

struct Experiment;

// The named vectors one after the other, in the order of their names.
class StateLayout {
 public:
  explicit StateLayout(VectorSizes sizes);

  int64_t length() const { return length_; }  // numbers of a client; 0: it keeps nothing
  bool empty() const { return sizes_.empty(); }
  bool has(const std::string& name) const { return sizes_.contains(name); }
  int64_t size(const std::string& name) const { return sizes_.at(name); }

  // Of a group of clients: [clients, n] zeros of each.
  State zeros(int64_t clients, const torch::TensorOptions& options) const;

  // Puts a client's vector [length] into row `row` of a group's state.
  void unpack(const torch::Tensor& packed, State& state, int64_t row) const;

  // Row `row` of a group's new state as one vector [length] on the CPU; what `next` lacks is as in
  // `old`.
  torch::Tensor pack(const State& next, const State& old, int64_t row,
                     torch::ScalarType type) const;

 private:
  VectorSizes sizes_;
  int64_t length_ = 0;
};

// What a job's clients keep: the algorithm's vectors, and the transforms'.
StateLayout state_layout(const Experiment& experiment);

// Collective. Client states go where the plan wants them.
void move_states(const std::vector<StateMove>& moves, ClientStore& store, Communicator& comm,
                 int64_t length, torch::ScalarType type);

}  // namespace fl_sim
