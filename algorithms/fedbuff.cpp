// FedBuff and FedAsync: FedAvg without rounds. What is asynchronous about them is the job's `async`
// keys; here are their defaults, and what their clients do.
#include <string>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class FedBuff final : public Algorithm {
 public:
  FedBuff(const Setup& setup, const std::string& name)
      : local_(setup),
        optimizer_(setup),
        mu_(name == "fedasync" ? setup.job.get<double>("fedasync.rho") : 0) {
    const auto protocol = setup.job.get<std::string>("async.protocol");
    FL_CHECK(protocol != "rounds", "async.protocol is rounds, but algorithm ", name,
             " has none (choose buffered, or algorithm fedavg)");
    FL_CHECK(name != "fedasync" || setup.job.get<double>("async.mixing") > 0,
             "async.mixing is 0, but algorithm fedasync mixes models (choose algorithm fedbuff)");
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (mu_ == 0) return local_.train(group, global);
    const torch::Tensor received = global.weights.narrow(1, 0, local_.trainable());
    return local_.train(group, global, AffineCorrection{.pull = mu_, .anchor = received});
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  double mu_;  // of the proximal term
};

PluginInfo fedbuff() {
  return {
      .summary = "asynchronous: a new model for every async.buffer updates that arrive",
      .source =
          "Nguyen et al., Federated learning with buffered asynchronous aggregation, AISTATS "
          "2022, Algorithm 1",
      .rule =
          "w+ = w + server.lr (1/B) sum_i s(t_i) (w_i - w_base(i)) over the B updates that "
          "arrived first, t_i versions old; s is async.staleness. Each update is the difference "
          "to the model that its client started from. B is async.buffer.",
      .defaults = {{"async.protocol", "buffered"}, {"weighting", "uniform"}},
      .elsewhere =
          "FLSim sums where the paper divides by B, and divides every weight by s(1).\n"
          "FLSim's example: B 10, server.lr 0.7, server.momentum 0.9, s constant.",
      .example = "--algorithm fedbuff --devices halfnormal",
      .family = "global"};
}

PluginInfo fedasync() {
  return {
      .summary = "asynchronous: each model that arrives is mixed into the server's",
      .source =
          "Xie et al., Asynchronous federated optimization, 2019, arXiv:1903.03934, "
          "Algorithm 1",
      .rule =
          "w+ = (1 - alpha s(t)) w + alpha s(t) w_i for each client's model w_i, t versions old; "
          "alpha is async.mixing, s is async.staleness. Local gradient g + rho (y - w_base).",
      .options = {{.name = "rho",
                   .type = Option::Type::kNumber,
                   .default_value = "0.005",
                   .meaning = "weight of the clients' proximal term",
                   .range = at_least(0)}},
      .defaults = {{"async.protocol", "buffered"},
                   {"async.buffer", "1"},
                   {"async.mixing", "0.6"},
                   {"weighting", "uniform"}},
      .elsewhere =
          "Xie et al.: alpha 0.6, (1+t)^-0.5 or a hinge with a 10, b 4, rho 0.005; they draw t "
          "uniformly from 0 to 4 or 16 (async.source drawn).",
      .example = "--algorithm fedasync --devices halfnormal",
      .family = "global"};
}

PluginInfo refl_saa() {
  return {
      .summary = "rounds whose late updates join a later one, by age and by how they differ",
      .source =
          "Abdelmoniem et al., REFL: Resource-efficient federated learning, EuroSys 2023, "
          "section 4.2",
      .rule =
          "w+ = w + server.lr sum_i s_i (w_i - w_base(i)) / sum_i s_i over the updates of a round "
          "and those of former ones that arrived in it; s is aggregator stale-aware's. Late ones "
          "come where clock.keep is fastest or deadline.",
      .defaults = {{"async.protocol", "stale-rounds"},
                   {"async.staleness", "constant"},
                   {"async.normalise", "weights"},
                   {"aggregator", "stale-aware"},
                   {"weighting", "uniform"}},
      .elsewhere =
          "With aggregator mean and async.staleness polynomial, async.a 1, the weights of DynSGD; "
          "with exponential those of AdaSGD (REFL's code has the two names the other way round).\n"
          "REFL draws those first that will be away (sampler refl, which draws cohorts of rounds "
          "only); here whom to draw is a matter of chance.",
      .example =
          "--algorithm refl-saa --devices lognormal --clock.over-commit 1.3 --clock.keep fastest",
      .family = "global"};
}

}  // namespace

FL_PRESET(Algorithm, "fedbuff", FedBuff, fedbuff);
FL_PRESET(Algorithm, "fedasync", FedBuff, fedasync);
FL_PRESET(Algorithm, "refl-saa", FedBuff, refl_saa);

}  // namespace fl_sim
