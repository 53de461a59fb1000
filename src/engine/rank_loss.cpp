#include "engine/rank_loss.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "base/version.h"
#include "engine/simulation.h"
#include "process/interruption.h"
#include "process/rank_survival.h"
#include "process/watchdog.h"
#include "storage/checkpoint.h"

namespace fl_sim {

namespace {

// What rank 0 tells those that are left, beside the folder of a checkpoint.
struct Restart {
  bool through = false,
       paused = false;  // rank 0 has the outcome already: nothing is to be repeated
  int64_t begun = 0;    // rounds that were begun before ranks were lost
};

std::string names(const std::vector<int>& ranks, const std::vector<std::string>& places) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    const char* between = i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ";
    text += message(between, ranks[i], " (", places[static_cast<size_t>(ranks[i])], ")");
  }
  return text;
}

// A run through the deaths of its ranks: it begins, and begins again with those that are left.
class Run {
 public:
  Run(const Experiment& e, Communicator& all, std::string checkpoint, Trackers trackers)
      : e_(e),
        checkpoint_(std::move(checkpoint)),
        trackers_(std::move(trackers)),
        all_(all),
        survives_(read_options<SurvivalOptions>(e.job).goes_on() && all.size() > 1),
        places_(all.gather(host_name())),
        former_(checkpoint_.empty() ? 0 : read_manifest(checkpoint_).round),
        comm_(&all),
        folder_(checkpoint_),
        saved_(former_) {}

  Outcome complete() {
    for (;;) {
      std::string why;
      try {
        return run_from();
      } catch (const RankLost& lost) {
        why = lost.what();
        Interruption::get().set_poll({});  // the simulation's messages are over
      }
      if (const auto outcome = agree(why)) return *outcome;
    }
  }

 private:
  // From where start_ and folder_ say. Throws RankLost. Collective.
  Outcome run_from() {
    simulation_.reset();
    if (left_) comm_->meet();  // what others held, such as their folders, is free now
    simulation_.emplace(e_, *comm_, trackers_);
    simulation_->follow(former_, begun_, saved_);
    if (state_) {
      simulation_->resume(copy_of(*state_));
    } else if (!folder_.empty()) {
      simulation_->resume(read_manifest(folder_));
    }
    comm_->meet();  // who has read its part waits here, and is not watched yet
    watch();
    outcome_ = simulation_->run();
    Watchdog::get().stop();
    // Rank 0 has saved everything. Who is lost until then is still missed.
    if (survives_) comm_->meet();
    return *outcome_;
  }

  // After a loss: who is left, and what they do. Returns the outcome of a run that is through.
  // Again, if somebody dies meanwhile. Collective.
  std::optional<Outcome> agree(std::string why) {
    for (;;) {
      Watchdog::get().enter("finding out who is left");
      watch();
      Survivors left = survivors(*comm_, why);
      Watchdog::get().stop();
      comm_ = left.comm.get();
      // Of no use, but what simulation_ has may be in their memory, and it needs them for its end.
      former_comms_.push_back(std::exchange(left_, std::move(left.comm)));
      try {
        Restart restart;
        if (comm_->rank() == 0) restart = choose(left.lost);
        comm_->broadcast(restart);
        comm_->broadcast(folder_);
        if (restart.through) {
          if (comm_->rank() != 0) outcome_ = Outcome{.paused = restart.paused};
          return outcome_;
        }
        outcome_.reset();
        begun_ = restart.begun;
        return std::nullopt;
      } catch (const RankLost& lost) {
        why = lost.what();
      }
    }
  }

  // On rank 0: where those that are left begin again, and who is told of it.
  Restart choose(const std::vector<int>& lost_ranks) {
    if (outcome_) return {.through = true, .paused = outcome_->paused};
    const bool remembers = !simulation_ || simulation_->host().state_length() > 0;
    if (simulation_) {
      begun_ = std::max(begun_, simulation_->begun());
      saved_ = std::max(saved_, simulation_->committed());
      if (auto state = remembers ? std::nullopt : simulation_->before_round())
        state_ = std::move(state);
    }
    std::string from = "the beginning";
    int64_t round = former_;
    if (state_) {
      folder_.clear();
      round = state_->round;
      from = message("round ", round + 1);
    } else if (const auto found = find_checkpoint(checkpoint_folder(e_.job))) {
      folder_ = found->folder;
      round = found->round;
      from = message("the checkpoint of round ", round);
    } else {
      FL_CHECK(checkpoint_.empty(), checkpoint_, " is gone, from which this run went on");
      if (remembers) from += ", for want of a checkpoint (checkpoint-every)";
    }
    const std::string lost = names(lost_ranks, places_);
    trackers_.results->add_loss(message("round ", begun_, ": ", lost));
    const std::string what =
        message(lost, " died in round ", begun_, ": ", comm_->size(),
                comm_->size() == 1 ? " rank goes" : " ranks go", " on, numbered anew, from ", from);
    for (Tracker* tracker : trackers_.all) {
      tracker->forget_after(round);
      tracker->note(what, LogLevel::kWarning);
    }
    return {.begun = begun_};
  }

  // Also while an error ends this object: what the alarm uses lives longer.
  void watch() const {
    const auto alarm = [&all = all_, rank = comm_->rank()](const std::string& what) {
      tell(message("rank ", rank, ": ", what, " on ", host_name(), " (stall-timeout)"));
      all.abort(1);
    };
    Watchdog::get().start(read_options<SurvivalOptions>(e_.job).stall_timeout, alarm);
  }

  const Experiment& e_;
  const std::string checkpoint_;     // the folder of one that the run goes on from, or empty
  const Trackers trackers_;          // on rank 0, as what follows
  Communicator& all_;                // of the run's start
  const bool survives_;              // a rank's death
  std::vector<std::string> places_;  // host names by rank, as they were numbered at the start
  const int64_t former_;             // rounds of the run before, which checkpoint_ has

  std::vector<std::unique_ptr<Communicator>> former_comms_;
  std::unique_ptr<Communicator> left_;  // of those that are left, once some were lost
  Communicator* comm_;                  // all_, or theirs
  std::optional<Simulation> simulation_;
  std::optional<Outcome> outcome_;  // of a run that is through

  // Where it begins.
  std::string folder_;                // of a checkpoint
  std::optional<ServerState> state_;  // or from this, on rank 0
  int64_t begun_ = 0;                 // see Restart
  int64_t saved_;                     // the last checkpoint's round
};

}  // namespace

Outcome simulate(const Experiment& e, Communicator& all, const std::string& checkpoint,
                 const Trackers& trackers) {
  return Run(e, all, checkpoint, trackers).complete();
}

}  // namespace fl_sim
