// Fine-tuning: any algorithm makes the global model, and each client trains it a little further for
// its own use.
// Yu et al., "Salvaging federated learning by local adaptation", 2020.
#include <algorithm>

#include "fl_sim.h"
#include "learning/kept_part.h"

namespace fl_sim {

class FineTune final : public Wrapper {
 public:
  explicit FineTune(const Setup& setup)
      : Wrapper(make<Algorithm>(setup.job.get<std::string>("finetune.inner"), setup)),
        local_(setup),
        epochs_(setup.job.get<int64_t>("finetune.epochs")) {
    const auto name = setup.job.get<std::string>("finetune.inner");
    FL_CHECK(inner().needs().lanes == 1, "finetune.inner is ", name,
             ", which trains cohorts apart (let it be the outer algorithm, or choose another)");
    FL_CHECK(!inner().needs().pooled, "finetune.inner is ", name,
             ", which has no clients that could fine-tune (choose another)");
    if (setup.job.get<std::string>("finetune.part") == "head") {
      frozen_ = head_of(setup.network).complement(setup.network.layout());
    }
  }

  static PluginInfo describe() {
    return {
        .summary = "any algorithm, whose model each client trains further for itself",
        .source = "Yu et al., Salvaging federated learning by local adaptation, 2020",
        .rule =
            "training is the inner algorithm's. For evaluation each client, also one that never "
            "trained, takes the global model (or its own one, where the inner algorithm gives it "
            "one; of several models each) and trains it, or its head, for finetune.epochs epochs "
            "of plain local training at the round's local.lr; nothing of that is kept. 0 epochs "
            "are the inner algorithm.",
        .options = {{.name = "inner",
                     .default_value = "fedavg",
                     .meaning = "the algorithm that trains the global model",
                     .plugin_kind = "algorithm"},
                    {.name = "epochs",
                     .type = Option::Type::kInteger,
                     .default_value = "1",
                     .meaning = "epochs on a client's training samples before it evaluates",
                     .range = between(0, 1000000)},
                    {.name = "part",
                     .default_value = "all",
                     .meaning = "what is fine-tuned",
                     .choices = {"all", "head"}}},
        .defaults = {{"evaluate-clients", "1"}},
        .example = "--algorithm finetune --partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = inner().needs();
    needs.personal = true;
    return needs;
  }

  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    std::vector<PersonalModel> models;
    if (inner().needs().personal) {
      models = inner().personalize(group, global);
    } else {
      models.assign(group.ids.size(), {.rows = global.weights.unbind(0), .weights = {}});
    }
    size_t most = 0;
    for (const PersonalModel& model : models) most = std::max(most, model.rows.size());
    for (size_t i = 0; i < most; ++i) {
      std::vector<torch::Tensor> rows;
      for (const PersonalModel& model : models) {
        rows.push_back(model.rows[std::min(i, model.rows.size() - 1)]);
      }
      group.rows = torch::stack(rows);  // a copy
      local_.train(group, global,
                   {.frozen = frozen_.empty() ? nullptr : &frozen_,
                    .epochs = epochs_,
                    .batches = "personal"});
      for (size_t k = 0; k < models.size(); ++k) {
        if (i < models[k].rows.size()) models[k].rows[i] = group.rows[static_cast<int64_t>(k)];
      }
    }
    return models;
  }

 private:
  LocalTraining local_;
  RowPart frozen_;
  int64_t epochs_;
};

FL_REGISTER(Algorithm, "finetune", FineTune);

}  // namespace fl_sim
