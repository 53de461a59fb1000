#include "commands/timetables.h"

#include <vector>

#include "engine/planner.h"
#include "engine/simulation.h"
#include "engine/traffic.h"

namespace fl_sim {

void each_timed_round(const Experiment& e, const std::function<void(const TimedRound&)>& use) {
  ServerState model = first_state(e, /*root=*/true);
  Planner planner(e, 1);
  planner.charge(client_traffic(e, model));
  for (;;) {
    RoundPlan plan = planner.next_unanswered(model.memory);
    if (plan.kind != RoundPlan::Kind::kTrain) return;
    while (!planner.last_exchange()) plan = planner.next({}, model.memory);
    std::vector<ClientRecord> drawn;
    for (const TimedTask& task : planner.timetable().tasks)
      drawn.emplace_back().client = task.client;
    e.sampler->learn(model.memory, drawn);
    const VirtualRound times = planner.end_round(model.memory);
    use({planner.round(), planner.timetable(), times, planner.evaluates(planner.round()),
         planner.asynchronous()});
  }
}

}  // namespace fl_sim
