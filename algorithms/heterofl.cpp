// HeteroFL: clients train models as narrow as they can bear, each the first units of the whole one.
// Diao et al., "HeteroFL: Computation and communication efficient federated learning for
// heterogeneous clients", ICLR 2021, Algorithm 1, without static batch normalisation (networks
// without normalisation), and without the cross-entropy that is masked to a client's labels.
#include "fl_sim.h"
#include "learning/sub_models.h"

namespace fl_sim {

class HeteroFl final : public Algorithm {
 public:
  explicit HeteroFl(const Setup& setup)
      : local_(setup), optimizer_(setup), models_(setup, {.algorithm = "heterofl"}) {
    FL_CHECK(
        !setup.job.get<bool>("local.keep-momentum") ||
            setup.job.get<std::string>("width.assign") != "dynamic",
        "local.keep-momentum is on, but under width.assign dynamic clients train other parts of "
        "the model in each round (leave one out)");
  }

  static PluginInfo describe() {
    return {
        .summary = "clients train narrow models, the first units of each hidden layer",
        .source =
            "Diao et al., HeteroFL: Computation and communication efficient federated learning for "
            "heterogeneous clients, ICLR 2021, Algorithm 1",
        .rule =
            "client k trains the first ceil(r_k n) of the n units of each hidden layer, whose "
            "outputs count 1/r_k times as much in training (width.scaler);\n"
            "each number of the model: w+ = w + server.lr * mean of w_k - w over those that "
            "trained "
            "it, weighted by p_k; as it was if nobody did. All widths 1 are fedavg.",
        .defaults = {{"weighting", "uniform"}},
        .reads = SubModels::keys({"width.scaler"}),
        .elsewhere =
            "Diao et al.: half, a quarter ... of the whole model, static batch normalisation, and "
            "a "
            "cross-entropy of each client's own labels.",
        .example = "--algorithm heterofl --width.levels 1,0.5,0.25 --model 2nn",
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
  LocalTraining local_;
  ServerOptimizer optimizer_;
  SubModels models_;
};

FL_REGISTER(Algorithm, "heterofl", HeteroFl);

}  // namespace fl_sim
