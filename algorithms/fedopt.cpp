// FedOpt: FedAvg's mean delta as a pseudo-gradient for an optimizer on the server (Algorithm 1 of
// Reddi et al.). One algorithm for each rule of the server: its name chooses the rule.
#include <string>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class FedOpt final : public Algorithm {
 public:
  // The server.optimizer of algorithm `name` is the one of its defaults; another one is refused.
  FedOpt(const Setup& setup, const std::string& name)
      : local_(setup), optimizer_(setup, corrects_bias(setup.job, name)) {
    const std::string& rule = plugin_info(kKind, name).defaults.at("server.optimizer");
    const auto chosen = setup.job.get<std::string>("server.optimizer");
    FL_CHECK(chosen == rule, "server.optimizer is ", chosen, " (", name, " is ", rule,
             "; choose algorithm fedavg for another)");
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  // Only fedadam has a choice.
  static bool corrects_bias(const Job& job, const std::string& name) {
    const std::string key = name + ".bias-correction";
    return job.values().contains(key) && job.get<bool>(key);
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
};

PluginInfo fedavgm() {
  return {.summary = "FedAvg with momentum on the server",
          .source =
              "Hsu et al., Measuring the effects of non-identical data distribution for federated "
              "visual classification, 2019, arXiv:1909.06335",
          .rule =
              "u+ = beta u + D;  w+ = w + server.lr u+\n"
              "with D the weighted mean of w_k - w, beta = server.momentum, u0 = 0. beta 0 is "
              "fedavg.",
          .defaults = {{"server.optimizer", "momentum"},
                       {"server.momentum", "0.9"},
                       {"server.lr", "1"}},
          .elsewhere = "Flower: server_momentum 0, server_learning_rate 1.",
          .example = "--algorithm fedavgm",
          .family = "global"};
}

PluginInfo fedadagrad() {
  return {
      .summary = "FedAvg with Adagrad on the server",
      .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
      .rule =
          "m+ = beta1 m + (1-beta1) D;  v+ = v + D^2;  w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
          "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2.",
      .defaults = {{"server.optimizer", "adagrad"},
                   {"server.lr", "0.1"},
                   {"server.beta1", "0"},
                   {"server.tau", "0.001"}},
      .elsewhere =
          "Flower: the same rate, but v0 = 0, and tau 1e-9 in its first releases.\n"
          "OpenFL: rate 0.01, v0 = 0.1, 1e-10 in place of tau.",
      .example = "--algorithm fedadagrad",
      .family = "global"};
}

PluginInfo fedadam() {
  return {
      .summary = "FedAvg with Adam on the server",
      .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
      .rule =
          "m+ = beta1 m + (1-beta1) D;  v+ = beta2 v + (1-beta2) D^2;  "
          "w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
          "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2. "
          "Papers and frameworks differ in server.lr and server.tau: set them.",
      .options = {{.name = "bias-correction",
                   .type = Option::Type::kFlag,
                   .default_value = "false",
                   .meaning = "divide m and v by 1 - beta^t and start v at 0, as Adam does "
                              "(Reddi et al. do not)"}},
      .defaults = {{"server.optimizer", "adam"}, {"server.lr", "0.1"}, {"server.tau", "0.001"}},
      .elsewhere =
          "Flower: the same numbers, but v0 = 0, and a rate corrected for bias in later "
          "releases.\n"
          "pfl-research: PyTorch's Adam, with bias correction and v0 = 0; 0.01 in place of tau.",
      .example = "--algorithm fedadam",
      .family = "global"};
}

PluginInfo fedyogi() {
  return {.summary = "FedAvg with Yogi on the server",
          .source = "Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2",
          .rule =
              "m+ = beta1 m + (1-beta1) D;  v+ = v - (1-beta2) D^2 sign(v - D^2);  "
              "w+ = w + server.lr m+ / (sqrt(v+) + tau)\n"
              "with D the weighted mean of w_k - w, m0 = 0, v0 = tau^2. v moves by at most "
              "(1-beta2) D^2 a round, so the rate never jumps.",
          .defaults = {{"server.optimizer", "yogi"},
                       {"server.lr", "0.01"},
                       {"server.beta1", "0.9"},
                       {"server.beta2", "0.99"},
                       {"server.tau", "0.001"}},
          .elsewhere =
              "Flower: the same numbers, but v0 = 0.\n"
              "OpenFL: v0 = 0, beta2 0.999, 1e-8 in place of tau.",
          .example = "--algorithm fedyogi",
          .family = "global"};
}

}  // namespace

FL_PRESET(Algorithm, "fedavgm", FedOpt, fedavgm);
FL_PRESET(Algorithm, "fedadagrad", FedOpt, fedadagrad);
FL_PRESET(Algorithm, "fedadam", FedOpt, fedadam);
FL_PRESET(Algorithm, "fedyogi", FedOpt, fedyogi);

}  // namespace fl_sim
