#include "local_training.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace fl_sim {
namespace {

// One step's samples for the first A clients of a group.
struct Batch {
  torch::Tensor indices;  // [B, A] int64 into the training set; where a client is short, its last
                          // sample repeats
  std::vector<int64_t> counts;  // [A] real samples
  bool ragged = false;
};

// Walks each client's samples in an order that is reshuffled for every epoch, from the stream of
// (round, client).
class Batches {
 public:
  Batches(const ClientGroup& group, int64_t round, const LocalPlan& plan) : plan_(plan) {
    for (const int64_t id : group.ids) {
      const auto indices = group.data.partition->of(id);
      orders_.emplace_back(indices.begin(), indices.end());
      streams_.emplace_back(group.seed, "shuffle", round, id);
    }
  }

  Batch at(int64_t step, int64_t clients) {
    Batch batch;
    int64_t longest = 0;
    std::vector<int64_t> first;
    for (int64_t c = 0; c < clients; ++c) {
      std::vector<int64_t>& order = orders_[static_cast<size_t>(c)];
      const auto size = static_cast<int64_t>(order.size());
      const int64_t in_epoch = step % plan_.batches_per_epoch(size);
      if (in_epoch == 0) streams_[static_cast<size_t>(c)].shuffle(std::span(order));
      first.push_back(in_epoch * plan_.batch_size);
      batch.counts.push_back(std::min(plan_.batch_size, size - first.back()));
      longest = std::max(longest, batch.counts.back());
    }
    batch.indices = torch::empty({longest, clients}, torch::kInt64);
    int64_t* out = batch.indices.data_ptr<int64_t>();
    for (int64_t c = 0; c < clients; ++c) {
      const int64_t count = batch.counts[static_cast<size_t>(c)];
      const int64_t* in = orders_[static_cast<size_t>(c)].data() + first[static_cast<size_t>(c)];
      for (int64_t b = 0; b < longest; ++b) out[b * clients + c] = in[std::min(b, count - 1)];
      batch.ragged |= count < longest;
    }
    return batch;
  }

 private:
  const LocalPlan& plan_;
  std::vector<std::vector<int64_t>> orders_;
  std::vector<Rng> streams_;
};

// A batch's real samples as ones in [B, A], and their numbers as [A].
std::pair<torch::Tensor, torch::Tensor> mask_of(const Batch& batch, const torch::Tensor& rows) {
  const torch::Tensor counts = torch::tensor(batch.counts, torch::kInt64);
  const torch::Tensor mask = torch::arange(batch.indices.size(0)).unsqueeze(1).lt(counts);
  return {mask.to(rows.options()), counts.to(rows.options())};
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
      nesterov_(setup.job.get<bool>("local.nesterov")) {
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

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global,
                            const GradientHook& hook) const {
  const int64_t clients = group.size(), trained = trainable();
  const ClientData& data = group.data;
  const auto dtype = group.rows.scalar_type();
  const double lr = learning_rate(global.round);

  Update update;
  std::vector<Rng> streams;
  for (const int64_t id : group.ids) {
    update.steps.push_back(plan_.steps_of(data.partition->size(id)));
    update.step_weight.push_back(step_weight(update.steps.back()));
    streams.emplace_back(group.seed, "dropout", global.round, id);
  }
  FL_CHECK(std::is_sorted(update.steps.rbegin(), update.steps.rend()),
           "clients of a group must come with the most steps first");
  const int64_t steps = update.steps.front();

  Batches batches(group, global.round, plan_);
  const bool plain = !hook && momentum_ == 0 && weight_decay_ == 0 && clip_norm_ == 0;
  torch::Tensor gradients, velocity;
  if (!plain) gradients = torch::zeros({clients, trained}, group.rows.options());
  if (momentum_ > 0) velocity = torch::zeros_like(gradients);
  std::vector<torch::Tensor> losses;         // [steps][A]
  std::vector<std::vector<int64_t>> counts;  // [steps][A] samples

  int64_t active = clients;
  const auto weights_of_active = [&] {
    const torch::Tensor rows = group.rows.narrow(0, 0, active);
    return plain ? Weights::for_descent(network_.layout(), rows)
                 : Weights(network_.layout(), rows, gradients.narrow(0, 0, active));
  };
  Weights weights = weights_of_active();
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t before = active;
    while (update.steps[static_cast<size_t>(active) - 1] <= step) --active;
    if (active != before) weights = weights_of_active();
    Batch batch = batches.at(step, active);
    const torch::Tensor indices = batch.indices.flatten().to(group.rows.device());
    torch::Tensor x =
        stack_inputs(fetch_inputs(data.train, indices, data.scale, data.shift, dtype), active);
    const torch::Tensor y = data.train.labels.index_select(0, indices).view({-1, active});

    torch::Tensor client_losses;  // [A]
    weights.streams = std::span(streams).first(static_cast<size_t>(active));
    if (batch.ragged) {
      const auto [mask, sizes] = mask_of(batch, group.rows);
      weights.mask = mask;
      weights.counts = batch.counts;
      client_losses =
          network_.loss(network_.forward(weights, std::move(x)), y).mul(mask).sum(0).div(sizes);
    } else {
      weights.mask = torch::Tensor();
      weights.counts.clear();
      client_losses = network_.loss(network_.forward(weights, std::move(x)), y).mean(0);
    }
    const torch::Tensor loss = active == 1 ? client_losses.squeeze(0) : client_losses.sum();
    losses.push_back(client_losses.detach());
    counts.push_back(std::move(batch.counts));
    if (plain) {
      weights.descend(loss, lr);
      continue;
    }

    weights.backward(loss);
    torch::NoGradGuard no_grad;
    torch::Tensor g = gradients.narrow(0, 0, active);
    torch::Tensor rows = group.rows.narrow(0, 0, active).narrow(1, 0, trained);
    if (hook) {
      LocalStep local_step{active, rows, g};
      hook(local_step);
    }
    if (clip_norm_ > 0) clip_rows(g, clip_norm_);
    if (weight_decay_ > 0) g.add_(rows, weight_decay_);
    if (momentum_ > 0) {
      torch::Tensor v = velocity.narrow(0, 0, active);
      v.mul_(momentum_).add_(g);
      if (nesterov_) {
        g.add_(v, momentum_);
      } else {
        g = v;
      }
    }
    rows.add_(g, -lr);
  }

  torch::NoGradGuard no_grad;
  update.delta = group.rows - global.weights;
  std::vector<std::vector<double>> loss_log;  // [steps][A]
  for (const torch::Tensor& step : losses) {
    const torch::Tensor values = step.to(torch::kFloat64).cpu().contiguous();
    loss_log.emplace_back(values.data_ptr<double>(), values.data_ptr<double>() + values.numel());
  }
  for (size_t c = 0; c < static_cast<size_t>(clients); ++c) {
    double total = 0;
    int64_t seen = 0;
    const auto own = static_cast<size_t>(update.steps[c]);
    for (size_t step = 0; step < own; ++step) {
      total += loss_log[step][c] * static_cast<double>(counts[step][c]);
      seen += counts[step][c];
    }
    update.samples_seen.push_back(seen);
    update.loss.push_back(own > 0 ? total / static_cast<double>(seen) : kNotMeasured);
    update.loss_before.push_back(own > 0 ? loss_log.front()[c] : kNotMeasured);
    update.loss_after.push_back(own > 0 ? loss_log[own - 1][c] : kNotMeasured);
  }
  return update;
}

}  // namespace fl_sim
