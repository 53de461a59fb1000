// MimeLite: Mime without the reduction of variance. Clients descend with the server's momentum held
// still, along their own gradients.
// Karimireddy et al., "Mime: Mimicking centralized stochastic algorithms in federated learning",
// 2020, arXiv:2008.03606, Algorithm 1, with SGD with momentum as the base algorithm.
#include "mime.h"

namespace fl_sim {

class MimeLite final : public Algorithm {
 public:
  explicit MimeLite(const Setup& setup)
      : local_(setup), optimizer_(setup), statistics_(setup, "mimelite") {}

  static PluginInfo describe() {
    return {.summary = "the server's momentum on the clients",
            .source =
                "Karimireddy et al., Mime: Mimicking centralized stochastic algorithms in "
                "federated learning, 2020, arXiv:2008.03606, Algorithm 1",
            .rule =
                "c = mean_S grad F_k(w), in an exchange of its own;\n"
                "y <- y - lr [(1-beta) g(y) + beta s];\n"
                "w+ = w + server.lr mean_S (w_k - w);  s+ = (1-beta) c + beta s. s starts at 0; "
                "beta 0 is fedavg with uniform weights.",
            .options = {MimeStatistics::beta()},
            .defaults = {{"weighting", "uniform"}},
            .example = "--algorithm mimelite",
            .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.exchanges = 2;
    return needs;
  }

  void init(ServerState& server) const override {
    optimizer_.init(server);
    statistics_.init(server);
  }

  // Only the second exchange has steps.
  TaskCost task_cost(int64_t, int64_t) const override {
    return {.steps = 0.5, .full_gradients = 1};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (global.exchange == 0) return statistics_.gradients(group, global);
    return local_.train(group, global, {.gradient = [&](LocalStep& step) {
                          statistics_.mix(step.gradients, global);
                        }});
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    if (server.exchange == 0) return statistics_.keep_gradient(server, sum);
    optimizer_.step(server, sum.delta);
    statistics_.update_momentum(server);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  MimeStatistics statistics_;
};

FL_REGISTER(Algorithm, "mimelite", MimeLite);

}  // namespace fl_sim
