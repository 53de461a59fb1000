// The baseline without federation: every client trains a model of its own, on its own samples
// alone.
#include "fl_sim.h"

namespace fl_sim {

class LocalOnly final : public Algorithm {
 public:
  explicit LocalOnly(const Setup& setup) : local_(setup) {
    FL_CHECK(setup.job.get<std::string>("server.optimizer") == "sgd" &&
                 setup.job.get<double>("server.lr") == 1,
             "server.optimizer or server.lr is set, but with algorithm local the server does "
             "nothing (leave them out)");
  }

  static PluginInfo describe() {
    return {.summary = "baseline: every client alone, with a model of its own",
            .rule =
                "In each round that it takes part in, a client trains its own model further; "
                "the global one, from which all of them start, stays as it is. A client that "
                "has not taken part yet is evaluated with the global model.",
            .defaults = {{"evaluate-clients", "1"}},
            .example = "--algorithm local --partition.test-fraction 0.2",
            .family = "baseline"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    const ParameterLayout& layout = local_.network().layout();
    needs.client_state["model"] = layout.row();
    needs.not_sent = RowPart().complement(layout);  // all of it
    needs.personal = true;
    return needs;
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    take_own_models(group);
    const torch::Tensor before = group.rows.clone();
    Update update = local_.train(group, global);
    update.set_delta_norms(group.rows - before, local_.trainable());
    update.delta.zero_();
    update.state["model"] = group.rows;
    return update;
  }

  void aggregate(ServerState&, const Sum&) const override {}

  std::vector<PersonalModel> personalize(ClientGroup& group, const GlobalModel&) const override {
    take_own_models(group);
    std::vector<PersonalModel> models;
    for (int64_t k = 0; k < group.size(); ++k) models.push_back({{group.rows[k]}, {}});
    return models;
  }

 private:
  static void take_own_models(ClientGroup& group) {
    for (int64_t k = 0; k < group.size(); ++k) {
      if (!group.fresh[static_cast<size_t>(k)]) group.rows[k].copy_(group.state.at("model")[k]);
    }
  }

  LocalTraining local_;
};

FL_REGISTER(Algorithm, "local", LocalOnly);

}  // namespace fl_sim
