// q-FFL: clients with a higher loss count more, so that accuracies come closer to one another.
// Li et al., "Fair resource allocation in federated learning", ICLR 2020, Algorithm 2 (q-FedAvg).
//
// With L = 1 / lr and u_k = L (w - w_k) the paper's step is w+ = w - Σ F_k^q u_k / Σ h_k,
// h_k = q F_k^(q-1) |u_k|^2 + L F_k^q. Clients send F_k^q (w_k - w), without L, whose values stay
// below the exact sum's limit of 2048.
#include <cmath>

#include "fl_sim.h"
#include "learning/full_pass.h"

namespace fl_sim {

class Qffl final : public Algorithm {
 public:
  explicit Qffl(const Setup& setup)
      : local_(setup), full_(setup), optimizer_(setup), q_(setup.job.get<double>("qffl.q")) {
    const auto weighting = setup.job.get<std::string>("weighting");
    FL_CHECK(weighting == "uniform", "weighting is ", weighting,
             " (must be uniform: qffl weighs clients by their losses)");
  }

  static PluginInfo describe() {
    return {
        .summary = "fairness: clients with a higher loss count more",
        .source =
            "Li et al., Fair resource allocation in federated learning, ICLR 2020, Algorithm 2",
        .rule =
            "F_k = 1e-10 + mean loss of w on all of client k's training samples, L = 1 / lr;\n"
            "h_k = q F_k^(q-1) |L (w_k - w)|^2 + L F_k^q;  "
            "w+ = w + server.lr L sum_k F_k^q (w_k - w) / sum_k h_k\n"
            "Losses are divided by the last round's mean, which cancels, so h in /clients is of "
            "scaled ones.\n"
            "Running statistics are the clients' plain mean. q 0 is fedavg with uniform "
            "weights.",
        .options = {{.name = "q",
                     .type = Option::Type::kNumber,
                     .default_value = "0.1",
                     .meaning = "how much higher losses count; 0: not at all",
                     .range = at_least(0)}},
        .defaults = {{"weighting", "uniform"}},
        .elsewhere =
            "Li et al.: tuned for each data set, 0.001 to 5.\nFlower: q 0.2, and a "
            "learning rate of 0.1 of its own for L.",
        .example = "--algorithm qffl --qffl.q 0.5",
        .family = "fairness"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.scalars = {"h", "objective"};
    return needs;
  }

  // Losses are divided by the last round's mean, which cancels, so that F_k^q stays in the range of
  // the exact sum.
  void init(ServerState& server) const override {
    optimizer_.init(server);
    server.shared["scale"] =
        torch::ones({1}, torch::dtype(torch::kFloat64).device(server.weights.device()));
  }

  TaskCost task_cost(int64_t, int64_t) const override { return {.full_losses = 1}; }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    std::vector<double> losses = full_.losses(group, global.weights);  // before rows move
    Update update = local_.train(group, global);
    const double L = 1 / local_.learning_rate(global.round);
    const double scale = global.shared.at("scale").item<double>();
    for (int64_t k = 0; k < group.size(); ++k) {
      const auto i = static_cast<size_t>(k);
      losses[i] += 1e-10;  // a loss of 0 would have no power q - 1
      ClientOutcome& client = update.clients[i];
      const double factor = std::pow(losses[i] / scale, q_), moved = L * client.delta_norm;
      update.delta[k].narrow(0, 0, local_.trainable()).mul_(factor);
      client.scalars[0] = q_ * factor / losses[i] * moved * moved + L * factor;
      client.scalars[1] = losses[i];
    }
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    double h = 0, objective = 0;
    for (const ClientRecord& record : sum.records) {
      if (!record.counts()) continue;
      h += sum.scalar(record, "h");
      objective += sum.scalar(record, "objective");
    }
    server.shared.at("scale").fill_(objective / static_cast<double>(sum.clients));
    const double L = 1 / local_.learning_rate(server.round);
    torch::Tensor delta = sum.delta.clone();  // the mean: 1 / clients of the sum
    delta.narrow(1, 0, local_.trainable()).mul_(static_cast<double>(sum.clients) * L / h);
    optimizer_.step(server, delta);
  }

 private:
  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
  double q_;
};

FL_REGISTER(Algorithm, "qffl", Qffl);

}  // namespace fl_sim
