#include "learning/local_optimizer.h"

#include <cmath>

#include "base/check.h"

namespace fl_sim {
namespace {

void clip_rows(torch::Tensor& gradients, double limit) {
  const torch::Tensor norms = gradients.norm(2, 1, /*keepdim=*/true);
  gradients.mul_((limit / (norms + 1e-6)).clamp_max(1));
}

}  // namespace

LocalOptimizer::LocalOptimizer(const Job& job)
    : adam_(job.get<std::string>("local.optimizer") == "adam"),
      weight_decay_(job.get<double>("local.weight-decay")),
      clip_norm_(job.get<double>("local.clip-norm")) {
  if (adam_) {
    beta1_ = job.get<double>("local.beta1");
    beta2_ = job.get<double>("local.beta2");
    epsilon_ = job.get<double>("local.epsilon");
    return;
  }
  momentum_ = job.get<double>("local.momentum");
  nesterov_ = job.get<bool>("local.nesterov");
  FL_CHECK(!nesterov_ || momentum_ > 0,
           "local.nesterov is on, but local.momentum is 0 (set a momentum, or leave Nesterov off)");
}

LocalOptimizer::Memory LocalOptimizer::start(int64_t clients, int64_t trainable,
                                             const torch::TensorOptions& options) const {
  Memory memory;
  if (adam_ || momentum_ > 0) memory.velocity = torch::zeros({clients, trainable}, options);
  if (adam_) memory.second = torch::zeros({clients, trainable}, options);
  return memory;
}

void LocalOptimizer::step(torch::Tensor rows, torch::Tensor g, Memory& memory, double lr) const {
  const auto active = [&](const torch::Tensor& all) { return all.narrow(0, 0, rows.size(0)); };
  ++memory.steps;
  if (clip_norm_ > 0) clip_rows(g, clip_norm_);
  if (weight_decay_ > 0) g.add_(rows, weight_decay_);
  if (adam_) {
    torch::Tensor m = active(memory.velocity), v = active(memory.second);
    m.mul_(beta1_).add_(g, 1 - beta1_);
    v.mul_(beta2_).addcmul_(g, g, 1 - beta2_);
    const auto t = static_cast<double>(memory.steps);
    const double m_scale = 1 / (1 - std::pow(beta1_, t)), v_scale = 1 / (1 - std::pow(beta2_, t));
    rows.addcdiv_(m, v.mul(v_scale).sqrt_().add_(epsilon_), -lr * m_scale);
    return;
  }
  if (momentum_ > 0) {
    torch::Tensor v = active(memory.velocity);
    v.mul_(momentum_).add_(g);
    if (nesterov_) {
      g.add_(v, momentum_);
    } else {
      g = v;
    }
  }
  rows.add_(g, -lr);
}

double LocalOptimizer::step_weight(int64_t steps, double pull) const {
  if (adam_) return static_cast<double>(steps);
  double velocity = 0, total = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const double g = 1 - pull * total;  // the pull is a part of the gradient, before momentum
    velocity = momentum_ * velocity + g;
    total += nesterov_ ? g + momentum_ * velocity : velocity;
  }
  return total;
}

}  // namespace fl_sim
