// FedAvg whose server holds on to the model that the run began with, as fine-tuning of a model from
// elsewhere wants it. L2-SP on the server: Li, Grandvalet & Davoine, "Explicit inductive bias for
// transfer learning with convolutional networks", ICML 2018.
#include "fl_sim.h"

namespace fl_sim {
namespace {

class Anchored final : public Algorithm {
 public:
  explicit Anchored(const Setup& setup)
      : local_(setup), optimizer_(setup), pull_(setup.job.get<double>("anchored.pull")) {}

  static PluginInfo describe() {
    return {.summary = "FedAvg that is pulled back to the model it began with",
            .source =
                "after L2-SP, Li, Grandvalet & Davoine, Explicit inductive bias for transfer "
                "learning with convolutional networks, ICML 2018",
            .rule = "w+ = w + server.lr D - pull (w - w0), D = sum_k p_k (w_k - w)",
            .options = {{.name = "pull",
                         .type = Option::Type::kNumber,
                         .default_value = {},  // none: every job has to say it
                         .meaning = "share of the way back to w0 that a round takes",
                         .range = between(0, 1)}},
            .example = "--algorithm anchored --anchored.pull 0.1",
            .family = "global"};
  }

  Needs needs() const override { return local_.needs(); }

  void init(ServerState& server) const override {
    optimizer_.init(server);
    server.hidden["anchored.start"] = trained(server.weights).clone();  // [1, trainable]
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    const torch::Tensor back = server.hidden.at("anchored.start") - trained(server.weights);
    optimizer_.step(server, sum.delta);
    trained(server.weights).add_(back, pull_);
  }

 private:
  // Without buffers, which are no weights.
  torch::Tensor trained(const torch::Tensor& rows) const {
    return rows.narrow(1, 0, local_.trainable());
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  double pull_;
};

FL_REGISTER(Algorithm, "anchored", Anchored);

}  // namespace
}  // namespace fl_sim
