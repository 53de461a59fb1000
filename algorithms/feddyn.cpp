// FedDyn: a linear term on each client, learned from its own rounds, that makes the clients' optima
// agree with the global one.
// Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, Algorithm 1.
#include "fl_sim.h"

namespace fl_sim {

class FedDyn final : public Algorithm {
 public:
  explicit FedDyn(const Setup& setup)
      : local_(setup), clients_(setup.clients), alpha_(setup.job.get<double>("feddyn.alpha")) {
    const Job& job = setup.job;
    FL_CHECK(job.get<std::string>("weighting") == "uniform", "weighting is ",
             job.get<std::string>("weighting"),
             ", but feddyn's h is a sum in which all clients count the same (choose uniform)");
    FL_CHECK(job.get<std::string>("server.optimizer") == "sgd" && job.get<double>("server.lr") == 1,
             "server.optimizer is ", job.get<std::string>("server.optimizer"), " and server.lr is ",
             job.get<double>("server.lr"),
             ", but feddyn says itself what the next model is (leave both out)");
  }

  static PluginInfo describe() {
    return {
        .summary = "clients' losses tilted until their optima agree",
        .source =
            "Acar et al., Federated learning based on dynamic regularization, ICLR 2021, "
            "Algorithm 1",
        .rule =
            "local gradient g - h_k + alpha (y - w);  h_k+ = h_k - alpha (w_k - w);\n"
            "h+ = h - (alpha/N) sum_S (w_k - w);  w+ = mean_S w_k - h+ / alpha. h and h_k start at "
            "0, and N counts all clients.",
        .options = {{.name = "alpha",
                     .type = Option::Type::kNumber,
                     .default_value = "0.01",
                     .meaning = "weight of the regularisation",
                     .range = more_than(0)}},
        .defaults = {{"weighting", "uniform"}},
        .elsewhere = "Acar et al.: 0.001 to 0.1, tuned for each data set.",
        .example = "--algorithm feddyn",
        .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["h"] = local_.trainable();
    return needs;
  }

  void init(ServerState& server) const override {
    server.hidden["h"] = torch::zeros_like(server.weights[0].narrow(0, 0, local_.trainable()));
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor& h = group.state.at("h");  // [G, T]
    const torch::Tensor received = global.weights.narrow(1, 0, local_.trainable());
    Update update = local_.train(group, global,
                                 AffineCorrection{.pull = alpha_, .anchor = received, .shift = -h});
    update.state["h"] = h - alpha_ * update.delta.narrow(1, 0, local_.trainable());
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    // The mean over the cohort becomes a sum over it, divided by the whole population.
    const double share = static_cast<double>(sum.clients) / static_cast<double>(clients_);
    torch::Tensor h = server.hidden.at("h");
    h.sub_(sum.delta[0].narrow(0, 0, local_.trainable()), alpha_ * share);
    server.weights.add_(sum.delta);
    server.weights.narrow(1, 0, local_.trainable()).sub_(h, 1 / alpha_);
  }

 private:
  LocalTraining local_;
  int64_t clients_;
  double alpha_;
};

FL_REGISTER(Algorithm, "feddyn", FedDyn);

}  // namespace fl_sim
