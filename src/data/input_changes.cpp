#include "data/input_changes.h"

#include <torch/torch.h>

#include <algorithm>

#include "base/check.h"

namespace fl_sim {

const OptionSet<Augmentation> Augmentation::kOptions(
    1020,
    {{&Augmentation::crop,
      {.name = "augment.crop",
       .default_value = "0",
       .meaning = "training images are moved by up to so many pixels each way, zeros move in",
       .range = at_least(0)}},
     {&Augmentation::flip,
      {.name = "augment.flip",
       .default_value = "false",
       .meaning = "half of the training images are mirrored"}},
     {&Augmentation::noise,
      {.name = "augment.noise",
       .default_value = "0",
       .meaning = "standard deviation of normal noise on training inputs, as networks see them",
       .range = at_least(0)}}});

InputChanges::InputChanges(const Job& job, const Partitioner& partitioner, int64_t clients,
                           const std::vector<int64_t>& shape)
    : augment_(read_options<Augmentation>(job)) {
  FL_CHECK((augment_.crop == 0 && !augment_.flip) || shape.size() == 3,
           "augment.crop and augment.flip are for images [channels, height, width]; this data "
           "set's samples are ",
           torch::IntArrayRef(shape));
  FL_CHECK(augment_.crop == 0 || augment_.crop < std::min(shape[1], shape[2]), "augment.crop is ",
           augment_.crop, " (must be less than the images' sides, ", shape[1], " x ", shape[2],
           ")");
  if (!partitioner.has_views()) return;
  for (int64_t client = 0; client < clients; ++client) {
    views_.push_back(partitioner.view(client, clients, shape));
    masks_ = masks_ || views_.back().mask.defined();
  }
}

// One sample [shape...] on the CPU.
torch::Tensor InputChanges::change(torch::Tensor sample, int64_t client, Rng& rng) const {
  if (augment_.crop > 0) {
    const int64_t height = sample.size(1), width = sample.size(2);
    const int64_t top = rng.below(2 * augment_.crop + 1), left = rng.below(2 * augment_.crop + 1);
    sample = torch::constant_pad_nd(sample,
                                    {augment_.crop, augment_.crop, augment_.crop, augment_.crop}, 0)
                 .narrow(1, top, height)
                 .narrow(2, left, width);
  }
  if (augment_.flip && rng.below(2) == 1) sample = sample.flip({2});
  const ClientView view = views_.empty() ? ClientView() : views_[static_cast<size_t>(client)];
  for (const double deviation : {augment_.noise, view.noise}) {
    if (deviation == 0) continue;
    torch::Tensor noise = torch::empty(sample.sizes());
    float* next = noise.data_ptr<float>();
    for (int64_t i = 0; i < noise.numel(); ++i)
      next[i] = static_cast<float>(deviation * rng.normal());
    sample = sample + noise.to(sample.scalar_type());
  }
  if (view.mask.defined()) sample = sample * view.mask.to(sample.scalar_type());
  return sample;
}

torch::Tensor InputChanges::apply(const torch::Tensor& x, std::span<const int64_t> ids,
                                  std::span<Rng> streams, std::span<const int64_t> counts) const {
  if (!training()) return x;
  const auto clients = std::ssize(ids);
  torch::Tensor changed = x.cpu().clone();
  for (int64_t a = 0; a < clients; ++a) {
    const int64_t samples = counts.empty() ? x.size(0) / clients : counts[static_cast<size_t>(a)];
    for (int64_t n = 0; n < samples; ++n) {
      torch::Tensor sample = changed[n * clients + a];
      sample.copy_(change(sample, ids[static_cast<size_t>(a)], streams[static_cast<size_t>(a)]));
    }
  }
  return changed.to(x.device());
}

torch::Tensor InputChanges::masked(const torch::Tensor& x, int64_t client) const {
  if (!masks_ || !views_[static_cast<size_t>(client)].mask.defined()) return x;
  return x * views_[static_cast<size_t>(client)].mask.to(x.options());
}

}  // namespace fl_sim
