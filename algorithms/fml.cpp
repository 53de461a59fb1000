// Federated mutual learning: a private and a shared model that teach each other on every batch.
// Shen et al., "Federated mutual learning", 2020, arXiv:2006.16765.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {
namespace {

// Turns the gradient of the cross-entropy by the scores into that of
// share * CE + (1 - share) * KL(teacher || own): share * (p - y) + (1 - share) * (p - teacher),
// over the batch's size. `teacher` [B, A, C] probabilities.
void distil(Scored& scored, const torch::Tensor& teacher, double share) {
  const torch::Tensor own = torch::softmax(scored.scores, 2);
  scored.score_gradients.mul_(share).add_((own - teacher) * scored.share.unsqueeze(2), 1 - share);
}

}  // namespace

class Fml final : public Algorithm {
 public:
  explicit Fml(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        alpha_(setup.job.get<double>("fml.alpha")),
        beta_(setup.job.get<double>("fml.beta")) {
    const Objective& objective = setup.network.objective();
    FL_CHECK(objective.kind() == Objective::Kind::kCrossEntropy && setup.network.positions() == 1,
             "algorithm fml compares the probabilities of one class per sample (choose objective "
             "cross-entropy, and data that are not sequences)");
    FL_CHECK(local_.optimizer().adam() || !setup.job.get<bool>("local.keep-momentum"),
             "local.keep-momentum is on, but fml's private model starts every round without "
             "momentum (leave it off)");
  }

  static PluginInfo describe() {
    return {.summary = "a private and a shared model of each client teach each other",
            .source = "Shen et al., Federated mutual learning, 2020, arXiv:2006.16765",
            .rule =
                "per batch, both at once: private model v by alpha CE + (1-alpha) KL(p_shared || "
                "p_private),\n"
                "shared model y by beta CE + (1-beta) KL(p_private || p_shared), the teacher's "
                "probabilities being those before the step;\n"
                "server as fedavg, with the shared ones. v starts as the model that the client "
                "received first. With alpha = beta = 1 the shared model is fedavg's.",
            .options = {{.name = "alpha",
                         .type = Option::Type::kNumber,
                         .default_value = "0.5",
                         .meaning = "share of the labels in the private model's loss",
                         .range = between(0, 1)},
                        {.name = "beta",
                         .type = Option::Type::kNumber,
                         .default_value = "0.5",
                         .meaning = "share of the labels in the shared model's loss",
                         .range = between(0, 1)}},
            .defaults = {{"evaluate-clients", "1"}},
            .example = "--algorithm fml --partition.test-fraction 0.2",
            .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["private"] = local_.network().layout().row();
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // Of two models.
  TaskCost task_cost(int64_t, int64_t) const override { return {.compute = 2}; }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    torch::Tensor own = private_rows(group);
    const int64_t trained = local_.trainable();
    LocalOptimizer::Memory memory =
        local_.optimizer().start(group.size(), trained, group.rows.options());
    torch::Tensor lesson;  // what the shared model thinks of the batch
    LocalRule rule;
    // As a teacher the private model is asked as in evaluation: without dropout, and with its
    // running statistics.
    rule.loss = [&](LocalStep& step, Scored& scored) {
      if (alpha_ < 1) lesson = torch::softmax(scored.scores, 2);
      if (beta_ == 1) return;
      distil(scored, torch::softmax(step.forward(step.of(own)).scores, 2), beta_);
    };
    if (alpha_ == 1 && beta_ == 1) rule.loss = {};
    rule.gradient = [&](LocalStep& step) {
      LossRule loss;
      if (alpha_ < 1) loss.hook = [&](Scored& scored) { distil(scored, lesson, alpha_); };
      const torch::Tensor rows = step.of(own);
      const torch::Tensor gradients = step.gradient(rows, 0, loss);
      local_.optimizer().step(rows.narrow(1, 0, trained), gradients, memory, step.lr);
    };
    Update update = local_.train(group, global, rule);
    update.state["private"] = own;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return one_model_each(private_rows(group));
  }

 private:
  // A copy [G, P]; of the received model where a client has none yet.
  static torch::Tensor private_rows(const ClientGroup& group) {
    torch::Tensor own = group.state.at("private").clone();
    for (int64_t k = 0; k < group.size(); ++k) {
      if (group.fresh[static_cast<size_t>(k)]) own[k].copy_(group.rows[k]);
    }
    return own;
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  double alpha_, beta_;
};

FL_REGISTER(Algorithm, "fml", Fml);

}  // namespace fl_sim
