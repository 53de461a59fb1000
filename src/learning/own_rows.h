// The rows that clients of a personal algorithm keep between rounds, and evaluate with.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "learning/algorithm.h"

namespace fl_sim {

// What the group's clients have kept under `name`, [G, n]: a copy. Those that have kept nothing yet
// begin with their rows of `first` [G, n].
inline torch::Tensor own_rows(const ClientGroup& group, const std::string& name,
                              const torch::Tensor& first) {
  torch::Tensor rows = group.state.at(name).clone();
  for (size_t k = 0; k < group.fresh.size(); ++k) {
    const auto row = static_cast<int64_t>(k);
    if (group.fresh[k]) rows[row].copy_(first[row]);
  }
  return rows;
}

// Rows [G, P] as the clients' own models, one each.
inline std::vector<PersonalModel> one_model_each(const torch::Tensor& rows) {
  std::vector<PersonalModel> models;
  for (const torch::Tensor& row : rows.unbind(0)) models.push_back({.rows = {row}, .weights = {}});
  return models;
}

}  // namespace fl_sim
