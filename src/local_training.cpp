#include "local_training.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "arithmetic.h"
#include "check.h"
#include "direct_pass.h"

namespace fl_sim {
namespace {

// The samples of all steps of a group. Each client goes through its own in an order that is
// reshuffled for every epoch, from the stream of (round, client).
class Batches {
 public:
  struct Step {
    int64_t clients;        // A, the group's first, that still train
    int64_t longest;        // B, samples of the largest batch
    int64_t first;          // where the step's [B, A] indices begin
    bool ragged;            // a client has fewer than B samples; its last one fills up
    const int64_t* counts;  // [A] real samples
  };

  // `steps` of each client, the most first.
  Batches(const ClientGroup& group, int64_t round, const LocalPlan& plan,
          const std::vector<int64_t>& steps)
      : group_size_(group.size()), counts_(static_cast<size_t>(steps[0] * group_size_)) {
    std::vector<std::vector<int64_t>> orders;
    std::vector<Rng> streams;
    for (const int64_t id : group.ids) {
      const auto indices = group.data.partition->of(id);
      orders.emplace_back(indices.begin(), indices.end());
      streams.emplace_back(group.seed, "shuffle", round, id);
    }
    int64_t active = group_size_;
    std::vector<const int64_t*> samples(orders.size());
    for (int64_t step = 0; step < steps[0]; ++step) {
      while (steps[static_cast<size_t>(active) - 1] <= step) --active;
      Step next{.clients = active,
                .longest = 0,
                .first = static_cast<int64_t>(indices_.size()),
                .ragged = false,
                .counts = counts_.data() + step * group_size_};
      int64_t* counts = counts_.data() + step * group_size_;
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

  const Step& at(int64_t step) const { return steps_[static_cast<size_t>(step)]; }

  // One client's samples in a step.
  std::span<const int64_t> indices(const Step& step) const {
    return std::span(indices_).subspan(static_cast<size_t>(step.first),
                                       static_cast<size_t>(step.longest * step.clients));
  }

  // All at once, so that no step waits for a transfer.
  void upload(const torch::TensorOptions& rows) {
    const auto numbers = [](std::vector<int64_t>& values) {
      return torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kInt64);
    };
    device_indices_ = numbers(indices_).to(rows.device());
    device_counts_ = numbers(counts_).view({-1, group_size_}).to(rows);
    positions_ = torch::arange(std::max<int64_t>(1, longest()), rows).unsqueeze(1);
  }
  // [B * A], ordered by sample, then client.
  torch::Tensor device_indices(const Step& step) const {
    return device_indices_.narrow(0, step.first, step.longest * step.clients);
  }
  // The numbers of real samples [A], and those samples as ones in [B, A].
  torch::Tensor sizes(int64_t step) const {
    return device_counts_[step].narrow(0, 0, at(step).clients);
  }
  torch::Tensor mask(int64_t step) const {
    return positions_.narrow(0, 0, at(step).longest).lt(sizes(step)).to(device_counts_.dtype());
  }

 private:
  int64_t longest() const {
    int64_t result = 0;
    for (const Step& step : steps_) result = std::max(result, step.longest);
    return result;
  }

  int64_t group_size_;
  std::vector<int64_t> counts_;   // [steps, G]
  std::vector<int64_t> indices_;  // into the training set, step after step
  std::vector<Step> steps_;
  torch::Tensor device_indices_, device_counts_, positions_;
};

void apply(const AffineCorrection& affine, LocalStep& step) {
  // A tensor of one row serves all clients.
  const auto own = [&](const torch::Tensor& t) {
    return t.dim() == 2 && t.size(0) > 1 ? step.of(t) : t;
  };
  if (affine.pull != 0) step.gradients.add_(step.rows - own(affine.anchor), affine.pull);
  if (affine.shift.defined()) step.gradients.add_(own(affine.shift));
}

// What an affine correction adds to a row in every step, whatever the row is: lr * (pull * anchor -
// shift), [T]. Undefined if nothing.
torch::Tensor folded_part(const AffineCorrection& affine, double lr) {
  torch::Tensor part;
  if (affine.pull != 0) part = affine.anchor * (lr * affine.pull);
  if (affine.shift.defined()) part = part.defined() ? part - affine.shift * lr : affine.shift * -lr;
  return part.defined() ? part.contiguous() : part;
}

void clip_rows(torch::Tensor& gradients, double limit) {
  const torch::Tensor norms = gradients.norm(2, 1, /*keepdim=*/true);
  gradients.mul_((limit / (norms + 1e-6)).clamp_max(1));
}

}  // namespace

LocalPlan::LocalPlan(const Job& job)
    : epochs(job.get<int64_t>("local.epochs")),
      steps(job.get<int64_t>("local.steps")),
      batch_size(job.get<int64_t>("local.batch-size")) {}

int64_t LocalPlan::steps_of(int64_t samples) const {
  if (samples == 0) return 0;
  return steps > 0 ? steps : epochs * batches_per_epoch(samples);
}

LocalTraining::LocalTraining(const Algorithm::Setup& setup)
    : network_(setup.network),
      plan_(setup.job),
      lr_(setup.job.get<double>("local.lr")),
      lr_decay_(setup.job.get<double>("local.lr-decay")),
      momentum_(setup.job.get<double>("local.momentum")),
      weight_decay_(setup.job.get<double>("local.weight-decay")),
      clip_norm_(setup.job.get<double>("local.clip-norm")),
      nesterov_(setup.job.get<bool>("local.nesterov")),
      one_thread_(setup.job.get<int64_t>("threads") == 1),
      product_type_(product_type(setup.job)) {
  FL_CHECK(!nesterov_ || momentum_ > 0,
           "local.nesterov is on, but local.momentum is 0 (set a momentum, or leave Nesterov off)");
}

double LocalTraining::learning_rate(int64_t round) const {
  return lr_ * std::pow(lr_decay_, static_cast<double>(round - 1));
}

// The displacement that `steps` gradients of 1 make, in units of the learning rate.
double LocalTraining::step_weight(int64_t steps) const {
  double velocity = 0, total = 0;
  for (int64_t i = 0; i < steps; ++i) {
    velocity = momentum_ * velocity + 1;
    total += nesterov_ ? 1 + momentum_ * velocity : velocity;
  }
  return total;
}

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global) const {
  return run(group, global, {});
}

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global,
                            const AffineCorrection& affine) const {
  return run(group, global, {.affine = &affine});
}

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global,
                            const GradientHook& hook) const {
  return run(group, global, {.hook = hook ? &hook : nullptr});
}

