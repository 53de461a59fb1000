#include "server_optimizer.h"

#include <cmath>

namespace fl_sim {

ServerOptimizer::ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction)
    : trainable_(setup.network.layout().trainable()),
      rule_(setup.job.get<std::string>("server.optimizer")),
      lr_(setup.job.get<double>("server.lr")),
      bias_correction_(bias_correction) {
  if (rule_ == "adam") {
    beta1_ = setup.job.get<double>("server.beta1");
    beta2_ = setup.job.get<double>("server.beta2");
    tau_ = setup.job.get<double>("server.tau");
  }
}

void ServerOptimizer::init(ServerState& server) const {
  if (rule_ != "adam") return;
  const torch::Tensor trainable = server.weights.narrow(1, 0, trainable_);
  server.hidden["server.m"] = torch::zeros_like(trainable);
  server.hidden["server.v"] = torch::full_like(trainable, bias_correction_ ? 0 : tau_ * tau_);
  // Steps so far: not the round, since a round without accepted clients is no step.
  if (bias_correction_) server.hidden["server.steps"] = torch::zeros({1}, torch::kInt64);
}

void ServerOptimizer::step(ServerState& server, const torch::Tensor& delta) const {
  const int64_t buffers = server.weights.size(1) - trainable_;
  torch::Tensor weights = server.weights.narrow(1, 0, trainable_);
  const torch::Tensor d = delta.narrow(1, 0, trainable_);
  if (rule_ == "sgd") {
    weights.add_(d, lr_);
  } else {
    torch::Tensor m = server.hidden.at("server.m"), v = server.hidden.at("server.v");
    m.mul_(beta1_).add_(d, 1 - beta1_);
    v.mul_(beta2_).addcmul_(d, d, 1 - beta2_);
    double m_scale = 1, v_scale = 1;
    if (bias_correction_) {
      const auto t = static_cast<double>(server.hidden.at("server.steps").add_(1).item<int64_t>());
      m_scale = 1 / (1 - std::pow(beta1_, t));
      v_scale = 1 / (1 - std::pow(beta2_, t));
    }
    weights.addcdiv_(m, v.mul(v_scale).sqrt_().add_(tau_), lr_ * m_scale);
  }
  if (buffers > 0) {
    server.weights.narrow(1, trainable_, buffers).add_(delta.narrow(1, trainable_, buffers));
  }
}

}  // namespace fl_sim
