// FedRep: clients first fit their own head to the body that they received, then the body to that
// head; the body is averaged.
// Collins et al., "Exploiting shared representations for personalized federated learning", ICML
// 2021, Algorithm 1.
#include "fl_sim.h"
#include "learning/kept_part.h"

namespace fl_sim {

class FedRep final : public Algorithm {
 public:
  explicit FedRep(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        parts_(setup, "fedrep"),
        head_(parts_.head, "head", setup.network.layout()),
        head_epochs_(setup.job.get<int64_t>("fedrep.head-epochs")) {}

  static PluginInfo describe() {
    return {
        .summary = "first the client's own head is trained, then the body, which is averaged",
        .source =
            "Collins et al., Exploiting shared representations for personalized federated "
            "learning, ICML 2021, Algorithm 1",
        .rule =
            "client k trains its head h_k for head-epochs epochs with the body w frozen, then the "
            "body for local.epochs (or local.steps) with h_k+ frozen: w_k; w+ = w + server.lr * "
            "sum_k p_k (w_k - w).\n"
            "Heads start as the initial model's, which is what a client that never trained is "
            "evaluated with (algorithm finetune around fedrep, part head, trains one first, as the "
            "paper does for new clients). Without head epochs nobody's head is ever trained: "
            "fedbabu's training.",
        .options = {{.name = "head-epochs",
                     .type = Option::Type::kInteger,
                     .default_value = "1",
                     .meaning = "epochs of the head, before those of the body (local.epochs)",
                     .range = between(0, 1000000)}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Collins et al.: 10 epochs of the head, then 1 or 5 of the body, by data set.",
        .example = "--algorithm fedrep --model 2nn --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    head_.add_to(needs);
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  // The epochs of the head.
  TaskCost task_cost(int64_t, int64_t) const override {
    return {.full_gradients = static_cast<double>(head_epochs_)};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    head_.restore(group);
    const Update first = local_.train(
        group, global, {.frozen = &parts_.body, .epochs = head_epochs_, .batches = "head"});
    Update update = local_.train(group, global, {.frozen = &parts_.head});
    head_.withhold(group, update);
    // What is measured is measured over both; step_weight remains that of the body, which is
    // shared.
    for (size_t k = 0; k < group.ids.size(); ++k) {
      const ClientOutcome& head = first.clients[k];
      ClientOutcome& both = update.clients[k];
      if (head.steps == 0) continue;
      const auto of_head = static_cast<double>(head.samples_seen);
      const auto of_body = static_cast<double>(both.samples_seen);
      both.loss = (of_head * head.loss + of_body * both.loss) / (of_head + of_body);
      both.loss_before = head.loss_before;
      both.samples_seen += head.samples_seen;
      both.steps += head.steps;
    }
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
  HeadAndBody parts_;
  KeptPart head_;
  int64_t head_epochs_;
};

FL_REGISTER(Algorithm, "fedrep", FedRep);

}  // namespace fl_sim
