// HeteroFL: clients train models as narrow as they can bear, each the first units of the whole one.
// Diao et al., "HeteroFL: Computation and communication efficient federated learning for
// heterogeneous clients", ICLR 2021, Algorithm 1, for networks without normalisation.
#include "fl_sim.h"
#include "learning/sub_models.h"

namespace fl_sim {

class HeteroFl final : public Algorithm {
 public:
  explicit HeteroFl(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        models_(setup, {.algorithm = "heterofl"}),
        masks_(setup.job.get<bool>("heterofl.mask-labels")),
        head_(setup.network.chain().back()) {
    FL_CHECK(!masks_ || (setup.network.objective().kind() == Objective::Kind::kCrossEntropy &&
                         setup.network.positions() == 1),
             "heterofl.mask-labels is on, but the model's loss is no cross-entropy over classes "
             "(leave it off)");
  }

  static PluginInfo describe() {
    return {
        .summary = "clients train narrow models, the first units of each hidden layer",
        .source =
            "Diao et al., HeteroFL: Computation and communication efficient federated learning for "
            "heterogeneous clients, ICLR 2021, Algorithm 1",
        .rule =
            "client k trains the first ceil(r_k n) of the n units of each hidden layer, whose "
            "outputs count 1/r_k times as much in training (width.scaler);\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those that "
            "trained "
            "it, weighted by p_k; as it was if nobody did. All widths 1 are fedavg.",
        .options = {{.name = "mask-labels",
                     .type = Option::Type::kFlag,
                     .default_value = "false",
                     .meaning =
                         "scores of classes that a client has no sample of are 0 in its loss; "
                         "their weights are the mean over clients that have some"}},
        .defaults = {{"weighting", "uniform"}},
        .reads = SubModels::keys({"width.scaler"}),
        .elsewhere =
            "Diao et al.: half, a quarter ... of the whole model, static batch normalisation, and "
            "a "
            "cross-entropy of each client's own labels.",
        .example = "--algorithm heterofl --width.levels 1,0.5,0.25 --model 2nn",
        .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.scalars = {"width"};
    needs.parts = !models_.whole() || masks_;
    if (masks_) needs.additive["labels"] = levels() * models_.outputs();
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (!masks_) return models_.train(local_, group, global);
    const torch::Tensor known = labels_of(group);  // [G, C]
    const auto loss = [&](LocalStep& step, Scored& scored) {
      const torch::Tensor own = step.of(known).unsqueeze(0);  // [1, A, C]
      torch::Tensor g = torch::softmax(scored.scores * own, 2);
      const torch::Tensor labels = scored.labels.unsqueeze(2);  // [B, A, 1]
      g.scatter_add_(2, labels, torch::full(labels.sizes(), -1, g.options()));
      scored.score_gradients.copy_(g * own * scored.share.unsqueeze(2));
    };
    Update update = models_.train(local_, group, global, loss);
    // A score's weights stay where no sample has its label, also under decay.
    const ParameterLayout& layout = local_.network().layout();
    for (const int64_t index : {head_.weight, head_.bias}) {
      if (index < 0) continue;
      torch::Tensor rows = layout.view(update.delta, index);  // [G, C, ...]
      rows.mul_(rows.dim() == 3 ? known.unsqueeze(2) : known);
    }
    update.set_delta_norms(update.delta, local_.trainable());
    torch::Tensor has = torch::zeros({group.size(), levels(), models_.outputs()}, known.options());
    for (int64_t k = 0; k < group.size(); ++k) {
      const size_t level = models_.level_of(group.ids[static_cast<size_t>(k)], global.round);
      has[k][static_cast<int64_t>(level)].copy_(known[k]);
    }
    update.extra["labels"] = has.flatten(1);
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    const torch::Tensor outputs =
        masks_ ? sum.extra.at("labels").view({levels(), models_.outputs()}) : torch::Tensor();
    optimizer_.step(server, models_.mean(sum, outputs));
  }

  TaskCost task_cost(int64_t client, int64_t round) const override {
    return models_.cost(client, round);
  }

  std::vector<std::string> warnings() const override { return models_.warnings(); }

 private:
  int64_t levels() const { return std::ssize(models_.levels()); }

  // Ones for the labels that the clients' samples have, [G, C].
  torch::Tensor labels_of(const ClientGroup& group) const {
    torch::Tensor known = torch::zeros({group.size(), models_.outputs()}, group.rows.options());
    for (int64_t k = 0; k < group.size(); ++k) {
      const auto list = group.data.partition->of(group.ids[static_cast<size_t>(k)]);
      const torch::Tensor own = group.data.train.labels.index_select(
          0, torch::tensor(at::IntArrayRef(list.data(), list.size()), torch::kInt64)
                 .to(group.rows.device()));
      known[k].index_fill_(0, own.to(torch::kInt64), 1);
    }
    return known;
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  SubModels models_;
  bool masks_;
  ChainLayer head_;
};

FL_REGISTER(Algorithm, "heterofl", HeteroFl);

}  // namespace fl_sim
