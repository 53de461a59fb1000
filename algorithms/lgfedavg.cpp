// LG-FedAvg: the head is averaged, the body, a representation of its own, stays at the client.
// Liang et al., "Think locally, act globally: Federated learning with local and global
// representations", 2020, Algorithm 1.
#include "fl_sim.h"
#include "learning/kept_part.h"

namespace fl_sim {

class LgFedAvg final : public Algorithm {
 public:
  explicit LgFedAvg(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        body_(HeadAndBody(setup, "lgfedavg").body, "body", setup.network.layout()) {}

  static PluginInfo describe() {
    return {
        .summary = "the head is averaged, the body stays at the client",
        .source =
            "Liang et al., Think locally, act globally: Federated learning with local and global "
            "representations, 2020, Algorithm 1",
        .rule =
            "client k trains (body b_k, head w) as one model: (b_k+, w_k); w+ = w + server.lr * "
            "sum_k p_k (w_k - w).\n"
            "Bodies start as the initial model's, and so does the global model's stay: the "
            "clients' "
            "own models are the result. Without local representation losses.",
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Liang et al.'s code starts from a model that FedAvg has trained (set init).",
        .example = "--algorithm lgfedavg --model 2nn --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    body_.add_to(needs);
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    body_.restore(group);
    Update update = local_.train(group, global);
    body_.withhold(group, update);
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return body_.personalize(group);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  KeptPart body_;
};

FL_REGISTER(Algorithm, "lgfedavg", LgFedAvg);

}  // namespace fl_sim