// An update with what is known beforehand.
Update LocalTraining::start(const ClientGroup& group) const {
  Update update;
  for (const int64_t id : group.ids) {
    update.steps.push_back(plan_.steps_of(group.data.partition->size(id)));
    update.step_weight.push_back(step_weight(update.steps.back()));
  }
  FL_CHECK(std::is_sorted(update.steps.rbegin(), update.steps.rend()),
           "clients of a group must come with the most steps first");
  return update;
}

// From the gradients to the new rows.
void LocalTraining::descend(torch::Tensor& rows, LocalStep& step, const Correction& correction,
                            torch::Tensor& velocity, double lr) const {
  torch::NoGradGuard no_grad;
  torch::Tensor& g = step.gradients;
  if (correction.hook != nullptr) (*correction.hook)(step);
  if (correction.affine != nullptr) apply(*correction.affine, step);
  if (clip_norm_ > 0) clip_rows(g, clip_norm_);
  if (weight_decay_ > 0) g.add_(rows, weight_decay_);
  if (momentum_ > 0) {
    torch::Tensor v = step.of(velocity);
    v.mul_(momentum_).add_(g);
    if (nesterov_) {
      g.add_(v, momentum_);
    } else {
      g = v;
    }
  }
  rows.add_(g, -lr);
}

