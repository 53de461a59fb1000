// FedSGD: one step of gradient descent a round, along the clients' full gradients.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, Section 2: FedAvg with one local epoch (E = 1) and all samples in one batch (B =
// infinity).

#include "fl_sim.h"
#include "learning/full_pass.h"

namespace fl_sim {

class FedSgd final : public Algorithm {
 public:
  explicit FedSgd(const Setup& setup)
      : local_(setup), full_(setup, setup.job.get<int64_t>("local.batch-size")), optimizer_(setup) {
    const LocalPlan& plan = local_.plan();
    FL_CHECK(plan.steps == 0 || plan.steps == 1, "local.steps is ", plan.steps,
             ", but fedsgd takes one step a round (leave it out, or choose algorithm fedavg)");
    FL_CHECK(plan.steps == 1 || plan.epochs == 1, "local.epochs is ", plan.epochs,
             ", but fedsgd takes one step a round (leave it out, or choose algorithm fedavg)");
    FL_CHECK(!local_.optimizer().adam() && local_.optimizer().momentum() == 0,
             local_.optimizer().adam() ? "local.optimizer is adam" : "local.momentum is not 0",
             ", but a client's only step in fedsgd is one of plain gradient descent (momentum and "
             "adam are the server's here: server.optimizer)");
  }

  static PluginInfo describe() {
    return {.summary = "one step a round along the full gradient",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, Section 2",
            .rule =
                "w+ = w - server.lr * local.lr * sum_k p_k grad F_k(w)\n"
                "with F_k the mean loss over all of client k's samples, whose gradient is added up "
                "over pieces of local.batch-size of them. It is fedavg with one epoch of one full "
                "batch.",
            .defaults = {{"local.lr", "0.1"}, {"local.batch-size", "50"}},
            .example = "--algorithm fedsgd",
            .family = "global"};
  }

  void init(ServerState& server) const override { optimizer_.init(server); }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const torch::Tensor received = group.rows.clone();
    Update update;
    const std::vector<double> losses = full_.losses(group, received);
    torch::Tensor gradients = full_.gradients(group, received, global.round, group.rows);
    int64_t steppers = 0;  // the first ones: clients with samples
    for (size_t k = 0; k < group.ids.size(); ++k) {
      ClientOutcome& client = update.clients.emplace_back();
      client.samples_seen = group.data.partition->size(group.ids[k]);
      if (client.samples_seen == 0) continue;
      ++steppers;
      client.steps = 1;
      client.step_weight = 1;
      client.loss = client.loss_before = client.loss_after = losses[k];
    }

    // Clips and decays as the job says.
    if (steppers > 0) {
      LocalOptimizer::Memory memory;
      local_.optimizer().step(group.rows.narrow(0, 0, steppers).narrow(1, 0, local_.trainable()),
                              gradients.narrow(0, 0, steppers), memory,
                              local_.learning_rate(global.round));
    }
    update.delta = group.rows - received;
    update.set_delta_norms(update.delta, local_.trainable());
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    optimizer_.step(server, sum.delta);
  }

 private:
  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
};

FL_REGISTER(Algorithm, "fedsgd", FedSgd);

}  // namespace fl_sim
