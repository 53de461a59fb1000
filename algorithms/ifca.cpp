// IFCA: several global models, of which each client trains the one that fits its samples best.
// Ghosh et al., "An efficient framework for clustered federated learning", NeurIPS 2020, Algorithm
// 1, option II (model averaging).
#include "fl_sim.h"
#include "learning/model_choice.h"

namespace fl_sim {

class Ifca final : public Algorithm {
 public:
  explicit Ifca(const Setup& setup)
      : local_(setup),
        full_(setup),
        optimizer_(setup),
        clusters_(setup.job.get<int64_t>("ifca.clusters")) {
    FL_CHECK(clusters_ <= setup.clients, "ifca.clusters is ", clusters_, " (must be at most ",
             setup.clients, ", the number of clients)");
    FL_CHECK(clusters_ == 1 || setup.job.get<std::string>("init") == "random",
             "init is a file and ifca.clusters is ", clusters_,
             " (clusters that start alike stay alike; start from random weights)");
  }

  static PluginInfo describe() {
    return {.summary = "clusters of clients, each with a model: clients take the one that fits",
            .source =
                "Ghosh et al., An efficient framework for clustered federated learning, NeurIPS "
                "2020, Algorithm 1, model averaging",
            .rule =
                "client k takes j = argmin_j F_k(w_j), its loss over all its training samples, and "
                "trains w_j;\n"
                "w_j+ = w_j + server.lr * mean of w_k - w_j over those that took j, weighted by "
                "p_k; as it was if nobody did.\n"
                "The w_j start from different random weights. One cluster is fedavg.",
            .options = {{.name = "clusters",
                         .type = Option::Type::kInteger,
                         .default_value = "2",
                         .meaning = "number of models; the paper takes as many as there are kinds "
                                    "of clients: 2 to 4",
                         .range = between(1, 1000)}},
            .defaults = {{"evaluate-clients", "1"}},
            .elsewhere = "Ghosh et al.: every client of a cluster weighs the same.",
            .example = "--algorithm ifca --partition.test-fraction 0.2",
            .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.models = clusters_;
    needs.distinct_models = true;
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  TaskCost task_cost(int64_t, int64_t) const override {
    return {.full_losses = clusters_ > 1 ? static_cast<double>(clusters_) : 0};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return train_models(local_, group, global, best_models(full_, group, global, clusters_));
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    for (int64_t j = 0; j < clusters_; ++j) {
      if (sum.weight[static_cast<size_t>(j)] > 0) {
        optimizer_.step(server, sum.delta.narrow(0, j, 1), j);
      }
    }
  }

  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    return as_personal(global, best_models(full_, group, global, clusters_));
  }

 private:
  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
  int64_t clusters_;
};

FL_REGISTER(Algorithm, "ifca", Ifca);

}  // namespace fl_sim
