// The server's step, on rank 0: from the clients' sum to the new model.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/async_rounds.h"
#include "engine/contract.h"
#include "engine/exact_sum.h"
#include "engine/experiment.h"
#include "engine/schedule.h"

namespace fl_sim {

class Server {
 public:
  explicit Server(const Experiment& experiment);

  // Its tensors are those of this state, as init() made it, from now on.
  void hold_to(const ServerState& initial) { shapes_.emplace(initial); }

  // One exchange of one lane, in two halves: what the ranks are to do together with the rows that
  // hosts keep, given the weighted sum and the records of the lane's clients, ascending by id,
  // those of absent ones included; and the step, with what came of that.
  // `mixing`: what becomes of the mean in an asynchronous run.
  Meeting take(const ServerState& model, int64_t lane, const WeightedSum& total,
               std::vector<ClientRecord> records, const AsyncRounds::Mixing& mixing = {});
  void step(ServerState& model, const std::vector<torch::Tensor>& met);
  // What the mean is multiplied by from now on, where a sampler's weights come to something else
  // than 1.
  void multiply(double factor) { factor_ = factor; }
  // Clients that were accepted in this exchange of the lane and still do not count, since an
  // aggregator wants more of them.
  const std::vector<int64_t>& left_out() const { return left_out_; }

  // After the last lane of the last exchange, with the records of the round: the algorithm's last
  // word, what the sampler learns from `learned`, and the plug-ins' figures.
  Figures end_round(ServerState& model, const std::vector<ClientRecord>& records,
                    const std::vector<ClientRecord>& learned) const;

 private:
  Meeting rows_of_models();
  void leave_out(const std::vector<ClientRecord>& records, std::optional<int64_t> model);
  void check(const std::string& who, const ServerState& model) const;
  void put_aggregates(const std::vector<torch::Tensor>& met);

  const Experiment& e_;
  const Needs needs_;
  std::optional<ServerShapes> shapes_;
  std::vector<int64_t> left_out_;
  double factor_ = 1;
  std::optional<Sum> sum_;  // taken; nothing if the model stays as it is
};

}  // namespace fl_sim
