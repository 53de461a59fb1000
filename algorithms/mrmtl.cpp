// MR-MTL, mean-regularised multi-task learning: every client has its own model, which is pulled
// towards the mean of all.
// Liu et al., "On privacy and personalization in cross-silo federated learning", NeurIPS 2022,
// after Evgeniou & Pontil, "Regularized multi-task learning", KDD 2004.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {

class MrMtl final : public Algorithm {
 public:
  explicit MrMtl(const Setup& setup)
      : local_(setup), optimizer_(setup), lambda_(setup.job.get<double>("mrmtl.lambda")) {
    const auto rule = setup.job.get<std::string>("server.optimizer");
    FL_CHECK(rule == "sgd", "server.optimizer is ", rule,
             " (mrmtl's global model is the mean of its clients': leave it at sgd)");
    const auto lr = setup.job.get<double>("server.lr");
    FL_CHECK(lr == 1, "server.lr is ", lr,
             " (mrmtl's global model is the mean of its clients': leave it at 1)");
  }

  static PluginInfo describe() {
    return {
        .summary = "every client has its own model, which is pulled towards the mean of all",
        .source =
            "Liu et al., On privacy and personalization in cross-silo federated learning, NeurIPS "
            "2022; Evgeniou & Pontil, Regularized multi-task learning, KDD 2004",
        .rule =
            "w_k <- w_k - local.lr (g(w_k) + lambda (w_k - w)), w the mean as received;  "
            "w+ = mean of the cohort's w_k.\n"
            "w_k starts as the first w that the client receives. lambda 0: every client trains "
            "alone. The personal model is w_k.",
        .options = {{.name = "lambda",
                     .type = Option::Type::kNumber,
                     .default_value = "1",
                     .meaning = "weight of the pull towards the mean",
                     .range = at_least(0)}},
        .defaults = {{"evaluate-clients", "1"}, {"weighting", "uniform"}},
        .example = "--algorithm mrmtl --mrmtl.lambda 0.5 --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["personal"] = local_.network().layout().row();
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor mean = global.model(group.model).narrow(1, 0, local_.trainable());
    group.rows = own_rows(group, "personal", group.rows);
    Update update =
        local_.train(group, global, AffineCorrection{.pull = lambda_, .anchor = mean});  // w_k - w
    update.state["personal"] = group.rows;
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
};

FL_REGISTER(Algorithm, "mrmtl", MrMtl);

}  // namespace fl_sim
