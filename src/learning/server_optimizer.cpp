#include "learning/server_optimizer.h"

#include <cmath>
#include <vector>

namespace fl_sim {

namespace {

const std::vector<std::string> kAdaptive = {"adagrad", "adam", "yogi"};

}  // namespace

using ServerOptions = ServerOptimizer::Options;
const OptionSet<ServerOptions> ServerOptions::kOptions(
    830, {{&ServerOptions::rule,
           {.name = "server.optimizer",
            .default_value = "sgd",
            .meaning = "what the server does with the mean delta",
            .choices = {"sgd", "momentum", "adagrad", "adam", "yogi"}}},
          {&ServerOptions::lr,
           {.name = "server.lr",
            .default_value = "1",
            .meaning = "server learning rate",
            .range = more_than(0)}},
          {&ServerOptions::momentum,
           {.name = "server.momentum",
            .default_value = "0.9",
            .meaning = "decay of the sum of past deltas",
            .range = from_below(0, 1),
            .only_with = {"server.optimizer", {"momentum"}}}},
          {&ServerOptions::beta1,
           {.name = "server.beta1",
            .default_value = "0.9",
            .meaning = "decay of the first moment",
            .range = from_below(0, 1),
            .only_with = {"server.optimizer", kAdaptive}}},
          {&ServerOptions::beta2,
           {.name = "server.beta2",
            .default_value = "0.99",
            .meaning = "decay of the second moment",
            .range = from_below(0, 1),
            .only_with = {"server.optimizer", {"adam", "yogi"}}}},
          {&ServerOptions::tau,
           {.name = "server.tau",
            .default_value = "0.001",
            .meaning = "adaptivity, added to the root of the second moment",
            .range = more_than(0),
            .only_with = {"server.optimizer", kAdaptive}}}});

ServerOptimizer::ServerOptimizer(const Algorithm::Setup& setup, bool bias_correction)
    : trainable_(setup.network.layout().trainable()),
      o_(read_options<Options>(setup.job)),
      bias_correction_(bias_correction) {}

void ServerOptimizer::init(ServerState& server) const {
  const torch::Tensor trainable = server.weights.narrow(1, 0, trainable_);
  if (o_.rule == "momentum") server.hidden["server.u"] = torch::zeros_like(trainable);
  if (!adaptive()) return;
  server.hidden["server.m"] = torch::zeros_like(trainable);
  server.hidden["server.v"] = torch::full_like(trainable, bias_correction_ ? 0 : o_.tau * o_.tau);
  // A model's steps so far: not the round, since a round without accepted clients is no step.
  if (bias_correction_) {
    server.hidden["server.steps"] = torch::zeros({server.weights.size(0)}, torch::kInt64);
  }
}

void ServerOptimizer::step(ServerState& server, const torch::Tensor& delta, int64_t model) const {
  const torch::Tensor row = server.weights.narrow(0, model, 1);
  torch::Tensor weights = row.narrow(1, 0, trainable_);
  const torch::Tensor d = delta.narrow(1, 0, trainable_);
  if (o_.rule == "sgd") {
    weights.add_(d, o_.lr);
  } else if (o_.rule == "momentum") {
    torch::Tensor u = server.hidden.at("server.u").narrow(0, model, 1);
    u.mul_(o_.momentum).add_(d);
    weights.add_(u, o_.lr);
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
  m.mul_(o_.beta1).add_(d, 1 - o_.beta1);
  if (o_.rule == "adagrad") {
    v.addcmul_(d, d);
  } else if (o_.rule == "adam") {
    v.mul_(o_.beta2).addcmul_(d, d, 1 - o_.beta2);
  } else {
    const torch::Tensor square = d.square();
    v.addcmul_(square, (v - square).sign_(), -(1 - o_.beta2));
  }
  double m_scale = 1, v_scale = 1;
  if (bias_correction_) {
    torch::Tensor steps = server.hidden.at("server.steps").narrow(0, model, 1);
    const auto t = static_cast<double>(steps.add_(1).item<int64_t>());
    m_scale = 1 / (1 - std::pow(o_.beta1, t));
    v_scale = 1 / (1 - std::pow(o_.beta2, t));
  }
  weights.addcdiv_(m, v.mul(v_scale).sqrt_().add_(o_.tau), o_.lr * m_scale);
}

}  // namespace fl_sim
