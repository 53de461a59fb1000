#include "learning/local_optimizer.h"

#include <cmath>

#include "base/check.h"

namespace fl_sim {

using LocalOptions = LocalOptimizer::Options;
const OptionSet<LocalOptions> LocalOptions::kOptions(
    820, {{&LocalOptions::optimizer,
           {.name = "local.optimizer",
            .default_value = "sgd",
            .meaning = "what a client descends with",
            .choices = {"sgd", "adam"}}},
          {&LocalOptions::momentum,
           {.name = "local.momentum",
            .default_value = "0",
            .meaning = "local momentum, fresh in every round unless keep-momentum",
            .range = from_below(0, 1),
            .only_with = {"local.optimizer", {"sgd"}}}},
          {&LocalOptions::nesterov,
           {.name = "local.nesterov",
            .default_value = "false",
            .meaning = "Nesterov's form of the local momentum",
            .only_with = {"local.optimizer", {"sgd"}}}},
          {&LocalOptions::keep_momentum,
           {.name = "local.keep-momentum",
            .default_value = "false",
            .meaning = "a client's momentum survives from round to round",
            .only_with = {"local.optimizer", {"sgd"}}}},
          {&LocalOptions::beta1,
           {.name = "local.beta1",
            .default_value = "0.9",
            .meaning = "decay of the first moment, fresh in every round",
            .range = from_below(0, 1),
            .only_with = {"local.optimizer", {"adam"}}}},
          {&LocalOptions::beta2,
           {.name = "local.beta2",
            .default_value = "0.999",
            .meaning = "decay of the second moment, fresh in every round",
            .range = from_below(0, 1),
            .only_with = {"local.optimizer", {"adam"}}}},
          {&LocalOptions::epsilon,
           {.name = "local.epsilon",
            .default_value = "1e-8",
            .meaning = "added to the root of the second moment",
            .range = more_than(0),
            .only_with = {"local.optimizer", {"adam"}}}},
          {&LocalOptions::weight_decay,
           {.name = "local.weight-decay",
            .default_value = "0",
            .meaning = "l2 penalty, added to the gradient as weight-decay * weights",
            .range = at_least(0)}},
          {&LocalOptions::clip_norm,
           {.name = "local.clip-norm",
            .default_value = "0",
            .meaning = "largest l2 norm of a step's gradient; 0: unlimited",
            .range = at_least(0)}}});

namespace {

void clip_rows(torch::Tensor& gradients, double limit) {
  const torch::Tensor norms = gradients.norm(2, 1, /*keepdim=*/true);
  gradients.mul_((limit / (norms + 1e-6)).clamp_max(1));
}

}  // namespace

LocalOptimizer::LocalOptimizer(const Job& job) : o_(read_options<Options>(job)) {
  FL_CHECK(!o_.nesterov || o_.momentum > 0,
           "local.nesterov is on, but local.momentum is 0 (set a momentum, or leave Nesterov off)");
  FL_CHECK(!o_.keep_momentum || o_.momentum > 0,
           "local.keep-momentum is on, but local.momentum is 0 (there is nothing to keep)");
}

LocalOptimizer::Memory LocalOptimizer::start(int64_t clients, int64_t trainable,
                                             const torch::TensorOptions& options) const {
  Memory memory;
  if (adam() || o_.momentum > 0) memory.velocity = torch::zeros({clients, trainable}, options);
  if (adam()) memory.second = torch::zeros({clients, trainable}, options);
  return memory;
}

void LocalOptimizer::step(torch::Tensor rows, torch::Tensor g, Memory& memory, double lr) const {
  const auto active = [&](const torch::Tensor& all) { return all.narrow(0, 0, rows.size(0)); };
  ++memory.steps;
  if (o_.clip_norm > 0) clip_rows(g, o_.clip_norm);
  if (o_.weight_decay > 0) g.add_(rows, o_.weight_decay);
  if (adam()) {
    torch::Tensor m = active(memory.velocity), v = active(memory.second);
    m.mul_(o_.beta1).add_(g, 1 - o_.beta1);
    v.mul_(o_.beta2).addcmul_(g, g, 1 - o_.beta2);
    const auto t = static_cast<double>(memory.steps);
    const double m_scale = 1 / (1 - std::pow(o_.beta1, t)),
                 v_scale = 1 / (1 - std::pow(o_.beta2, t));
    rows.addcdiv_(m, v.mul(v_scale).sqrt_().add_(o_.epsilon), -lr * m_scale);
    return;
  }
  if (o_.momentum > 0) {
    torch::Tensor v = active(memory.velocity);
    v.mul_(o_.momentum).add_(g);
    if (o_.nesterov) {
      g.add_(v, o_.momentum);
    } else {
      g = v;
    }
  }
  rows.add_(g, -lr);
}

double LocalOptimizer::step_weight(int64_t steps, double pull) const {
  if (adam()) return static_cast<double>(steps);
  double velocity = 0, total = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const double g = 1 - pull * total;  // the pull is a part of the gradient, before momentum
    velocity = o_.momentum * velocity + g;
    total += o_.nesterov ? g + o_.momentum * velocity : velocity;
  }
  return total;
}

}  // namespace fl_sim
