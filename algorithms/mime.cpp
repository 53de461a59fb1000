// Mime: clients descend as the server would, with its momentum held still and the noise of their
// own gradients reduced as in SVRG.
// Karimireddy et al., "Mime: Mimicking centralized stochastic algorithms in federated learning",
// 2020, arXiv:2008.03606, Algorithm 1, with SGD with momentum as the base algorithm.
#include "mime.h"

namespace fl_sim {

class Mime final : public Algorithm {
 public:
  explicit Mime(const Setup& setup)
      : local_(setup), optimizer_(setup), statistics_(setup, "mime") {}

  static PluginInfo describe() {
    return {.summary = "the server's momentum on the clients, with reduced variance",
            .source =
                "Karimireddy et al., Mime: Mimicking centralized stochastic algorithms in "
                "federated learning, 2020, arXiv:2008.03606, Algorithm 1",
            .rule =
                "c = mean_S grad F_k(w), in an exchange of its own;\n"
                "y <- y - lr [(1-beta) (g(y) - g(w) + c) + beta s], g both times on the same "
                "batch;\n"
                "w+ = w + server.lr mean_S (w_k - w);  s+ = (1-beta) c + beta s. s starts at 0.",
            .options = {MimeStatistics::beta()},
            .defaults = {{"weighting", "uniform"}},
            .example = "--algorithm mime",
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

  // Only the second exchange has steps, each with two gradients.
  TaskCost task_cost(int64_t, int64_t) const override {
    return {.steps = 0.5, .compute = 2, .full_gradients = 1};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (global.exchange == 0) return statistics_.gradients(group, global);
    // A copy, since a gradient moves the running statistics of the rows that it is taken at.
    const torch::Tensor received = group.rows.clone();  // [G, P]
    return local_.train(group, global, {.gradient = [&](LocalStep& step) {
                          step.gradients.sub_(step.gradient(step.of(received)));
                          step.gradients.add_(global.shared.at("gradient"));
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

FL_REGISTER(Algorithm, "mime", Mime);

}  // namespace fl_sim
