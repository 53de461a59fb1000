#include "learning/server_optimizer.h"

#include <cmath>

namespace fl_sim {

ServerOptimizer::ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction)
    : trainable_(setup.network.layout().trainable()),
      rule_(setup.job.get<std::string>("server.optimizer")),
      lr_(setup.job.get<double>("server.lr")),
      bias_correction_(bias_correction) {
  if (rule_ == "momentum") momentum_ = setup.job.get<double>("server.momentum");
  if (adaptive()) {
    beta1_ = setup.job.get<double>("server.beta1");
    tau_ = setup.job.get<double>("server.tau");
    if (rule_ != "adagrad") beta2_ = setup.job.get<double>("server.beta2");
  }
}

void ServerOptimizer::init(ServerState& server) const {
  const torch::Tensor trainable = server.weights.narrow(1, 0, trainable_);
  if (rule_ == "momentum") server.hidden["server.u"] = torch::zeros_like(trainable);
  if (!adaptive()) return;
  server.hidden["server.m"] = torch::zeros_like(trainable);
  server.hidden["server.v"] = torch::full_like(trainable, bias_correction_ ? 0 : tau_ * tau_);
  // A model's steps so far: not the round, since a round without accepted clients is no step.
  if (bias_correction_) {
    server.hidden["server.steps"] = torch::zeros({server.weights.size(0)}, torch::kInt64);
  }
}

void ServerOptimizer::step(ServerState& server, const torch::Tensor& delta, int64_t model) const {
  const torch::Tensor row = server.weights.narrow(0, model, 1);
  torch::Tensor weights = row.narrow(1, 0, trainable_);
  const torch::Tensor d = delta.narrow(1, 0, trainable_);
  if (rule_ == "sgd") {
    weights.add_(d, lr_);
  } else if (rule_ == "momentum") {
    torch::Tensor u = server.hidden.at("server.u").narrow(0, model, 1);
    u.mul_(momentum_).add_(d);
    weights.add_(u, lr_);
  } else {
    adapt(server, weights, d, model);
  }
  const int64_t buffers = row.size(1) - trainable_;
  if (buffers > 0) {
    row.narrow(1, trainable_, buffers).add_(delta.narrow(1, trainable_, buffers));
  }
}

void ServerOptimizer::adapt(ServerState& server, torch::Tensor& weights, const torch::Tensor& d,
                            int64_t model) const {
  torch::Tensor m = server.hidden.at("server.m").narrow(0, model, 1);
  torch::Tensor v = server.hidden.at("server.v").narrow(0, model, 1);
  m.mul_(beta1_).add_(d, 1 - beta1_);
  if (rule_ == "adagrad") {
    v.addcmul_(d, d);
  } else if (rule_ == "adam") {
    v.mul_(beta2_).addcmul_(d, d, 1 - beta2_);
  } else {
    const torch::Tensor square = d.square();
    v.addcmul_(square, (v - square).sign_(), -(1 - beta2_));
  }
  double m_scale = 1, v_scale = 1;
  if (bias_correction_) {
    torch::Tensor steps = server.hidden.at("server.steps").narrow(0, model, 1);
    const auto t = static_cast<double>(steps.add_(1).item<int64_t>());
    m_scale = 1 / (1 - std::pow(beta1_, t));
    v_scale = 1 / (1 - std::pow(beta2_, t));
  }
  weights.addcdiv_(m, v.mul(v_scale).sqrt_().add_(tau_), lr_ * m_scale);
}

}  // namespace fl_sim
