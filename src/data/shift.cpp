#include "data/shift.h"

#include <cmath>
#include <string>

#include "base/check.h"
#include "base/option_set.h"

namespace fl_sim {
namespace {

struct ShiftOptions {
  std::string kind;  // "none", "labels", "rotation" or "intensity"
  int64_t groups = 1;
  static const OptionSet<ShiftOptions> kOptions;
};

const OptionSet<ShiftOptions> ShiftOptions::kOptions(
    1030, {{&ShiftOptions::kind,
            {.name = "shift.kind",
             .default_value = "none",
             .meaning = "how hidden groups of clients differ: permuted labels, images turned by "
                        "multiples of 90 degrees, or changed intensities",
             .choices = {"none", "labels", "rotation", "intensity"}}},
           {&ShiftOptions::groups,
            {.name = "shift.groups",
             .default_value = "2",
             .meaning = "hidden groups of clients",
             .range = at_least(2),
             .only_with = {"shift.kind", {"labels", "rotation", "intensity"}}}}});

// x [n] numbers between 0 and 1, as they look in a group.
torch::Tensor with_intensity(const torch::Tensor& x, int64_t group) {
  switch (group) {
    case 1:
      return 1 - x;
    case 2:
      return 0.25 + x / 2;
    default:
      return x.square();
  }
}

// Bytes stand for 0 to 1 in steps of 1/255.
torch::Tensor byte_table(int64_t group) {
  const torch::Tensor levels = torch::arange(256, torch::kFloat64) / 255;
  return (with_intensity(levels, group) * 255).round().to(torch::kUInt8);
}

}  // namespace

std::vector<int64_t> shift_groups(const Job& job, int64_t clients) {
  const auto [kind, groups] = read_options<ShiftOptions>(job);
  if (kind == "none") return {};
  Rng rng(job.seed(), "shift");
  std::vector<int64_t> group(static_cast<size_t>(clients));
  int64_t next = 0;
  for (const int64_t client : rng.permutation(clients))
    group[static_cast<size_t>(client)] = next++ % groups;
  return group;
}

void check_shift(const Job& job, const Dataset& data, int64_t clients) {
  const auto [kind, groups] = read_options<ShiftOptions>(job);
  if (kind == "none") return;
  FL_CHECK(groups <= clients, "shift.groups is ", groups, " (must be at most ", clients,
           ", the number of clients)");
  if (kind == "labels") {
    FL_CHECK(data.values.empty() && data.train.positions() == 1,
             "shift.kind labels permutes the labels of samples that have one class each; this data "
             "set's are ",
             data.values.empty() ? "sequences" : "numbers to predict");
    FL_CHECK(groups <= data.classes, "shift.groups is ", groups, " (must be at most ", data.classes,
             ", the number of classes: after that labels mean again what they meant in group 0)");
    return;
  }
  FL_CHECK(groups <= 4, "shift.groups is ", groups, " (must be at most 4 where shift.kind is ",
           kind, ")");
  const std::vector<int64_t> shape = data.train.sample_shape();
  if (kind == "rotation") {
    FL_CHECK(shape.size() == 3 && shape[1] == shape[2],
             "shift.kind rotation needs square images [channels, height, width]; the data's "
             "samples are ",
             torch::IntArrayRef(shape));
    return;
  }
  const torch::Tensor& inputs = data.train.inputs;
  if (inputs.scalar_type() == torch::kUInt8) return;
  const double low = inputs.min().item<double>(), high = inputs.max().item<double>();
  FL_CHECK(low >= 0 && high <= 1,
           "shift.kind intensity needs bytes, or numbers from 0 (black) to 1 (white); the data's "
           "inputs are ",
           low, " to ", high);
}

void apply_shift(const Job& job, const std::vector<int64_t>& groups,
                 std::initializer_list<const Partition*> lists, Dataset& data) {
  const auto options = read_options<ShiftOptions>(job);
  const std::string& kind = options.kind;
  if (kind == "none") return;
  Samples& samples = data.train;
  const auto change = [&](const torch::Tensor& indices, int64_t group) {
    if (kind == "labels") {
      const torch::Tensor labels = samples.labels.index_select(0, indices);
      samples.labels.index_copy_(0, indices, (labels + group).remainder(data.classes));
      return;
    }
    torch::Tensor inputs = samples.inputs.index_select(0, indices);  // [n, ...]
    if (kind == "rotation") {
      inputs = torch::rot90(inputs, group, {2, 3});
    } else if (inputs.scalar_type() == torch::kUInt8) {
      inputs = byte_table(group)
                   .index_select(0, inputs.flatten().to(torch::kInt64))
                   .view(inputs.sizes());
    } else {
      inputs = with_intensity(inputs, group);
    }
    samples.inputs.index_copy_(0, indices, inputs);
  };

  constexpr int64_t kChunk = 4096;  // samples at a time: copies stay small
  for (int64_t group = 1; group < options.groups; ++group) {
    std::vector<int64_t> members;  // sample indices
    const auto flush = [&] {
      if (!members.empty()) change(torch::tensor(members, torch::kInt64), group);
      members.clear();
    };
    for (const Partition* list : lists) {
      for (int64_t client = 0; client < list->clients(); ++client) {
        if (groups[static_cast<size_t>(client)] != group) continue;
        for (const int64_t index : list->of(client)) {
          members.push_back(index);
          if (std::ssize(members) == kChunk) flush();
        }
      }
    }
    flush();
  }
}

}  // namespace fl_sim