Update LocalTraining::run(ClientGroup& group, const GlobalModel& global,
                          const Correction& correction) const {
  const int64_t clients = group.size(), trained = trainable();
  const ClientData& data = group.data;
  const torch::TensorOptions options = group.rows.options();
  const double lr = learning_rate(global.round);
  Update update = start(group);
  const int64_t steps = update.steps.front();
  Batches batches(group, global.round, plan_, update.steps);

  // One client in float32 on one core of a CPU has the network's direct pass, if it has one.
  std::unique_ptr<DirectPass> direct;
  if (clients == 1 && steps > 0 && one_thread_ && !product_type_ && group.rows.is_cpu() &&
      group.rows.scalar_type() == torch::kFloat32) {
    direct = network_.direct_pass(batches.at(0).longest);
  }
  std::vector<Rng> streams;
  if (!direct) {
    batches.upload(options);
    for (const int64_t id : group.ids)
      streams.emplace_back(group.seed, "dropout", global.round, id);
  }

  // Without momentum, clipping and hook a step of the direct pass is folded into its kernels:
  //   row += plus - decay * row - lr * gradient.
  const bool linear = correction.hook == nullptr && momentum_ == 0 && clip_norm_ == 0;
  const bool plain = linear && correction.affine == nullptr && weight_decay_ == 0;
  const bool folded = direct && linear;
  torch::Tensor plus;
  if (folded && correction.affine != nullptr) plus = folded_part(*correction.affine, lr);
  const double pull = weight_decay_ + (correction.affine != nullptr ? correction.affine->pull : 0);
  GradientTarget fold{.row = nullptr,
                      .scale = static_cast<float>(-lr),
                      .plus = plus.defined() ? plus.data_ptr<float>() : nullptr,
                      .add = true,
                      .decay = static_cast<float>(lr * pull)};

  torch::Tensor gradients, velocity;
  if (!(plain || folded)) gradients = torch::zeros({clients, trained}, options);
  if (momentum_ > 0) velocity = torch::zeros_like(gradients);
  // [steps, G]; it stays on the device, so that no step waits for it.
  torch::Tensor losses =
      torch::zeros({steps, clients}, direct ? options.dtype(torch::kFloat64) : options);

  std::optional<Weights> weights;  // of the clients that still train
  for (int64_t step = 0; step < steps; ++step) {
    const Batches::Step& batch = batches.at(step);
    const int64_t active = batch.clients;
    if (direct) {
      float* row = group.rows.data_ptr<float>();
      direct->load(data.train, batches.indices(batch), data.scale, data.shift);
      direct->forward(row);
      losses.data_ptr<double>()[step] = direct->loss();
      if (folded) {
        fold.row = row;
        direct->backward(row, fold);
        continue;
      }
      direct->backward(row, {.row = gradients.data_ptr<float>()});
    } else {
      if (!weights || active != weights->clients()) {
        const torch::Tensor rows = group.rows.narrow(0, 0, active);
        if (plain) {
          weights = Weights::for_descent(network_.layout(), rows);
        } else {
          weights.emplace(network_.layout(), rows, gradients.narrow(0, 0, active));
        }
        weights->product_type = product_type_;
      }
      const torch::Tensor indices = batches.device_indices(batch);
      torch::Tensor x = stack_inputs(
          fetch_inputs(data.train, indices, data.scale, data.shift, options.dtype().toScalarType()),
          active);
      const torch::Tensor y = data.train.labels.index_select(0, indices).view({-1, active});
      weights->streams = std::span(streams).first(static_cast<size_t>(active));
      weights->mask = batch.ragged ? batches.mask(step) : torch::Tensor();
      weights->counts.clear();
      if (batch.ragged) weights->counts.assign(batch.counts, batch.counts + active);
      const torch::Tensor sample_losses =
          network_.loss(network_.forward(*weights, std::move(x)), y);
      const torch::Tensor client_losses =
          batch.ragged ? sample_losses.mul(weights->mask).sum(0).div(batches.sizes(step))
                       : sample_losses.mean(0);  // [A]
      const torch::Tensor loss = active == 1 ? client_losses.squeeze(0) : client_losses.sum();
      losses[step].narrow(0, 0, active).copy_(client_losses.detach());
      if (plain) {
        weights->descend(loss, lr);
        continue;
      }
      weights->backward(loss);
    }

    torch::Tensor rows = group.rows.narrow(0, 0, active).narrow(1, 0, trained);
    torch::Tensor g = gradients.narrow(0, 0, active);
    LocalStep local_step{active, rows, g};
    descend(rows, local_step, correction, velocity, lr);
  }

  torch::NoGradGuard no_grad;
  update.delta = group.rows - global.weights;
  losses = losses.to(torch::kFloat64).cpu();
  const double* loss_log = losses.data_ptr<double>();
  for (int64_t c = 0; c < clients; ++c) {
    double total = 0;
    int64_t seen = 0;
    const int64_t own = update.steps[static_cast<size_t>(c)];
    for (int64_t step = 0; step < own; ++step) {
      const int64_t count = batches.at(step).counts[c];
      total += loss_log[step * clients + c] * static_cast<double>(count);
      seen += count;
    }
    update.samples_seen.push_back(seen);
    update.loss.push_back(own > 0 ? total / static_cast<double>(seen) : kNotMeasured);
    update.loss_before.push_back(own > 0 ? loss_log[c] : kNotMeasured);
    update.loss_after.push_back(own > 0 ? loss_log[(own - 1) * clients + c] : kNotMeasured);
  }
  return update;
}

}  // namespace fl_sim
