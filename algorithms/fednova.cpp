// FedNova: what clients learned is divided by how far they went before it is averaged, so that
// those with more local steps do not pull the model to their own optimum.
// Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated
// optimization", NeurIPS 2020, Algorithm 1.
#include "fl_sim.h"

namespace fl_sim {

class FedNova final : public Algorithm {
 public:
  explicit FedNova(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        mu_(setup.job.get<double>("fednova.mu")),
        by_steps_(setup.job.get<std::string>("fednova.tau") == "steps") {
    FL_CHECK(!local_.optimizer().adam(),
             "local.optimizer is adam, but fednova needs the weight of each gradient in a client's "
             "delta, which Adam's steps do not have (choose local.optimizer sgd)");
    FL_CHECK(!setup.job.get<bool>("local.keep-momentum"),
             "local.keep-momentum is on, but fednova counts the gradients of one round only "
             "(leave it off)");
  }

  static PluginInfo describe() {
    return {
        .summary = "deltas divided by the weight of their local steps",
        .source =
            "Wang et al., Tackling the objective inconsistency problem in heterogeneous federated "
            "optimization, NeurIPS 2020, Algorithm 1",
        .rule =
            "w+ = w + server.lr tau sum_k p_k (w_k - w) / ||a_k||_1,  tau = sum_k p_k ||a_k||_1\n"
            "with ||a_k||_1 the sum of the weights of client k's gradients in w_k - w: K_k steps "
            "without momentum and mu, more with momentum. Equal ||a_k||_1 are fedavg.",
        .options = {{.name = "mu",
                     .type = Option::Type::kNumber,
                     .default_value = "0",
                     .meaning = "weight of a proximal term on the clients, as fedprox's",
                     .range = at_least(0)},
                    {.name = "tau",
                     .type = Option::Type::kText,
                     .default_value = "weights",
                     .meaning = "what tau averages: the weights ||a_k||_1, or the numbers of steps "
                                "K_k",
                     .choices = {"weights", "steps"}}},
        .elsewhere = "The authors' code: tau from the numbers of steps where mu is not 0.",
        .example = "--algorithm fednova",
        .family = "global"};
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor received = global.weights.narrow(1, 0, local_.trainable());
    Update update = local_.train(group, global, AffineCorrection{.pull = mu_, .anchor = received});
    for (int64_t k = 0; k < group.size(); ++k) {
      const double weight = update.clients[static_cast<size_t>(k)].step_weight;
      if (weight == 0) continue;  // no step, and delta 0
      update.delta[k].narrow(0, 0, local_.trainable()).div_(weight);
    }
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    double total = 0, tau = 0;
    for (const ClientRecord& record : sum.records) {
      if (!record.counts()) continue;
      total += record.weight;
      tau += record.weight * (by_steps_ ? static_cast<double>(record.steps) : record.step_weight);
    }
    torch::Tensor delta = sum.delta.clone();
    delta.narrow(1, 0, local_.trainable()).mul_(tau / total);
    optimizer_.step(server, delta);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  double mu_;
  bool by_steps_;
};

FL_REGISTER(Algorithm, "fednova", FedNova);

}  // namespace fl_sim
