// AFL: the model that is best for the worst mixture of the clients.
// Mohri et al., "Agnostic federated learning", ICML 2019, Algorithm 1 (Stochastic-AFL).
//
// As there, a round moves the model with the old mixture and the mixture with the old model's
// losses. Unlike there, a client takes local steps rather than one stochastic gradient, its loss is
// that of all its samples, and the result is the last model instead of the mean of all.
#include <algorithm>
#include <cmath>
#include <functional>

#include "fl_sim.h"
#include "learning/full_pass.h"

namespace fl_sim {
namespace {

// The nearest point of the simplex: max(v - θ, 0), with the θ that makes the sum 1 (Duchi et al.,
// "Efficient projections onto the l1-ball", ICML 2008, Figure 1).
std::vector<double> project_to_simplex(std::vector<double> v) {
  std::vector<double> sorted = v;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double sum = 0, theta = 0;
  for (size_t j = 0; j < sorted.size(); ++j) {
    sum += sorted[j];
    const double candidate = (sum - 1) / static_cast<double>(j + 1);
    if (sorted[j] > candidate) theta = candidate;
  }
  for (double& value : v) value = std::max(value - theta, 0.0);
  return v;
}

}  // namespace

class Afl final : public Algorithm {
 public:
  explicit Afl(const Setup& setup)
      : local_(setup),
        full_(setup),
        optimizer_(setup),
        gamma_(setup.job.get<double>("afl.gamma")),
        clients_(setup.clients),
        ids_(setup.clients + setup.job.get<int64_t>("holdout-clients")) {
    const Job& job = setup.job;
    const auto weighting = job.get<std::string>("weighting");
    FL_CHECK(weighting == "uniform", "weighting is ", weighting,
             " (must be uniform: afl learns the clients' weights itself)");
    const auto cohort = job.get<int64_t>("cohort");
    FL_CHECK(cohort == clients_, "cohort is ", cohort, " (must be ", clients_,
             ": afl needs the losses of all clients in every round)");
    const auto is = [&](const char* key, const char* usual) {  // or the job has no such key
      const auto found = job.values().find(key);
      return found == job.values().end() || found->second == usual;
    };
    FL_CHECK(is("availability", "chance") && is("clock.keep", "all"),
             "clients may be out of reach or late, but afl needs all of them in every round (leave "
             "availability and clock.keep as they are)");
    FL_CHECK(job.get<double>("availability.probability") == 1 &&
                 job.get<double>("availability.dropout") == 0,
             "clients may be unavailable or drop out, but afl needs all of them in every round "
             "(leave availability.* as it is)");
    FL_CHECK(job.get<double>("stragglers.fraction") == 0 ||
                 job.get<std::string>("stragglers.policy") == "partial",
             "stragglers are dropped, but afl needs all clients in every round (set "
             "stragglers.policy to partial)");
  }

  static PluginInfo describe() {
    return {.summary = "fairness: minimises the loss of the worst mixture of clients",
            .source = "Mohri et al., Agnostic federated learning, ICML 2019, Algorithm 1",
            .rule =
                "w+ = w + server.lr sum_k lambda_k (w_k - w);  "
                "lambda+ = projection onto the simplex of lambda + gamma F(w)\n"
                "with F_k(w) the mean loss on all of client k's training samples and lambda = "
                "1/N at first; all clients take part in every round. gamma 0 is fedavg with "
                "uniform weights.",
            .options = {{.name = "gamma",
                         .type = Option::Type::kNumber,
                         .default_value = "0.01",
                         .meaning = "learning rate of the clients' weights",
                         .range = at_least(0)}},
            .defaults = {{"weighting", "uniform"}},
            .example = "--algorithm afl --clients 8 --cohort 8",
            .family = "fairness"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.scalars = {"objective"};
    needs.sets_weights = true;
    return needs;
  }

  void init(ServerState& server) const override {
    optimizer_.init(server);
    // Of each id; those of clients that never train are not looked at.
    server.shared["lambda"] =
        torch::full({ids_}, 1 / static_cast<double>(clients_),
                    torch::dtype(torch::kFloat64).device(server.weights.device()));
  }

  TaskCost task_cost(int64_t, int64_t) const override { return {.full_losses = 1}; }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const std::vector<double> losses = full_.losses(group, global.weights);
    Update update = local_.train(group, global);
    const torch::Tensor lambda = global.shared.at("lambda").cpu();
    for (size_t k = 0; k < group.ids.size(); ++k) {
      update.clients[k].weight = lambda[group.ids[k]].item<double>();
      update.clients[k].scalars[0] = losses[k];
    }
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
    torch::Tensor& shared = server.shared.at("lambda");
    torch::Tensor lambda = shared.cpu();
    std::vector<double> moved;
    for (const ClientRecord& record : sum.records) {
      const double loss = sum.scalar(record, "objective");  // known even if its training diverged
      moved.push_back(lambda[record.client].item<double>() +
                      (std::isfinite(loss) ? gamma_ * loss : 0));
    }
    moved = project_to_simplex(std::move(moved));
    for (size_t i = 0; i < moved.size(); ++i) lambda[sum.records[i].client] = moved[i];
    shared.copy_(lambda);
  }

 private:
  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
  double gamma_;
  int64_t clients_, ids_;
};

FL_REGISTER(Algorithm, "afl", Afl);

}  // namespace fl_sim
