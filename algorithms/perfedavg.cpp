// Per-FedAvg: the global model is to be good after one gradient step on a client's data.
// Fallah et al., "Personalized federated learning with theoretical guarantees: A model-agnostic
// meta-learning approach", NeurIPS 2020, Algorithm 1, with either of its approximations of the
// Hessian's term.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {

class PerFedAvg final : public Algorithm {
 public:
  explicit PerFedAvg(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        hessian_free_(setup.job.get<std::string>("perfedavg.variant") == "hf"),
        alpha_(setup.job.get<double>("perfedavg.alpha")),
        evaluate_steps_(setup.job.get<int64_t>("perfedavg.evaluate-steps")) {
    if (hessian_free_) delta_ = setup.job.get<double>("perfedavg.delta");
  }

  static PluginInfo describe() {
    return {
        .summary = "a global model that is good after one gradient step on a client's data",
        .source =
            "Fallah et al., Personalized federated learning with theoretical guarantees: A "
            "model-agnostic meta-learning approach, NeurIPS 2020, Algorithm 1",
        .rule =
            "each local step has batches D1, D2 (and D3) of its own: y' = y - alpha g(y; D1);\n"
            "fo: y <- y - local.lr u, u = g(y'; D2);\n"
            "hf: y <- y - local.lr (u - alpha (g(y + delta u; D3) - g(y - delta u; D3)) / (2 "
            "delta)).\n"
            "Server as fedavg. The personal model is w after evaluate-steps plain steps of rate "
            "alpha, a batch each. fo with alpha 0 is fedavg.",
        .options = {{.name = "alpha",
                     .type = Option::Type::kNumber,
                     .default_value = "0.01",
                     .meaning = "learning rate of a client's adaptation",
                     .range = at_least(0)},
                    {.name = "variant",
                     .type = Option::Type::kText,
                     .default_value = "fo",
                     .meaning =
                         "fo: first order, without the Hessian's term; hf: Hessian-free, by a "
                         "difference of gradients",
                     .choices = {"fo", "hf"}},
                    {.name = "delta",
                     .type = Option::Type::kNumber,
                     .default_value = "0.001",
                     .meaning = "half the length of that difference, in units of u",
                     .range = more_than(0),
                     .only_with = {"perfedavg.variant", {"hf"}}},
                    {.name = "evaluate-steps",
                     .type = Option::Type::kInteger,
                     .default_value = "1",
                     .meaning =
                         "steps of a client's adaptation at evaluation; 0: the global model itself",
                     .range = at_least(0)}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere =
            "Fallah et al., Algorithm 1: weighting = uniform.\n"
            "pFedMe's code: fo.",
        .example = "--algorithm perfedavg --perfedavg.variant hf --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // So many gradients are in a step.
  TaskCost task_cost(int64_t, int64_t) const override {
    return {.compute = hessian_free_ ? 4.0 : 2.0};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const int64_t trained = local_.trainable();
    const int64_t buffers = local_.network().layout().row() - trained;
    torch::Tensor adapted;  // y', [A, P]
    LocalRule rule;
    rule.more_batches = hessian_free_ ? 2 : 1;
    rule.at = [&](LocalStep& step) {
      // A copy: of the three batches only D2 goes into y's running statistics.
      const torch::Tensor g = step.gradient(step.whole.clone(), 1);
      adapted = step.whole.clone();
      adapted.narrow(1, 0, trained).sub_(g, alpha_);
      return adapted;
    };
    rule.gradient = [&](LocalStep& step) {
      step.whole.narrow(1, trained, buffers).copy_(adapted.narrow(1, trained, buffers));
      if (hessian_free_) step.gradients.sub_(curvature(step), alpha_);
    };
    return local_.train(group, global, rule);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    // The step is taken here, and the local optimizer left without a rate: an adaptation has
    // neither momentum nor weight decay.
    LocalRule rule{.steps = evaluate_steps_, .lr = 0.0, .batches = "personal"};
    rule.gradient = [&](LocalStep& step) {
      torch::Tensor rows = step.rows;
      rows.sub_(step.gradients, alpha_);
    };
    local_.train(group, global, rule);
    return one_model_each(group.rows);
  }

 private:
  // The Hessian of the mean loss of D3 times u, the step's gradient, [A, T].
  torch::Tensor curvature(LocalStep& step) const {
    const auto gradient_at = [&](double distance) {
      torch::Tensor rows = step.whole.clone();
      rows.narrow(1, 0, local_.trainable()).add_(step.gradients, distance);
      return step.gradient(rows, 2);
    };
    return (gradient_at(delta_) - gradient_at(-delta_)).div_(2 * delta_);
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  bool hessian_free_;
  double alpha_, delta_ = 0;
  int64_t evaluate_steps_;
};

FL_REGISTER(Algorithm, "perfedavg", PerFedAvg);

}  // namespace fl_sim
