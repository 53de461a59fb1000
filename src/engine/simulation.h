// The round loop: start reading here.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/checkpoint_keeper.h"
#include "engine/experiment.h"
#include "engine/host.h"
#include "engine/server.h"
#include "process/communicator.h"

namespace fl_sim {

// With tensors of its own.
ServerState copy_of(const ServerState& state);

class Simulation {
 public:
  // All ranks together. `results` and `progress` count on rank 0 and may be null.
  Simulation(const Experiment& experiment, Communicator& comm, Results* results,
             Progress* progress);

  ~Simulation();

  // Runs the job to its end, or until a signal interrupts it (Outcome::paused, on every rank). The
  // rest of the outcome counts on rank 0.
  Outcome run();

  // Before run(), on every rank: goes on from the state that a run of the same job had after a
  // round. Clients' state is in host().store().
  void resume(ServerState state);
  // The same from a checkpoint. Throws Error if it is damaged or does not fit.
  void resume(const Manifest& manifest);

  // Before those: what this run continues. Results of rounds up to `former` are another run's,
  // which had its faults; up to `begun` this one has had those of its ranks; the last checkpoint is
  // of round `saved`.
  void follow(int64_t former, int64_t begun, int64_t saved);

  // When a rank was lost, on rank 0: the state before the last round that was begun, if one was,
  // with results of all rounds before it; and that round.
  std::optional<ServerState> before_round();
  int64_t begun() const { return server_->round(); }
  int64_t committed() const { return keeper_->committed(); }  // the last checkpoint's; 0: none
  Host& host() { return host_; }

  // The global model; after run(), rank 0's is the trained one.
  const ServerState& server() const { return model_; }
  const torch::Tensor& weights() const { return model_.weights; }  // [M, P]

 private:
  // Ranks that train one lane, with rank 0; null where this rank is not one of them.
  struct Lanes {
    std::vector<std::unique_ptr<Communicator>> own;  // if there are several lanes
    std::vector<Communicator*> all;
    Lanes(Communicator& comm, int64_t lanes);
  };

  void broadcast_model();
  bool train(const RoundPlan& plan);
  bool collect(int64_t lane, bool complete);
  void attend();
  void watch_others();
  void heard_of(int rank, const char* what, int64_t round) const;
  void check_faults() const;
  void read(int from, const std::string& post);
  void report(const CheckpointWriter::Done& done);
  void save_clients(int64_t round);
  void save_server(int64_t round);
  void commit_checkpoint();
  void await_checkpoint();
  std::vector<int> hosts() const;
  void evaluate(const RoundPlan& plan);
  torch::Tensor products(const std::vector<int64_t>& clients);
  Outcome finish(bool paused);

  const Experiment& e_;
  Communicator& comm_;
  Lanes lanes_;
  Host host_;
  std::optional<Server> server_;            // on rank 0
  std::optional<CheckpointKeeper> keeper_;  // on rank 0, if there are results
  CheckpointWriter writer_;
  Faults faults_;
  int64_t former_ = 0, begun_ = 0, last_saved_ = 0;  // see follow()
  std::vector<std::string> places_;                  // host names by rank
  bool told_ = false;                                // the others that the run is to stop
  ServerState model_;
  ServerState before_;  // the round under way, on rank 0
};

}  // namespace fl_sim
