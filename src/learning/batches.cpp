#include "learning/batches.h"

#include <algorithm>

namespace fl_sim {

const OptionSet<LocalPlan> LocalPlan::kOptions(
    800, {{&LocalPlan::epochs,
           {.name = "local.epochs",
            .default_value = "1",
            .meaning = "passes over a client's samples in a round",
            .range = between(1, 1000000),
            .only_with = {"local.steps", {"0"}}}},
          {&LocalPlan::steps,
           {.name = "local.steps",
            .default_value = "0",
            .meaning = "local steps in a round, instead of epochs; 0: by epochs",
            .range = between(0, 1000000000)}},
          {&LocalPlan::batch_size,
           {.name = "local.batch-size",
            .default_value = {},
            .meaning = "samples in a local mini-batch; a client's size or more: full batch",
            .range = at_least(1)}}});

int64_t LocalPlan::steps_of(int64_t samples, int64_t limit) const {
  if (samples == 0) return 0;
  const auto limited = [&](int64_t n) { return limit > 0 ? std::min(limit, n) : n; };
  return steps > 0 ? limited(steps) : limited(epochs) * batches_per_epoch(samples);
}

int64_t LocalPlan::samples_of(int64_t samples, int64_t limit) const {
  if (samples == 0) return 0;
  const int64_t all = steps_of(samples, limit), each = batches_per_epoch(samples);
  return all / each * samples + all % each * batch_size;
}

Batches::Batches(const ClientGroup& group, const std::string& purpose, int64_t round,
                 const LocalPlan& plan, const std::vector<int64_t>& steps)
    : group_size_(group.size()), counts_(static_cast<size_t>(steps[0] * group_size_)) {
  std::vector<std::vector<int64_t>> orders;
  std::vector<Rng> streams;
  for (const int64_t id : group.ids) {
    const auto indices = group.data.partition->of(id);
    orders.emplace_back(indices.begin(), indices.end());
    streams.emplace_back(group.seed, purpose, round, id);
  }
  int64_t active = group_size_;
  std::vector<const int64_t*> samples(orders.size());
  for (int64_t step = 0; step < steps[0]; ++step) {
    while (steps[static_cast<size_t>(active) - 1] <= step) --active;
    int64_t* counts = counts_.data() + step * group_size_;
    Step next{.clients = active,
              .longest = 0,
              .first = static_cast<int64_t>(indices_.size()),
              .ragged = false,
              .counts = counts};
    for (int64_t c = 0; c < active; ++c) {
      std::vector<int64_t>& order = orders[static_cast<size_t>(c)];
      const auto size = static_cast<int64_t>(order.size());
      const int64_t in_epoch = step % plan.batches_per_epoch(size);
      if (in_epoch == 0) streams[static_cast<size_t>(c)].shuffle(std::span(order));
      samples[static_cast<size_t>(c)] = order.data() + in_epoch * plan.batch_size;
      counts[c] = std::min(plan.batch_size, size - in_epoch * plan.batch_size);
      next.longest = std::max(next.longest, counts[c]);
    }
    for (int64_t b = 0; b < next.longest; ++b) {
      for (int64_t c = 0; c < active; ++c) {
        indices_.push_back(samples[static_cast<size_t>(c)][std::min(b, counts[c] - 1)]);
      }
    }
    for (int64_t c = 0; c < active; ++c) next.ragged |= counts[c] < next.longest;
    steps_.push_back(next);
  }
}

void Batches::upload(const torch::TensorOptions& rows) {
  const auto numbers = [](std::vector<int64_t>& values) {
    return torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kInt64);
  };
  int64_t longest = 1;
  for (const Step& step : steps_) longest = std::max(longest, step.longest);
  device_indices_ = numbers(indices_).to(rows.device());
  device_counts_ = numbers(counts_).view({-1, group_size_}).to(rows);
  positions_ = torch::arange(longest, rows).unsqueeze(1);
}

torch::Tensor Batches::device_indices(const Step& step) const {
  return device_indices_.narrow(0, step.first, step.longest * step.clients);
}

torch::Tensor Batches::sizes(int64_t step) const {
  return device_counts_[step].narrow(0, 0, at(step).clients);
}

torch::Tensor Batches::mask(int64_t step) const {
  return positions_.narrow(0, 0, at(step).longest).lt(sizes(step)).to(device_counts_.dtype());
}

}  // namespace fl_sim
