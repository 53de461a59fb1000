#include "engine/traffic.h"

#include <cmath>

#include "base/check.h"
#include "engine/experiment.h"

namespace fl_sim {

Traffic client_traffic(const Experiment& e, const GlobalModel& model) {
  const ParameterLayout& layout = e.network->layout();
  const Needs needs = e.algorithm->needs();
  const int64_t one_model = needs.not_sent.complement(layout).numbers(layout);
  // Vectors as long as the model, or as its trainable part, have its gaps.
  const auto numbers = [&](int64_t size) {
    if (size == layout.trainable()) return layout.count();
    return size == layout.row() ? RowPart().complement(layout).numbers(layout) : size;
  };
  const auto bytes = static_cast<int64_t>(c10::elementSize(e.dtype));
  const int64_t models = needs.models_received > 0 ? needs.models_received : needs.models_in_lane();
  int64_t shared = 0;
  for (const auto& [name, tensor] : model.shared) {
    shared +=
        tensor.dim() == 2 ? tensor.size(0) * numbers(tensor.size(1)) : numbers(tensor.numel());
  }
  // A lane's clients need what belongs to their model.
  const int64_t down = models * one_model + shared / needs.lanes;

  // The transforms work on the delta; further vectors are sent as they are.
  auto bits = static_cast<double>(one_model * bytes * 8);
  for (const auto& [name, transform] : e.transforms) {
    bits = transform->bits(one_model, bits);
    FL_CHECK(bits >= 0 && std::isfinite(bits), "transform ", name, "'s bits() is ", bits,
             " (must be 0 or more)");
  }
  int64_t others = 0;
  for (const auto& [name, size] : needs.additive) others += numbers(size);
  return {.down = down * bytes, .up = static_cast<int64_t>(std::ceil(bits / 8)) + others * bytes};
}

}  // namespace fl_sim
