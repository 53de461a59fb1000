// Rows of clients that meet: for rules that compare clients with one another. A row has its
// client's number, or in an asynchronous run that of its task.
//
// Each rank keeps the rows of the clients that it trained. They meet in blocks of 2^16 coordinates,
// block b on rank b mod K, in waves of K blocks: a rank of n rows of P numbers has sent P n (K-1)/K
// numbers in the end, and never holds more than its own rows, the wave it sends (K blocks of n
// rows) and a block of all clients' rows in double. What comes of a block depends on the block
// alone, so that all bits are the same for every number of ranks.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "process/communicator.h"

namespace fl_sim {

class DeltaShards {
 public:
  static constexpr int64_t kBlock = 1 << 16;  // coordinates

  // Rows are of this type.
  DeltaShards(Communicator& comm, torch::ScalarType type) : comm_(comm), type_(type) {}

  void clear() { rows_.clear(); }
  void keep(int64_t client, torch::Tensor row) { rows_[client] = std::move(row); }  // [P]

  // Collective. Inner products [m, m] float64 of the first `length` coordinates, in the order of
  // `clients`, 0 for those without a row. On rank 0 only. Blocks' products are added as integers,
  // multiples of 2^-e with e = 58 - ceil(log2 of the largest row's square).
  torch::Tensor products(const std::vector<int64_t>& clients, int64_t length);

  // Collective. `rule` makes [n] float64 of each block's rows [m, n] float64 of `clients`, who all
  // have one, in their order. The results as one row [length] on rank 0; undefined elsewhere.
  using Rule = std::function<torch::Tensor(const torch::Tensor& rows)>;
  torch::Tensor combine(const std::vector<int64_t>& clients, int64_t length, const Rule& rule);

 private:
  // Calls `work` for each block that belongs to this rank, with [m, n] float64 rows.
  void each_block(const std::vector<int64_t>& clients, int64_t length,
                  const std::function<void(int64_t first, torch::Tensor rows)>& work);

  Communicator& comm_;
  torch::ScalarType type_;
  std::map<int64_t, torch::Tensor> rows_;  // client -> [P]
};

}  // namespace fl_sim
