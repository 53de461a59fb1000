// The round loop: start reading here.
#pragma once

#include <optional>

#include "communicator.h"
#include "experiment.h"
#include "host.h"
#include "server.h"

namespace fl_sim {

class Simulation {
 public:
  // All ranks together. `results` and `progress` count on rank 0 and may be null.
  Simulation(const Experiment& experiment, Communicator& comm, Results* results,
             Progress* progress);

  // Runs the job to its end. The outcome counts on rank 0.
  Outcome run();

  // The global model; after run(), rank 0's is the trained one.
  const ServerState& server() const { return model_; }
  const torch::Tensor& weights() const { return model_.weights; }  // [1, P]

 private:
  void broadcast_model();
  std::vector<ClientRecord> gather_records();
  Outcome finish();

  const Experiment& e_;
  Communicator& comm_;
  Host host_;
  std::optional<Server> server_;  // on rank 0
  ServerState model_;
};

}  // namespace fl_sim
