// FjORD: ordered dropout. A client trains models of all widths up to its own, another one in each
// step, so that the global model is good at each of them.
// Horváth et al., "FjORD: Fair and accurate federated learning under heterogeneous targets with
// ordered dropout", NeurIPS 2021, Algorithm 1; section 3.3 for self-distillation.
#include "base/check.h"
#include "narrow.h"

namespace fl_sim {

class Fjord final : public Narrow {
 public:
  explicit Fjord(const Setup& setup)
      : Narrow(setup, {.algorithm = "fjord"}),
        distill_(setup.job.get<double>("fjord.distill")),
        temperature_(setup.job.get<double>("fjord.temperature")) {
    FL_CHECK(distill_ > 0 || temperature_ == 1, "fjord.temperature is ", temperature_,
             ", but fjord.distill is 0, so that nobody teaches (set it, such as to 1)");
    if (distill_ == 0) return;
    FL_CHECK(setup.network.objective().kind() == Objective::Kind::kCrossEntropy &&
                 setup.network.positions() == 1,
             "fjord.distill is ", distill_,
             ", which compares the probabilities of one class per sample (choose objective "
             "cross-entropy, and data that are not sequences; or leave it out)");
    FL_CHECK(models().levels().size() > 1, "fjord.distill is ", distill_,
             ", but width.levels is one width alone, so that nobody is narrower than the teacher "
             "(give it several, such as 1, 0.5, or leave fjord.distill out)");
  }

  static PluginInfo describe() {
    return {
        .summary = "ordered dropout: in each step another width, up to the client's own",
        .source =
            "Horvath et al., FjORD: Fair and accurate federated learning under heterogeneous "
            "targets with ordered dropout, NeurIPS 2021, Algorithm 1 and section 3.3",
        .rule =
            "in each local step client k draws a width p of width.levels, up to its own r_k, all "
            "alike, and takes the gradient at the first ceil(p n) of the n units of each hidden "
            "layer;\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those of width "
            "r_k "
            "that have it, weighted by p_k; as it was if nobody does. One width of 1 is fedavg.\n"
            "With fjord.distill = a the step's loss is (1-a) CE(p) + a T^2 KL(softmax(s_r / T) || "
            "softmax(s_p / T)) + CE(r_k), with s_p the scores of width p and s_r those of the "
            "client's own, which teaches and learns from the labels alone.",
        .options = {{.name = "distill",
                     .type = Option::Type::kNumber,
                     .default_value = "0",
                     .meaning = "share of the teacher, the client's own width, in the loss of the "
                                "width that was drawn; 0: it does not teach; the paper has 1",
                     .range = between(0, 1)},
                    {.name = "temperature",
                     .type = Option::Type::kNumber,
                     .default_value = "1",
                     .meaning = "T by which scores are divided where the teacher's probabilities "
                                "are compared; the paper has 1",
                     .range = more_than(0)}},
        .defaults = {{"width.levels", "1, 0.8, 0.6, 0.4, 0.2"}},
        .reads = SubModels::keys({}),
        .elsewhere = "Flower's baseline: the widths .2, .4, .6, .8 and 1, fjord.distill 1.",
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
    torch::Tensor lesson, own_gradients;  // of the step's teachers: [B, A, C] scores, [A, T]
    rule.at = [&](LocalStep& step) {
      if (distill_ > 0) {  // the rows themselves are of the clients' own widths
        own_gradients = step.gradient(
            step.whole, 0, {.hook = [&](Scored& scored) { lesson = scored.scores.clone(); }});
      }
      for (int64_t k = 0; k < step.clients; ++k) {
        const auto widest = static_cast<int64_t>(own[static_cast<size_t>(k)]);
        const int64_t level =
            widest + draws[static_cast<size_t>(k)].below(std::ssize(masks) - widest);
        torch::Tensor place = narrowed[k];
        torch::mul_out(place, step.whole[k], masks[static_cast<size_t>(level)]);
      }
      return step.of(narrowed);
    };
    if (distill_ > 0) {
      rule.loss = [&](LocalStep&, Scored& scored) {
        const torch::Tensor apart = torch::softmax(scored.scores / temperature_, 2) -
                                    torch::softmax(lesson / temperature_, 2);
        scored.score_gradients.mul_(1 - distill_)
            .add_(apart * scored.share.unsqueeze(2), distill_ * temperature_);
      };
      rule.gradient = [&](LocalStep& step) { step.gradients.add_(own_gradients); };
    }
    return models().train(local(), group, global, rule);
  }

  // Steps compute the mean of what the widths take that are drawn from, and a teacher's own.
  TaskCost task_cost(int64_t client, int64_t round) const override {
    TaskCost cost = models().cost(client, round);
    const size_t own = models().level_of(client, round), levels = models().levels().size();
    cost.compute = 0;
    for (size_t level = own; level < levels; ++level)
      cost.compute += models().compute_share(level) / static_cast<double>(levels - own);
    if (distill_ > 0) cost.compute += models().compute_share(own);
    return cost;
  }

 private:
  double distill_, temperature_;
};

FL_REGISTER(Algorithm, "fjord", Fjord);

}  // namespace fl_sim
