// FedExP: FedAvg whose server takes longer steps where clients disagree.
// Jhunjhunwala et al., "FedExP: Speeding up federated averaging via extrapolation", ICLR 2023,
// Algorithm 1.
#include <algorithm>

#include "fl_sim.h"

namespace fl_sim {

class FedExp final : public Algorithm {
 public:
  explicit FedExp(const Setup& setup)
      : local_(setup), epsilon_(setup.job.get<double>("fedexp.epsilon")) {
    const Job& job = setup.job;
    FL_CHECK(job.get<std::string>("server.optimizer") == "sgd" && job.get<double>("server.lr") == 1,
             "server.optimizer is ", job.get<std::string>("server.optimizer"), " and server.lr is ",
             job.get<double>("server.lr"),
             ", but fedexp chooses the server's rate itself (leave both out)");
  }

  static PluginInfo describe() {
    return {
        .summary = "FedAvg with a server rate that follows from the deltas",
        .source =
            "Jhunjhunwala et al., FedExP: Speeding up federated averaging via extrapolation, ICLR "
            "2023, Algorithm 1",
        .rule =
            "w+ = w + max(1, sum_k p_k |D_k|^2 / (2 (|D|^2 + epsilon))) D\n"
            "with D_k = w_k - w and D = sum_k p_k D_k.",
        .options = {{.name = "epsilon",
                     .type = Option::Type::kNumber,
                     .default_value = "0.001",
                     .meaning = "keeps the rate bounded where the mean delta vanishes",
                     .range = more_than(0)}},
        .elsewhere = "Jhunjhunwala et al. evaluate the mean of the last two rounds' models.",
        .example = "--algorithm fedexp",
        .family = "global"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.follows_norms = true;
    return needs;
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    return local_.train(group, global);
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    double total = 0, squares = 0;
    for (const ClientRecord& record : sum.records) {
      if (!record.counts()) continue;
      total += record.weight;
      squares += record.weight * record.sent_norm * record.sent_norm;
    }
    torch::Tensor delta = sum.delta.clone();
    torch::Tensor trained = delta.narrow(1, 0, local_.trainable());
    const double length = trained.to(torch::kFloat64).norm().item<double>();
    trained.mul_(std::max(1.0, squares / total / (2 * (length * length + epsilon_))));
    server.weights.add_(delta);
  }

 private:
  LocalTraining local_;
  double epsilon_;
};

FL_REGISTER(Algorithm, "fedexp", FedExp);

}  // namespace fl_sim
