// The round loop: start reading here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/attendance.h"
#include "engine/checkpoint_keeper.h"
#include "engine/experiment.h"
#include "engine/host.h"
#include "engine/ledger.h"
#include "engine/planner.h"
#include "engine/server.h"
#include "process/communicator.h"

namespace fl_sim {

// With tensors of its own.
ServerState copy_of(const ServerState& state);

// What a run of the job begins with. `root`: on rank 0, where the model is drawn; others have room
// for it.
ServerState first_state(const Experiment& experiment, bool root);

class Simulation {
 public:
  // Collective. `trackers` count on rank 0.
  Simulation(const Experiment& experiment, Communicator& comm, Trackers trackers = {});

  // Runs the job to its end, or until a signal interrupts it (Outcome::paused, on every rank). The
  // rest of the outcome counts on rank 0. Before an error of any rank ends it, rank 0 writes what
  // there is of results; if one of another rank, it is rank 0 that throws it on (FailedElsewhere).
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
  int64_t begun() const { return root_->planner.round(); }
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
  // What only rank 0 has.
  struct Root {
    Planner planner;
    Server server;
    Ledger ledger;
    std::vector<ClientRecord> trained = {};  // in the exchange under way
    ServerState before = {};                 // the round under way
    Root(const Experiment& e, int ranks, Trackers trackers)
        : planner(e, ranks), server(e), ledger(e, std::move(trackers)) {}
  };

  RoundPlan next_plan();
  void save_checkpoint(int64_t round);
  void broadcast_model();
  void share_versions(const RoundPlan& plan);
  bool ask(const RoundPlan& plan);
  bool train(const RoundPlan& plan);
  bool train_as_root(const RoundPlan& plan, std::vector<int64_t> open);
  bool train_lane(const RoundPlan& plan, int64_t lane);
  bool collect(int64_t lane, bool complete);
  Meeting decide_meeting(int64_t lane, std::vector<ClientRecord> records);
  void end_exchange(double seconds);
  void evaluate(const RoundPlan& plan);
  Outcome finish(bool paused);
  RankRecord own_times() const;

  Outcome run_rounds();
  const ServerState& last_whole_model() const;  // rank 0's, of the last round that is through
  void announce_stop();
  void end_by_error() noexcept;
  void commit_checkpoint();
  void wait_for_checkpoint();
  void inject_rank_faults(const RoundPlan& plan) const;
  void check_faults() const;
  std::vector<int> hosts() const;

  const Experiment& e_;
  Communicator& comm_;
  const Needs needs_;
  Lanes lanes_;
  Host host_;
  std::optional<Root> root_;
  std::optional<CheckpointKeeper> keeper_;  // on rank 0, if there are results
  Attendance attendance_;
  Faults faults_;
  int64_t former_ = 0, begun_ = 0, last_saved_ = 0;  // see follow()
  ServerState model_;
};

}  // namespace fl_sim
