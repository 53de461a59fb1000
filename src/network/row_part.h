// A part of a row: the head, the body, the normalising layers, or whatever else an algorithm treats
// apart.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "network/parameter_layout.h"

namespace fl_sim {

class Network;

class RowPart {
 public:
  RowPart() = default;  // nothing

  // The parameters that `chosen` takes, each with the gap behind it.
  static RowPart of(const ParameterLayout& layout,
                    const std::function<bool(const Parameter&)>& chosen);

  // The rest of the row.
  RowPart complement(const ParameterLayout& layout) const;

  // What of it is trainable: a part of gradient rows [G, trainable part] too.
  RowPart trainable(const ParameterLayout& layout) const;

  int64_t size() const { return size_; }                 // n elements, gaps included
  int64_t numbers(const ParameterLayout& layout) const;  // without gaps
  bool empty() const { return size_ == 0; }
  bool contains(const RowPart& other) const;

  // Rows are [G, row()], or [G, trainable part] if all of this part is trainable. `values` [G, n],
  // or [1, n] for the same in all rows.
  torch::Tensor gather(const torch::Tensor& rows) const;  // a copy [G, n]
  void scatter(torch::Tensor rows, const torch::Tensor& values) const;
  void zero(torch::Tensor rows) const;

 private:
  explicit RowPart(std::vector<std::pair<int64_t, int64_t>> spans);

  std::vector<std::pair<int64_t, int64_t>> spans_;  // (offset, length), ascending, apart
  int64_t size_ = 0;
};

// What Network::head() names. A network whose body, head_of(network).complement(layout), has no
// trainable part has no body.
RowPart head_of(const Network& network);

// Scales, shifts and running statistics of normalising layers; empty where there are none.
RowPart normalisation_of(const ParameterLayout& layout);

}  // namespace fl_sim
