// Federated dropout: each client trains a part of the units of its own, drawn anew in each round.
// Caldas et al., "Expanding the reach of federated learning by reducing client resource
// requirements", 2018, section 3.2.
#include "fl_sim.h"
#include "learning/sub_models.h"

namespace fl_sim {

class FedDropout final : public Algorithm {
 public:
  explicit FedDropout(const Setup& setup)
      : local_(setup),
        optimizer_(setup),
        models_(setup,
                {.algorithm = "feddropout",
                 .units = [seed = setup.job.seed()](
                              const SubModels::Choice& choice) { return drawn(seed, choice); },
                 .by_client = true}) {}

  static PluginInfo describe() {
    return {
        .summary = "each client trains units of its own, drawn in each round",
        .source =
            "Caldas et al., Expanding the reach of federated learning by reducing client resource "
            "requirements, 2018, section 3.2",
        .rule =
            "client k trains ceil(r_k n) of the n units of each hidden layer, drawn by round and "
            "client;\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those that "
            "trained "
            "it, weighted by p_k; as it was if nobody did. All widths 1 are fedavg.",
        .defaults = {{"width.levels", "0.75"}, {"width.scaler", "false"}},
        .reads = SubModels::keys({"width.scaler"}),
        .elsewhere = "Caldas et al.: widths 0.5 to 1, the same for all clients.",
        .example = "--algorithm feddropout --model 2nn",
        .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.scalars = {"width"};
    needs.parts = !models_.whole();
    return needs;
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return models_.train(local_, group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, models_.mean(sum));
  }

  TaskCost task_cost(int64_t client, int64_t round) const override {
    return models_.cost(client, round);
  }

  std::vector<std::string> warnings() const override { return models_.warnings(); }

 private:
  static std::vector<int64_t> drawn(uint64_t seed, const SubModels::Choice& choice) {
    Rng rng(seed, message("feddropout ", choice.layer), choice.round, choice.client);
    std::vector<int64_t> units = rng.permutation(choice.units);
    units.resize(static_cast<size_t>(choice.kept));
    return units;
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  SubModels models_;
};

FL_REGISTER(Algorithm, "feddropout", FedDropout);

}  // namespace fl_sim
