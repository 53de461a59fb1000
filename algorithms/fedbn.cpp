// FedBN: FedAvg in which each client keeps its normalising layers, scales, shifts and running
// statistics, to itself.
// Li et al., "FedBN: Federated learning on non-IID features via local batch normalization", ICLR
// 2021, Algorithm 1.
#include "fl_sim.h"
#include "learning/kept_part.h"

namespace fl_sim {

class FedBn final : public Algorithm {
 public:
  explicit FedBn(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        norm_(normalisation_of(setup.network.layout()), "normalisation", setup.network.layout()) {}

  static PluginInfo describe() {
    return {
        .summary = "FedAvg whose normalising layers stay at the client",
        .source =
            "Li et al., FedBN: Federated learning on non-IID features via local batch "
            "normalization, ICLR 2021, Algorithm 1",
        .rule =
            "client k trains (w, its normalisation n_k) as one model: (w_k, n_k+); w+ = w + "
            "server.lr * sum_k p_k (w_k - w).\n"
            "n holds scales, shifts and running statistics of batch and group normalisation; it "
            "starts as the initial model's, which is what a client that never trained is evaluated "
            "with (algorithm finetune around fedbn adapts it first). A model without normalising "
            "layers makes it fedavg.",
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Li et al.'s code gives every client the same weight.",
        .example = "--algorithm fedbn --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    norm_.add_to(needs);
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    norm_.restore(group);
    Update update = local_.train(group, global);
    norm_.withhold(group, update);
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return norm_.personalize(group);
  }

  std::vector<std::string> warnings() const override {
    if (!norm_.empty()) return {};
    return {"the model has no normalising layers: fedbn is fedavg here"};
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  KeptPart norm_;
};

FL_REGISTER(Algorithm, "fedbn", FedBn);

}  // namespace fl_sim
