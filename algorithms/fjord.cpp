// FjORD: ordered dropout. A client trains models of all widths up to its own, another one in each
// step, so that the global model is good at each of them.
// Horváth et al., "FjORD: Fair and accurate federated learning under heterogeneous targets with
// ordered dropout", NeurIPS 2021, Algorithm 1, without self-distillation.
#include "narrow.h"

namespace fl_sim {

class Fjord final : public Narrow {
 public:
  explicit Fjord(const Setup& setup) : Narrow(setup, {.algorithm = "fjord"}) {}

  static PluginInfo describe() {
    return {
        .summary = "ordered dropout: in each step another width, up to the client's own",
        .source =
            "Horvath et al., FjORD: Fair and accurate federated learning under heterogeneous "
            "targets with ordered dropout, NeurIPS 2021, Algorithm 1, without self-distillation",
        .rule =
            "in each local step client k draws a width p of width.levels, up to its own r_k, all "
            "alike, and takes the gradient at the first ceil(p n) of the n units of each hidden "
            "layer;\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those of width "
            "r_k "
            "that have it, weighted by p_k; as it was if nobody does. One width of 1 is fedavg.",
        .defaults = {{"width.levels", "1, 0.8, 0.6, 0.4, 0.2"}},
        .reads = SubModels::keys({}),
        .elsewhere =
            "Flower's baseline: the widths .2, .4, .6, .8 and 1, with self-distillation from r_k.",
        .example = "--algorithm fjord --model 2nn",
        .family = "global"};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (models().levels().size() == 1) return models().train(local(), group, global, LocalRule());
    std::vector<torch::Tensor> masks;  // by level, [P]
    for (size_t level = 0; level < models().levels().size(); ++level)
      masks.push_back(models().mask(level, 0, global.round).to(group.rows.options()));
    std::vector<Rng> draws;
    std::vector<size_t> own;
    for (const int64_t client : group.ids) {
      draws.emplace_back(group.seed, "fjord", global.round, client);
      own.push_back(models().level_of(client, global.round));
    }
    const torch::Tensor narrowed = torch::empty_like(group.rows);
    LocalRule rule;
    rule.at = [&](LocalStep& step) {
      for (int64_t k = 0; k < step.clients; ++k) {
        const auto widest = static_cast<int64_t>(own[static_cast<size_t>(k)]);
        const int64_t level =
            widest + draws[static_cast<size_t>(k)].below(std::ssize(masks) - widest);
        torch::Tensor place = narrowed[k];
        torch::mul_out(place, step.whole[k], masks[static_cast<size_t>(level)]);
      }
      return step.of(narrowed);
    };
    return models().train(local(), group, global, rule);
  }

  // Steps compute the mean of what the widths take that are drawn from.
  TaskCost task_cost(int64_t client, int64_t round) const override {
    TaskCost cost = models().cost(client, round);
    const size_t own = models().level_of(client, round), levels = models().levels().size();
    cost.compute = 0;
    for (size_t level = own; level < levels; ++level)
      cost.compute += models().compute_share(level) / static_cast<double>(levels - own);
    return cost;
  }
};

FL_REGISTER(Algorithm, "fjord", Fjord);

}  // namespace fl_sim
