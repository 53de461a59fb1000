#include "engine/rank_loss.h"

#include <algorithm>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/version.h"
#include "engine/simulation.h"
#include "process/interruption.h"
#include "process/watchdog.h"
#include "storage/checkpoint.h"

namespace fl_sim {
namespace {

// Where a simulation begins.
struct Start {
  std::string folder;                // of a checkpoint
  std::optional<ServerState> state;  // or from this, on rank 0
  int64_t begun = 0;                 // rounds that were begun before ranks were lost
  int64_t saved = 0;                 // the last checkpoint's
};

void watch(const Experiment& e, Communicator& comm) {
  Watchdog::get().start(e.job.get<double>("stall-timeout"), [&comm](const std::string& what) {
    std::cerr << "fl_sim: rank " << comm.rank() << ": " << what << " on " << host_name()
              << " (stall-timeout)" << std::endl;
    comm.abort(1);
  });
}

std::string names(const std::vector<int>& ranks, const std::vector<std::string>& places) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    const char* between = i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ";
    text += message(between, ranks[i], " (", places[static_cast<size_t>(ranks[i])], ")");
  }
  return text;
}

}  // namespace

Outcome simulate(const Experiment& e, Communicator& all, const std::string& checkpoint,
                 const Trackers& trackers) {
  const bool survives = e.job.get<std::string>("on-rank-loss") == "continue" && all.size() > 1;
  Communicator* comm = &all;
  const std::vector<std::string> places = all.gather(host_name());
  const int64_t former = checkpoint.empty() ? 0 : read_manifest(checkpoint).round;
  Start start{.folder = checkpoint, .state = {}, .saved = former};
  std::optional<Outcome> outcome;  // of a run that is through
  std::optional<Simulation> simulation;

  // On rank 0: where those that are left begin again, and who is told of it.
  const auto choose_start = [&](const Communicator::Survivors& left) {
    const bool remembers = !simulation || simulation->host().state_length() > 0;
    if (simulation) {
      start.begun = std::max(start.begun, simulation->begun());
      start.saved = std::max(start.saved, simulation->committed());
      if (auto state = remembers ? std::nullopt : simulation->before_round())
        start.state = std::move(state);
    }
    std::string from = "the beginning";
    int64_t round = former;
    if (start.state) {
      start.folder.clear();
      round = start.state->round;
      from = message("round ", round + 1);
    } else if (const auto found = find_checkpoint(checkpoint_folder(e.job))) {
      start.folder = found->folder;
      round = found->round;
      from = message("the checkpoint of round ", round);
    } else {
      FL_CHECK(checkpoint.empty(), checkpoint, " is gone, from which this run went on");
      if (remembers) from += ", for want of a checkpoint (checkpoint-every)";
    }
    const std::string lost = names(left.lost, places);
    trackers.results->add_loss(message("round ", start.begun, ": ", lost));
    const std::string what = message(lost, " died in round ", start.begun, ": ", left.comm->size(),
                                     left.comm->size() == 1 ? " rank goes" : " ranks go",
                                     " on, numbered anew, from ", from);
    for (Tracker* tracker : trackers.all) {
      tracker->forget_after(round);
      tracker->note(what, LogLevel::kWarning);
    }
  };

  for (;;) {
    std::string why;
    try {
      simulation.reset();
      if (comm != &all) comm->meet();  // what others held, such as their folders, is free now
      simulation.emplace(e, *comm, trackers);
      simulation->follow(former, start.begun, start.saved);
      if (start.state) {
        simulation->resume(copy_of(*start.state));
      } else if (!start.folder.empty()) {
        simulation->resume(read_manifest(start.folder));
      }
      comm->meet();  // who has read its part waits here, and is not watched yet
      watch(e, *comm);
      outcome = simulation->run();
      Watchdog::get().stop();
      // Rank 0 has saved everything. Who is lost until then is still missed.
      if (survives) comm->meet();
      return *outcome;
    } catch (const RankLost& lost) {
      why = lost.what();
      Interruption::get().set_poll({});  // the simulation's messages are over
    }
    for (bool ready = false; !ready;) {
      Watchdog::get().enter("finding out who is left");
      watch(e, *comm);
      const Communicator::Survivors left = comm->survivors(why);
      Watchdog::get().stop();
      comm = left.comm;
      try {
        const bool through = comm->rank() == 0 && outcome;
        if (comm->rank() == 0 && !through) choose_start(left);
        std::string text =
            message(through ? (outcome->paused ? 'P' : 'E') : ' ', start.begun, " ", start.folder);
        comm->broadcast(text);
        if (text[0] != ' ') {
          if (comm->rank() != 0) outcome = Outcome{.paused = text[0] == 'P'};
          return *outcome;
        }
        outcome.reset();
        start.begun = std::stoll(text);
        start.folder = text.substr(text.find(' ', 1) + 1);
        ready = true;
      } catch (const RankLost& lost) {  // another one, meanwhile
        why = lost.what();
      }
    }
  }
}

}  // namespace fl_sim
