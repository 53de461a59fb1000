// MOON: a client's representations are drawn to the global model's and away from those of its own
// last model.
// Li, He and Song, "Model-contrastive federated learning", CVPR 2021, Algorithm 1.
//
// Without the paper's projection head: z is what goes into the network's own head, so that all
// algorithms train the same networks.
#include "fl_sim.h"

namespace fl_sim {

class Moon final : public Algorithm {
 public:
  explicit Moon(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        mu_(setup.job.get<double>("moon.mu")),
        temperature_(setup.job.get<double>("moon.temperature")) {
    FL_CHECK(setup.network.has_representation(), "model ", setup.job.get<std::string>("model"),
             " does not say what goes into its head, which moon compares (choose another model)");
  }

  static PluginInfo describe() {
    return {
        .summary = "representations drawn to the global model's, away from the client's last one's",
        .source =
            "Li, He and Song, Model-contrastive federated learning, CVPR 2021, Algorithm 1, "
            "without its projection head",
        .rule =
            "local loss + mu l, l = -log(e^(cos(z, z_g)/T) / (e^(cos(z, z_g)/T) + "
            "e^(cos(z, z_p)/T))), the mean over a batch;\n"
            "z, z_g, z_p what goes into the head of the client's, the received and the "
            "client's previous local model. In a client's first round l is left out. Server as "
            "fedavg. mu 0 is fedavg, and so is a model of a single layer.",
        .options = {{.name = "mu",
                     .type = Option::Type::kNumber,
                     .default_value = "1",
                     .meaning = "weight of the contrastive term",
                     .range = at_least(0)},
                    {.name = "temperature",
                     .type = Option::Type::kNumber,
                     .default_value = "0.5",
                     .meaning = "T of the contrastive term",
                     .range = more_than(0)}},
        .elsewhere = "Li, He and Song: mu tuned among 0.1, 1, 5 and 10 for each data set; T 0.5.",
        .example = "--algorithm moon",
        .family = "global"};
  }

  // The local model of the client's last round.
  Needs needs() const override {
    Needs needs = local_.needs();
    needs.client_state["previous"] = local_.network().layout().row();
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // Beside a step two forward passes of others, each a third of one.
  TaskCost task_cost(int64_t, int64_t) const override { return {.compute = 1 + 2.0 / 3}; }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor received = group.rows.clone();
    torch::Tensor previous = group.state.at("previous").clone();
    bool contrasts = false;
    for (int64_t k = 0; k < group.size(); ++k) {
      // With z_p = z_g the term is constant, which leaves it out.
      if (group.fresh[static_cast<size_t>(k)]) previous[k].copy_(received[k]);
      contrasts = contrasts || !group.fresh[static_cast<size_t>(k)];
    }
    LocalRule rule;
    if (contrasts) {
      rule.representation = true;
      rule.loss = [&](LocalStep& step, Scored& scored) {
        add_contrast(scored, step.forward(step.of(received), true).representation,
                     step.forward(step.of(previous), true).representation);
      };
    }
    Update update = local_.train(group, global, rule);
    update.state["previous"] = group.rows;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  // With a = cos(z, z_g)/T and b = cos(z, z_p)/T the term is log(1 + e^(b-a)), whose derivative by
  // b - a is sigmoid(b - a); and cos(z, u) changes by (u/|u| - cos z/|z|) / |z|. A representation
  // of zeros has no direction, and no gradient.
  void add_contrast(Scored& scored, const torch::Tensor& global,
                    const torch::Tensor& previous) const {
    const auto length = [](const torch::Tensor& z) { return z.norm(2, -1, /*keepdim=*/true); };
    const auto direction = [&](const torch::Tensor& z) { return z / length(z).clamp_min(kTiny); };
    const torch::Tensor norm = length(scored.representation);  // [B, A, 1]
    const torch::Tensor z = direction(scored.representation), away = direction(previous),
                        towards = direction(global);  // [B, A, R]
    const torch::Tensor cos_away = (z * away).sum(-1, true),
                        cos_towards = (z * towards).sum(-1, true);
    const torch::Tensor slope = ((cos_away - cos_towards) / temperature_).sigmoid();
    const torch::Tensor by_z =
        (away - towards - (cos_away - cos_towards) * z) / norm.clamp_min(kTiny);
    const torch::Tensor factor =
        scored.share.unsqueeze(-1) * slope * norm.gt(kTiny) * (mu_ / temperature_);
    scored.representation_gradients.add_(factor * by_z);
  }

  static constexpr double kTiny = 1e-8;

  LocalTraining local_;
  ServerOptimizer optimizer_;
  double mu_, temperature_;
};

FL_REGISTER(Algorithm, "moon", Moon);

}  // namespace fl_sim
