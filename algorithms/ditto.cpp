// Ditto: beside FedAvg's global model every client trains one of its own, which is pulled towards
// the global one.
// Li et al., "Ditto: Fair and robust federated learning through personalization", ICML 2021,
// Algorithm 1. local.keep-momentum is of the global model's training: a client's own model starts
// each round without.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {

class Ditto final : public Algorithm {
 public:
  explicit Ditto(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        lambda_(setup.job.get<double>("ditto.lambda")),
        epochs_(setup.job.get<int64_t>("ditto.epochs")) {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg, and a model of each client's own that is pulled towards the global one",
        .source =
            "Li et al., Ditto: Fair and robust federated learning through personalization, ICML "
            "2021, Algorithm 1",
        .rule =
            "w as fedavg. Each client of the cohort also trains its own v_k, with w as received:\n"
            "v_k <- v_k - local.lr (g(v_k) + lambda (v_k - w)), on batches of its own, by the same "
            "local optimizer.\n"
            "v_k starts as the first w that the client receives. lambda 0: v_k is trained alone. "
            "The personal model is v_k.",
        .options = {{.name = "lambda",
                     .type = Option::Type::kNumber,
                     .default_value = "1",
                     .meaning = "weight of the pull towards the global model",
                     .range = at_least(0)},
                    {.name = "epochs",
                     .type = Option::Type::kInteger,
                     .default_value = "0",
                     .meaning = "passes over a client's samples for its own model in a round; 0: "
                                "as many steps as for the global one",
                     .range = at_least(0)}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Li et al., Algorithm 1: weighting = uniform.",
        .example = "--algorithm ditto --ditto.lambda 0.5 --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["personal"] = local_.network().layout().row();
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // Its own model takes as many steps, or epochs of its own.
  TaskCost task_cost(int64_t, int64_t) const override {
    if (epochs_ > 0) return {.full_gradients = static_cast<double>(epochs_)};
    return {.steps = 2};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    ClientGroup own{.ids = group.ids,
                    .data = group.data,
                    .seed = group.seed,
                    .rows = own_rows(group, "personal", group.rows),
                    .fresh = group.fresh,
                    .limits = group.limits,
                    .model = group.model};
    const torch::Tensor received = global.model(group.model).narrow(1, 0, local_.trainable());
    LocalRule rule{.affine = {.pull = lambda_, .anchor = received}, .batches = "personal"};
    if (epochs_ > 0) rule.epochs = epochs_;
    local_.train(own, global, rule);

    Update update = local_.train(group, global);
    update.state["personal"] = own.rows;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return one_model_each(own_rows(group, "personal", group.rows));
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  double lambda_;
  int64_t epochs_;
};

FL_REGISTER(Algorithm, "ditto", Ditto);

}  // namespace fl_sim
