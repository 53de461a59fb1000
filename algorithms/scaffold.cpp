// SCAFFOLD: client drift removed by control variates.
// Karimireddy et al., "SCAFFOLD: Stochastic controlled averaging for federated learning", ICML
// 2020, Algorithm 1, option II. Under local momentum the steps are counted with their weights,
// ||a_k||_1 instead of K_k (Wang et al. 2020): dividing by K_k diverges there.
#include "fl_sim.h"

namespace fl_sim {

class Scaffold final : public Algorithm {
 public:
  explicit Scaffold(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        clients_(setup.clients),
        samples_(setup.samples),
        uniform_(setup.job.get<std::string>("weighting") == "uniform"),
        niid_order_(setup.job.get<bool>("scaffold.niid-order")) {
    FL_CHECK(
        !local_.optimizer().adam(),
        "local.optimizer is adam, but scaffold needs the weight of each gradient in a client's "
        "delta (choose sgd)");
    FL_CHECK(
        !setup.job.get<bool>("local.keep-momentum"),
        "local.keep-momentum is on, but scaffold counts the gradients of one round only (leave "
        "it off)");
    FL_CHECK(setup.job.get<std::string>("weighting") != "loss",
             "weighting is loss, but scaffold's controls weigh clients alike or by samples (choose "
             "uniform or samples)");
  }

  static PluginInfo describe() {
    return {
        .summary = "client drift removed by control variates",
        .source =
            "Karimireddy et al., SCAFFOLD: Stochastic controlled averaging for federated learning, "
            "ICML 2020, Algorithm 1, option II",
        .rule =
            "local gradient g - c_k + c, before momentum; "
            "c_k+ = c_k - c + (w - w_k) / (lr ||a_k||_1), ||a_k||_1 = K_k without momentum;\n"
            "c+ = c + (1/N) sum_S (c_k+ - c_k); with weighting = samples the terms weigh n_k/n "
            "instead of "
            "1/N; server as fedavg. c and c_k start at 0.",
        .options = {{"niid-order", Option::Type::kFlag, "false",
                     "as NIID-Bench's code: the correction comes after momentum, and the controls "
                     "divide by K_k lr"}},
        .defaults = {{"weighting", "uniform"}},
        .elsewhere =
            "NIID-Bench: weights by samples; niid-order, which has no exact fixed point under "
            "local "
            "momentum.",
        .example = "--algorithm scaffold",
        .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["control"] = local_.trainable();
    needs.additive["control_change"] = local_.trainable();
    return needs;
  }

  void init(ServerState& server) const override {
    optimizer_.init(server);
    server.shared["control"] =
        torch::zeros_like(server.weights[0].narrow(0, 0, local_.trainable()));
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor& control = group.state.at("control");                // c_k [G, T]
    const torch::Tensor correction = global.shared.at("control") - control;  // c - c_k
    Update update = niid_order_
                        ? local_.train(group, global, LocalRule{.displacement = correction})
                        : local_.train(group, global, AffineCorrection{.shift = correction});
    // A client without steps has delta 0 and keeps its c_k.
    const double lr = local_.learning_rate(global.round);
    torch::Tensor change = torch::zeros_like(control);
    for (int64_t k = 0; k < group.size(); ++k) {
      const ClientOutcome& client = update.clients[static_cast<size_t>(k)];
      const double weight = niid_order_ ? static_cast<double>(client.steps) : client.step_weight;
      if (weight == 0) continue;
      const torch::Tensor drift = update.delta[k].narrow(0, 0, local_.trainable());  // w_k - w
      change[k].sub_(global.shared.at("control")).sub_(drift, 1 / (lr * weight));
    }
    update.state["control"] = control + change;
    update.extra["control_change"] = change;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
    // The mean over the cohort becomes a sum over it, divided by the whole population.
    const double share = uniform_
                             ? static_cast<double>(sum.clients) / static_cast<double>(clients_)
                             : static_cast<double>(sum.samples) / static_cast<double>(samples_);
    server.shared.at("control").add_(sum.extra.at("control_change"), share);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  int64_t clients_, samples_;
  bool uniform_, niid_order_;
};

FL_REGISTER(Algorithm, "scaffold", Scaffold);

}  // namespace fl_sim
