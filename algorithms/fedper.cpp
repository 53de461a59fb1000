// FedPer: the body is averaged, the head stays at the client; both are trained together.
// Arivazhagan et al., "Federated learning with personalization layers", 2019, Algorithms 1 and 2.
#include "fl_sim.h"
#include "learning/kept_part.h"

namespace fl_sim {

class FedPer final : public Algorithm {
 public:
  explicit FedPer(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        head_(setup.job.get<std::string>("fedper.part") == "head"
                  ? HeadAndBody(setup, "fedper").head
                  : RowPart(),
              "head", setup.network.layout()) {}

  static PluginInfo describe() {
    return {
        .summary = "the body is averaged, the head stays at the client",
        .source =
            "Arivazhagan et al., Federated learning with personalization layers, 2019, Algorithms "
            "1 and 2",
        .rule =
            "client k trains (body w, head h_k) as one model: (w_k, h_k+); w+ = w + server.lr * "
            "sum_k p_k (w_k - w).\n"
            "Heads start as the initial model's, which is what a client that never trained is "
            "evaluated with. Without a head it is fedavg.",
        .options = {{.name = "part",
                     .default_value = "head",
                     .meaning = "what stays at the client: the model's last layer, or nothing",
                     .choices = {"head", "none"}}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Arivazhagan et al.: one to four of the last blocks stay, by data set.",
        .example = "--algorithm fedper --model 2nn --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    head_.add_to(needs);
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    head_.restore(group);
    Update update = local_.train(group, global);
    head_.withhold(group, update);
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    return head_.personalize(group);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  KeptPart head_;
};

FL_REGISTER(Algorithm, "fedper", FedPer);

}  // namespace fl_sim
