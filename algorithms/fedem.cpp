// FedEM: every client is a mixture of the same few components, each with weights of its own.
// Marfoq et al., "Federated multi-task learning under a mixture of distributions", NeurIPS 2021,
// Algorithm 1.
#include <cmath>

#include "fl_sim.h"
#include "learning/full_pass.h"

namespace fl_sim {

class FedEm final : public Algorithm {
 public:
  explicit FedEm(const Setup& setup)
      : local_(setup),
        full_(setup),
        optimizer_(setup),
        components_(setup.job.get<int64_t>("fedem.components")) {
    if (components_ == 1) return;
    FL_CHECK(setup.job.get<std::string>("init") == "random",
             "init is a file and fedem.components is ", components_,
             " (components that start alike stay alike; start from random weights)");
    FL_CHECK(local_.optimizer().adam() || !setup.job.get<bool>("local.keep-momentum"),
             "local.keep-momentum is on, but fedem.components is ", components_,
             " (fedem keeps no momentum from round to round; leave it off)");
  }

  static PluginInfo describe() {
    return {
        .summary = "every client is a mixture of common components, with weights of its own",
        .source =
            "Marfoq et al., Federated multi-task learning under a mixture of distributions, "
            "NeurIPS 2021, Algorithm 1",
        .rule =
            "per client: q_im ~ pi_m exp(-loss of sample i under w_m), sum_m q_im = 1; "
            "pi_m+ = mean_i q_im, 1 / M at first;\n"
            "each w_m is trained with the gradient mean over the batch of q_im g_im: the weights "
            "are not normalised within a batch;\n"
            "w_m+ = w_m + server.lr sum_k p_k (w_m,k - w_m). A client predicts with the "
            "probabilities' mean over components, weighted by pi. One component is fedavg.",
        .options = {{.name = "components",
                     .type = Option::Type::kInteger,
                     .default_value = "3",
                     .meaning = "number of components, M; each one is trained by every client",
                     .range = between(1, 100)}},
        .defaults = {{"evaluate-clients", "1"}},
        .example = "--algorithm fedem --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.models = components_;
    needs.distinct_models = true;
    needs.client_state["pi"] = components_;
    // Component 0's delta is the update's own.
    for (int64_t m = 1; m < components_; ++m) {
      needs.additive[name(m)] = local_.network().layout().row();
    }
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  TaskCost task_cost(int64_t, int64_t) const override {
    const auto models = static_cast<double>(components_);
    return {.steps = models, .full_losses = components_ > 1 ? models : 0};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    torch::Tensor pi = mixture(group);             // [G, M]
    std::vector<torch::Tensor> lists, posteriors;  // of each client: samples [n], q [n, M]
    for (int64_t k = 0; k < group.size() && components_ > 1; ++k) {
      const auto list = group.data.partition->of(group.ids[static_cast<size_t>(k)]);
      lists.push_back(
          torch::tensor(at::IntArrayRef(list.data(), list.size()), torch::kInt64).to(pi.device()));
      posteriors.push_back(posterior(group, global, k, pi[k]));
      if (!list.empty()) pi[k].copy_(posteriors.back().mean(0));
    }
    // What sample i counts for component m: q_im times its share of the batch.
    const auto weigh = [&](int64_t m, Scored& scored) {
      for (int64_t k = 0; k < scored.indices.size(1); ++k) {
        const auto client = static_cast<size_t>(k);
        const torch::Tensor place =
            torch::searchsorted(lists[client], scored.indices.select(1, k).contiguous());
        const torch::Tensor q = posteriors[client].select(1, m).index_select(0, place);
        scored.score_gradients.select(1, k).mul_(
            q.to(scored.score_gradients.scalar_type()).unsqueeze(1));
      }
    };

    const int64_t dealt = group.model;
    std::vector<Update> parts;
    for (int64_t m = 0; m < components_; ++m) {
      LocalRule rule;
      if (components_ > 1) rule.loss = [&](LocalStep&, Scored& scored) { weigh(m, scored); };
      group.model = m;
      group.rows.copy_(global.model(m).expand_as(group.rows));
      parts.push_back(local_.train(group, global, rule));
    }
    group.model = dealt;
    Update update = whole(parts, pi);
    update.state["pi"] = pi;
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta.narrow(0, 0, 1));
    for (int64_t m = 1; m < components_; ++m) {
      optimizer_.step(server, sum.extra.at(name(m)).unsqueeze(0), m);
    }
  }

  // A client that never trained finds its weights by one expectation step.
  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    const torch::Tensor pi = mixture(group);
    std::vector<PersonalModel> own;
    for (int64_t k = 0; k < group.size(); ++k) {
      PersonalModel& model = own.emplace_back();
      model.rows = global.weights.unbind(0);
      if (components_ == 1) continue;
      torch::Tensor weights = pi[k].to(torch::kFloat64);
      if (group.fresh[static_cast<size_t>(k)]) {
        const torch::Tensor q = posterior(group, global, k, pi[k]);
        if (q.size(0) > 0) weights = q.mean(0);
      }
      weights = (weights / weights.sum()).cpu();
      for (int64_t m = 0; m < components_; ++m) model.weights.push_back(weights[m].item<double>());
    }
    return own;
  }

 private:
  static std::string name(int64_t m) { return message("component.", m); }

  // A copy of the clients' pi [G, M].
  torch::Tensor mixture(const ClientGroup& group) const {
    torch::Tensor pi = group.state.at("pi").clone();
    for (int64_t k = 0; k < group.size(); ++k) {
      if (group.fresh[static_cast<size_t>(k)]) pi[k].fill_(1 / static_cast<double>(components_));
    }
    return pi;
  }

  // q [n, M] float64 of the samples of client k, in the order of its list.
  torch::Tensor posterior(const ClientGroup& group, const GlobalModel& global, int64_t k,
                          const torch::Tensor& pi) const {
    std::vector<torch::Tensor> losses;
    for (int64_t m = 0; m < components_; ++m) {
      losses.push_back(full_.sample_losses(group, k, global.weights[m]));
    }
    return torch::softmax(pi.to(torch::kFloat64).log() - torch::stack(losses, 1), 1);
  }

  // The components' trainings as one update. Losses are their means, weighted by pi; samples count
  // as often as they were processed; the norm is that of all components together.
  Update whole(std::vector<Update>& parts, const torch::Tensor& pi) const {
    Update update = parts[0];
    if (components_ == 1) return update;
    const torch::Tensor weights = pi.to(torch::kFloat64).cpu();
    for (size_t k = 0; k < update.clients.size(); ++k) {
      ClientOutcome& all = update.clients[k];
      all.loss = all.loss_before = all.loss_after = all.delta_norm = 0;
      all.samples_seen = 0;
      for (size_t m = 0; m < parts.size(); ++m) {
        const ClientOutcome& one = parts[m].clients[k];
        const auto share = weights[static_cast<int64_t>(k)][static_cast<int64_t>(m)].item<double>();
        all.loss += share * one.loss;
        all.loss_before += share * one.loss_before;
        all.loss_after += share * one.loss_after;
        all.delta_norm = std::hypot(all.delta_norm, one.delta_norm);
        all.samples_seen += one.samples_seen;
      }
    }
    for (size_t m = 1; m < parts.size(); ++m) {
      update.extra[name(static_cast<int64_t>(m))] = parts[m].delta;
    }
    return update;
  }

  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
  int64_t components_;
};

FL_REGISTER(Algorithm, "fedem", FedEm);

}  // namespace fl_sim
