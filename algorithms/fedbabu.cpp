// FedBABU: only the body is trained and averaged, with the head as it was drawn; clients fine-tune
// for evaluation.
// Oh et al., "FedBABU: Toward enhanced representation for federated image classification", ICLR
// 2022, Algorithm 1.
#include "fl_sim.h"
#include "learning/kept_part.h"
#include "learning/own_rows.h"

namespace fl_sim {

class FedBabu final : public Algorithm {
 public:
  explicit FedBabu(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        parts_(setup, "fedbabu"),
        epochs_(setup.job.get<int64_t>("fedbabu.finetune-epochs")),
        whole_(setup.job.get<std::string>("fedbabu.part") == "all") {}

  static PluginInfo describe() {
    return {
        .summary = "the body is trained under a frozen head; clients fine-tune for evaluation",
        .source =
            "Oh et al., FedBABU: Toward enhanced representation for federated image "
            "classification, ICLR 2022, Algorithm 1",
        .rule =
            "client k trains the body w under the initial model's head: w_k; w+ = w + server.lr * "
            "sum_k p_k (w_k - w).\n"
            "For evaluation each client, also one that never trained, trains the whole global "
            "model or its head for finetune-epochs epochs at the round's local.lr; nothing of that "
            "is kept.",
        .options = {{.name = "finetune-epochs",
                     .type = Option::Type::kInteger,
                     .default_value = "5",
                     .meaning = "epochs on a client's training samples before it evaluates",
                     .range = between(0, 1000000)},
                    {.name = "part",
                     .default_value = "all",
                     .meaning = "what is fine-tuned",
                     .choices = {"all", "head"}}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere = "Oh et al.: 5 epochs; they compare head, body and all.",
        .example = "--algorithm fedbabu --model 2nn --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.not_sent = parts_.head;  // nobody's head changes
    needs.personal = true;
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global, {.frozen = &parts_.head});
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    local_.train(
        group, global,
        {.frozen = whole_ ? nullptr : &parts_.body, .epochs = epochs_, .batches = "personal"});
    return one_model_each(group.rows);
  }

 private:
  LocalTraining local_;
  ServerOptimizer optimizer_;
  HeadAndBody parts_;
  int64_t epochs_;
  bool whole_;
};

FL_REGISTER(Algorithm, "fedbabu", FedBabu);

}  // namespace fl_sim
