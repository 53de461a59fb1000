// pFedMe: clients descend on the Moreau envelopes of their losses, whose minimisers are their own
// models.
// Dinh et al., "Personalized federated learning with Moreau envelopes", NeurIPS 2020, Algorithm 1.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {

class PFedMe final : public Algorithm {
 public:
  explicit PFedMe(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        lambda_(setup.job.get<double>("pfedme.lambda")),
        personal_lr_(setup.job.get<double>("pfedme.personal-lr")),
        beta_(setup.job.get<double>("pfedme.beta")),
        inner_steps_(setup.job.get<int64_t>("pfedme.inner-steps")) {
    const auto rule = setup.job.get<std::string>("server.optimizer");
    FL_CHECK(rule == "sgd", "server.optimizer is ", rule,
             " (pfedme's server has a rule of its own: leave it at sgd)");
    const auto lr = setup.job.get<double>("server.lr");
    FL_CHECK(lr == 1, "server.lr is ", lr,
             " (pfedme's server rate is pfedme.beta: set that, and leave server.lr at 1)");
  }

  static PluginInfo describe() {
    return {
        .summary = "descent on the Moreau envelopes of the clients' losses",
        .source =
            "Dinh et al., Personalized federated learning with Moreau envelopes, NeurIPS 2020, "
            "Algorithm 1",
        .rule =
            "each local step: theta = argmin f(theta; batch) + lambda/2 |theta - w_k|^2, "
            "approximately, by inner-steps gradient steps of rate personal-lr that start at w_k;\n"
            "w_k <- w_k - local.lr lambda (w_k - theta), by the local optimizer;  "
            "w+ = (1 - beta) w + beta mean_k w_k. The personal model is the last theta.",
        .options =
            {{.name = "lambda",
              .type = Option::Type::kNumber,
              .default_value = "15",
              .meaning = "strength of the tie between a client's own model and w_k; keep local.lr "
                         "* lambda and personal-lr * lambda below 1",
              .range = more_than(0)},
             {.name = "personal-lr",
              .type = Option::Type::kNumber,
              .default_value = {},
              .meaning = "learning rate of theta, independent of local.lr",
              .range = more_than(0)},
             {.name = "inner-steps",
              .type = Option::Type::kInteger,
              .default_value = "5",
              .meaning = "K, gradient steps on one batch for a theta",
              .range = at_least(1)},
             {.name = "beta",
              .type = Option::Type::kNumber,
              .default_value = "1",
              .meaning =
                  "the server's step towards the mean of the clients' w_k; the paper's is at "
                  "least 1",
              .range = more_than(0)}},
        .defaults = {{"evaluate-clients", "1"}, {"weighting", "uniform"}},
        .elsewhere =
            "The authors' code: theta starts at the step before's theta, all clients train and a "
            "part of them is averaged; its local epochs are single batches.",
        .example =
            "--algorithm pfedme --pfedme.personal-lr 0.05 --pfedme.lambda 5 "
            "--partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["personal"] = local_.network().layout().row();
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  TaskCost task_cost(int64_t, int64_t) const override {
    return {.compute = static_cast<double>(inner_steps_)};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    // The last theta of each client [G, P], with its running statistics.
    const torch::Tensor personal = own_rows(group, "personal", group.rows);
    const auto envelope = [&](LocalStep& step) {
      torch::Tensor theta = step.of(personal);
      theta.copy_(step.whole);
      torch::Tensor trained = theta.narrow(1, 0, local_.trainable());
      trained.sub_(step.gradients, personal_lr_);  // the first step, at w_k
      for (int64_t i = 1; i < inner_steps_; ++i) {
        const torch::Tensor g = step.gradient(theta);
        g.add_(trained - step.rows, lambda_);
        trained.sub_(g, personal_lr_);
      }
      torch::sub_out(step.gradients, step.rows, trained).mul_(lambda_);
    };
    Update update = local_.train(group, global, LocalRule{.gradient = envelope});
    update.state["personal"] = personal;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    torch::Tensor delta = sum.delta.clone();
    delta.narrow(1, 0, local_.trainable()).mul_(beta_);
    optimizer_.step(server, delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return one_model_each(own_rows(group, "personal", group.rows));
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  double lambda_, personal_lr_, beta_;
  int64_t inner_steps_;
};

FL_REGISTER(Algorithm, "pfedme", PFedMe);

}  // namespace fl_sim
