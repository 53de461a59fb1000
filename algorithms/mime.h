// What Mime and MimeLite share: the server's momentum s, held still while clients train, and the
// full gradient c that the round's first exchange collects for it.
//
//   c = mean_S grad F_k(w);   after the round  s <- (1-beta) c + beta s
#pragma once

#include <cstdint>
#include <string>

#include "fl_sim.h"
#include "learning/full_pass.h"

namespace fl_sim {

class MimeStatistics {
 public:
  // Refuses what the two rules have no room for; `name` is the algorithm's.
  MimeStatistics(const Algorithm::Setup& setup, const std::string& name)
      : full_(setup), trainable_(setup.network.layout().trainable()) {
    const Job& job = setup.job;
    beta_ = job.get<double>(name + ".beta");
    FL_CHECK(job.get<std::string>("weighting") == "uniform", "weighting is ",
             job.get<std::string>("weighting"), ", but ", name,
             " takes plain means over the cohort (choose uniform)");
    const LocalOptimizer local(job);
    FL_CHECK(!local.adam() && local.momentum() == 0,
             local.adam() ? "local.optimizer is adam" : "local.momentum is not 0", ", but in ",
             name, " clients take the server's momentum, ", name, ".beta (choose local.optimizer ",
             "sgd without momentum)");
  }

  static Option beta() {
    return {.name = "beta",
            .type = Option::Type::kNumber,
            .default_value = "0.9",
            .meaning = "decay of the momentum that the server keeps and clients use",
            .range = from_below(0, 1)};
  }

  void init(ServerState& server) const {
    const torch::Tensor trainable = server.weights[0].narrow(0, 0, trainable_);
    server.shared["gradient"] = torch::zeros_like(trainable);
    server.shared["momentum"] = torch::zeros_like(trainable);
  }

  // The first exchange: clients' full gradients at w in place of deltas, and their mean as c.
  Update gradients(const ClientGroup& group, const GlobalModel& global) const {
    Update update;
    update.delta = torch::zeros_like(group.rows);
    update.delta.narrow(1, 0, trainable_).copy_(full_.gradients(group, group.rows, global.round));
    for (const int64_t id : group.ids)
      update.clients.emplace_back().samples_seen = group.data.partition->size(id);
    return update;
  }
  void keep_gradient(ServerState& server, const Sum& sum) const {
    server.shared.at("gradient").copy_(sum.delta[0].narrow(0, 0, trainable_));
  }

  // After the second one. A round whose first exchange nobody survives finds no gradient.
  void update_momentum(ServerState& server) const {
    server.shared.at("momentum").mul_(beta_).add_(server.shared.at("gradient"), 1 - beta_);
    server.shared.at("gradient").zero_();
  }

  // gradients <- (1-beta) gradients + beta s
  void mix(torch::Tensor& gradients, const GlobalModel& global) const {
    gradients.mul_(1 - beta_).add_(global.shared.at("momentum"), beta_);
  }

 private:
  FullPass full_;
  int64_t trainable_;
  double beta_;
};

}  // namespace fl_sim
