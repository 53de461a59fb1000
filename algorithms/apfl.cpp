// APFL: a client's model is a mixture of the global model and one of its own, and learns how much
// of which.
// Deng et al., "Adaptive personalized federated learning", 2020, arXiv:2003.13461, Algorithm 1.
// local.keep-momentum is of y's steps: v starts each round without.
#include "fl_sim.h"
#include "learning/own_rows.h"

namespace fl_sim {

class Apfl final : public Algorithm {
 public:
  explicit Apfl(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        alpha_(setup.job.get<double>("apfl.alpha")),
        adaptive_(setup.job.get<bool>("apfl.adaptive")) {}

  static PluginInfo describe() {
    return {
        .summary = "each client mixes the global model with one of its own",
        .source =
            "Deng et al., Adaptive personalized federated learning, 2020, arXiv:2003.13461, "
            "Algorithm 1",
        .rule =
            "each local step, on one batch, with m = alpha v + (1 - alpha) y:\n"
            "y <- y - local.lr g(y);  v <- v - local.lr alpha g(m), both by the local optimizer;\n"
            "in a round's first step also alpha <- alpha - local.lr <v - y, g(m)>, cut to 0 to 1 "
            "(v, y and m as before the step; the next step is the first to use it).\n"
            "w, of which y is the local copy, is fedavg's. v starts as the first w that the client "
            "receives. The personal model is alpha v + (1 - alpha) w.",
        .options = {{.name = "alpha",
                     .type = Option::Type::kNumber,
                     .default_value = "0.5",
                     .meaning = "share of a client's own model in the mixture, at first",
                     .range = between(0, 1)},
                    {.name = "adaptive",
                     .type = Option::Type::kFlag,
                     .default_value = "true",
                     .meaning = "whether clients adapt their alpha; false: it stays the same"}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere =
            "Deng et al., Algorithm 1: weighting = uniform.\n"
            "The authors' code (FedTorch): adapts alpha after a round's first step instead of in "
            "it, with 0.02 alpha added to its slope.",
        .example = "--algorithm apfl --apfl.alpha 0.25 --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["personal"] = local_.network().layout().row();
    needs.client_state["alpha"] = 1;
    needs.scalars = {"alpha"};
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // Of two models.
  TaskCost task_cost(int64_t, int64_t) const override { return {.compute = 2}; }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const int64_t trained = local_.trainable();
    const torch::Tensor own = own_rows(group, "personal", group.rows);  // v [G, P]
    const torch::Tensor alphas = own_alphas(group);                     // [G, 1]
    const LocalOptimizer& rule = local_.optimizer();
    LocalOptimizer::Memory memory = rule.start(group.size(), trained, group.rows.options());
    const auto train_own = [&](LocalStep& step) {
      // v has the mixture's running statistics, and hands them on from step to step.
      torch::Tensor v = step.of(own), alpha = step.of(alphas);
      torch::Tensor mixture = mixed(v, step.whole, alpha);
      torch::Tensor g = step.gradient(mixture);
      v.narrow(1, trained, v.size(1) - trained)
          .copy_(mixture.narrow(1, trained, v.size(1) - trained));
      torch::Tensor weights = v.narrow(1, 0, trained);
      const torch::Tensor slope = ((weights - step.rows) * g).sum(1, /*keepdim=*/true);
      rule.step(weights, g.mul_(alpha), memory, step.lr);
      if (adaptive_ && step.index == 0) alpha.sub_(slope, step.lr).clamp_(0, 1);
    };
    Update update = local_.train(group, global, LocalRule{.gradient = train_own});
    update.state["personal"] = own;
    update.state["alpha"] = alphas;
    const torch::Tensor values = alphas.to(torch::kFloat64).cpu();
    for (int64_t k = 0; k < group.size(); ++k) {
      update.clients[static_cast<size_t>(k)].scalars[0] = values[k].item<double>();
    }
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    const torch::Tensor own = own_rows(group, "personal", group.rows);
    return one_model_each(mixed(own, group.rows, own_alphas(group)));
  }

 private:
  torch::Tensor own_alphas(const ClientGroup& group) const {
    return own_rows(group, "alpha", torch::full({group.size(), 1}, alpha_, group.rows.options()));
  }

  // [A, P] alpha v + (1 - alpha) y, with the running statistics of v.
  torch::Tensor mixed(const torch::Tensor& v, const torch::Tensor& y,
                      const torch::Tensor& alpha) const {
    torch::Tensor result = v.clone();
    const int64_t trained = local_.trainable();
    torch::Tensor weights = result.narrow(1, 0, trained);
    weights.mul_(alpha).addcmul_(y.narrow(1, 0, trained), 1 - alpha);
    return result;
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  double alpha_;
  bool adaptive_;
};

FL_REGISTER(Algorithm, "apfl", Apfl);

}  // namespace fl_sim
