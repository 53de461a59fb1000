#include "engine/simulation.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/version.h"
#include "engine/record_bytes.h"
#include "engine/survival_options.h"
#include "engine/traffic.h"
#include "process/interruption.h"
#include "process/rank_lost.h"
#include "process/test_hooks.h"
#include "process/watchdog.h"

namespace fl_sim {
Outcome Simulation::run() {
  if (root_ && former_ == 0 && begun_ == 0) check_faults();
  try {
    return run_rounds();
  } catch (const RankLost&) {
    throw;  // the others go on
  } catch (...) {
    end_by_error();
    throw;
  }
}

Outcome Simulation::run_rounds() {
  attendance_.begin(/*misses=*/!read_options<SurvivalOptions>(e_.job).goes_on());
  comm_.meet();
  comm_.clock() = {};  // what came before was not the run
  for (const auto& lane : lanes_.own) {
    if (lane != nullptr) lane->clock() = {};
  }
  for (;;) {
    // Rank 0 decides, everyone learns.
    if (root_ && comm_.size() == 1) root_->ledger.finish_evaluation();
    const auto start = Clock::now();
    std::string message = root_ ? next_plan().encode() : "";
    comm_.meet();
    comm_.broadcast(message);
    const RoundPlan plan = RoundPlan::decode(message, comm_.rank());
    for (int rank = 1; root_ && rank < comm_.size(); ++rank)
      attendance_.heard_of(rank, "training", plan.round);
    if (!root_) attendance_.heard_of(0, "waiting for others", plan.round);

    if (plan.roll_back) host_.roll_back();
    if (plan.kind == RoundPlan::Kind::kStop || plan.kind == RoundPlan::Kind::kPause) {
      if (plan.checkpoint > 0) save_checkpoint(plan.checkpoint);
      return finish(plan.kind == RoundPlan::Kind::kPause);
    }
    if (plan.new_model) broadcast_model();
    share_versions(plan);
    if (plan.checkpoint > 0) save_checkpoint(plan.checkpoint);
    model_.round = plan.round;
    model_.exchange = plan.exchange;
    host_.begin(plan);
    if (plan.kind == RoundPlan::Kind::kEvaluate) {
      evaluate(plan);
    } else if (plan.kind == RoundPlan::Kind::kAsk) {
      if (const bool complete = ask(plan); root_ && !complete) {  // nothing has changed so far
        root_->planner.drop_round();
        root_->ledger.drop_round();
      }
    } else if (const bool complete = train(plan); root_ && complete) {
      end_exchange(seconds_since(start));
    } else if (root_) {
      model_ = std::move(root_->before);
      root_->planner.drop_round();
      root_->ledger.drop_round();
    }
  }
}

RoundPlan Simulation::next_plan() {
  attendance_.look();
  wait_for_checkpoint();
  const bool interrupted = Interruption::get().requested();
  // What is saved is without a round that is thrown away.
  if (interrupted || (root_->planner.keeps_end() && root_->ledger.may_end_early()))
    root_->ledger.finish_evaluation();
  RoundPlan plan = root_->planner.next(
      {.over = root_->ledger.over(), .interrupted = interrupted, .may_save = keeper_.has_value()},
      model_.memory);
  const bool works = plan.kind != RoundPlan::Kind::kStop && plan.kind != RoundPlan::Kind::kPause;
  if (works) root_->ledger.begin(plan);
  model_.drawn = root_->planner.drawn();
  return plan;
}

void Simulation::broadcast_model() {
  if (comm_.size() == 1) return;
  Watchdog::get().enter("sharing the model", model_.round);
  comm_.broadcast(model_.weights);
  for (auto& [name, tensor] : model_.shared) comm_.broadcast(tensor);
}

// Versions of the model that tasks have started from: what hosts need from now on, and rank 0 as
// long as something is under way from it. The newest one is that of the last round.
void Simulation::share_versions(const RoundPlan& plan) {
  if (plan.kind != RoundPlan::Kind::kTrain) return;
  std::set<int64_t> here(plan.bases.begin(), plan.bases.end());
  if (root_) here.merge(root_->planner.held());
  const auto like = [&](const GlobalModel& model) {
    GlobalModel copy{.round = 0, .weights = model.weights.clone(), .shared = model.shared};
    for (auto& [name, tensor] : copy.shared) tensor = tensor.clone();
    return copy;
  };
  const int64_t newest = plan.round - 1;
  std::erase_if(model_.versions, [&](const auto& entry) { return !here.contains(entry.first); });
  if (here.contains(newest)) model_.versions[newest] = like(model_);
  for (const int64_t version : plan.sends) {
    GlobalModel& sent = model_.versions.try_emplace(version, GlobalModel()).first->second;
    if (!root_) sent = like(model_);
    FL_CHECK(sent.weights.defined(), "version ", version,
             " of the model, from which clients have started, is not there");
    comm_.broadcast(sent.weights);
    for (auto& [name, tensor] : sent.shared) comm_.broadcast(tensor);
  }
  for (auto& [version, model] : model_.versions) model.round = version + 1;
}

// Clients say what the sampler asks; they train nothing that is kept. Returns as train() does.
bool Simulation::ask(const RoundPlan& plan) {
  inject_rank_faults(plan);
  if (root_ && keeper_) root_->before = copy_of(model_);
  bool complete = true;
  std::vector<Answer> answers;
  const Interruption::MayAbandon may(true);
  try {
    for (const PlannedGroup& group : plan.groups) {
      for (const Answer& answer : host_.ask(group, model_)) answers.push_back(answer);
    }
  } catch (const Interruption::Abandoned&) {
    complete = false;
  }
  TestHooks::get().disturb();
  TestHooks::get().hold(plan.round);
  Watchdog::get().enter("waiting for others", plan.round);
  if (root_) {
    comm_.meet([this] { return root_->ledger.evaluate_some(); },
               root_->planner.expected_seconds(0));
  } else {
    comm_.meet();
  }
  std::string own = bytes_of(answers);
  own.push_back(complete ? '+' : '-');
  std::vector<std::string> parts = comm_.gather(own);
  for (std::string& part : parts) {
    complete = complete && part.back() == '+';
    part.pop_back();
  }
  if (root_ && complete) {
    root_->planner.end_asking(records_of<Answer>(parts));
    root_->ledger.charge(root_->planner.asking_traffic());
  }
  return complete;
}

// Each rank trains its groups and adds them into its own part of the sum, lane after lane; rank 0
// takes each lane's sum as soon as it is complete, and evaluates the model that the others started
// from while it waits.
//
// Returns whether every rank did all of its part, or on others than rank 0 whether it did itself.
bool Simulation::train(const RoundPlan& plan) {
  inject_rank_faults(plan);
  std::vector<int64_t> open;
  for (int64_t lane = 0; lane < std::ssize(lanes_.all); ++lane) {
    if (lanes_.all[static_cast<size_t>(lane)] != nullptr) open.push_back(lane);
  }
  if (root_) return train_as_root(plan, std::move(open));
  bool complete = true;
  for (const int64_t lane : open) {
    complete = complete && train_lane(plan, lane);
    TestHooks::get().disturb();
    TestHooks::get().hold(plan.round);
    Watchdog::get().enter("waiting for others", plan.round);
    lanes_.all[static_cast<size_t>(lane)]->meet();
    collect(lane, complete);
  }
  return complete;
}

bool Simulation::train_as_root(const RoundPlan& plan, std::vector<int64_t> open) {
  const auto start = Clock::now();
  if (keeper_ && plan.exchange == 0) root_->before = copy_of(model_);
  root_->trained.clear();
  bool complete = true;
  for (const int64_t lane : open) {
    complete = complete && train_lane(plan, lane);
    lanes_.all[static_cast<size_t>(lane)]->arrive();
  }
  TestHooks::get().disturb();
  TestHooks::get().hold(plan.round);
  Watchdog::get().enter("waiting for others", plan.round);
  while (!open.empty()) {
    std::vector<Communicator*> arrived;
    double expected =
        root_->planner.expected_seconds(open[0]);  // of the lane that is through first
    for (const int64_t lane : open) {
      arrived.push_back(lanes_.all[static_cast<size_t>(lane)]);
      expected = std::min(expected, root_->planner.expected_seconds(lane));
    }
    const size_t first = comm_.wait_for_any(
        arrived, [this] { return root_->ledger.evaluate_some(); },
        std::max(0.0, expected - seconds_since(start)));
    complete = collect(open[first], complete) && complete;
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return complete;
}

// Whether it was not abandoned.
bool Simulation::train_lane(const RoundPlan& plan, int64_t lane) {
  const Interruption::MayAbandon may(host_.can_roll_back());
  try {
    for (const PlannedGroup& group : plan.groups) {
      if (group.lane != lane) continue;
      host_.train(group, group.base < 0 ? model_ : model_.versions.at(group.base));
    }
  } catch (const Interruption::Abandoned&) {
    return false;
  }
  return true;
}

// One lane's sum and records to rank 0, which makes the new model of them, if `complete` on all
// ranks: returns that.
bool Simulation::collect(int64_t lane, bool complete) {
  Communicator& comm = *lanes_.all[static_cast<size_t>(lane)];
  Watchdog::get().enter("adding up", model_.round);
  comm.sum_to_root(host_.sum(lane).buffer());
  std::string own = bytes_of(host_.records(lane));
  own.push_back(complete ? '+' : '-');
  std::vector<std::string> parts = comm.gather(own);
  for (std::string& part : parts) {
    complete = complete && part.back() == '+';
    part.pop_back();
  }
  if (root_ && complete && root_->ledger.may_end_early()) root_->ledger.finish_evaluation();
  const bool counts = root_ && complete && !root_->ledger.over();
  Meeting meeting;
  if (counts) meeting = decide_meeting(lane, records_of<ClientRecord>(parts));
  std::vector<torch::Tensor> met;
  if (needs_.keeps_deltas || e_.aggregator->sees_clients()) {
    std::string bytes = root_ ? meeting.encode() : "";
    comm_.broadcast(bytes);
    met = host_.meet(Meeting::decode(bytes));
  }
  if (counts) root_->server.step(model_, met);
  return complete;
}

Meeting Simulation::decide_meeting(int64_t lane, std::vector<ClientRecord> records) {
  root_->trained.insert(root_->trained.end(), records.begin(), records.end());
  const std::vector<ClientRecord> absent = root_->planner.absent(lane);
  records.insert(records.end(), absent.begin(), absent.end());
  std::sort(records.begin(), records.end(), [](const ClientRecord& a, const ClientRecord& b) {
    return std::pair(a.client, a.dispatch) < std::pair(b.client, b.dispatch);
  });
  root_->planner.put_times(records);
  Traffic each = client_traffic(e_, model_);
  if (root_->planner.asked()) each.down = 0;  // they have the model
  root_->ledger.add(records, each);
  root_->server.multiply(root_->planner.factor());
  const AsyncRounds::Mixing mixing = root_->planner.mixing(records);
  Meeting meeting = root_->server.take(model_, lane, host_.sum(lane), std::move(records), mixing);
  root_->ledger.leave_out(root_->server.left_out());
  return meeting;
}

// On rank 0.
void Simulation::end_exchange(double seconds) {
  Planner& planner = root_->planner;
  Ledger& ledger = root_->ledger;
  if (ledger.over()) return;  // the round is thrown away
  ledger.end_exchange(seconds);
  planner.end_exchange(root_->trained);
  if (!planner.last_exchange()) return;
  const std::vector<ClientRecord> records = ledger.records();
  const Figures figures = root_->server.end_round(model_, records, planner.learned_from(records));
  ledger.end_round(model_, figures, planner.end_round(model_.memory),
                   {.test_set = planner.evaluates(model_.round),
                    .clients = planner.clients_evaluate(model_.round)},
                   planner.hosts(), planner.absent_clients());
}

// Clients look at the model that is evaluated, which need not be the one that they are sent.
void Simulation::evaluate(const RoundPlan& plan) {
  torch::Tensor models = model_.weights;
  if (needs_.evaluates_apart) {
    if (root_) models = e_.algorithm->evaluated(model_).clone();
    int64_t rows = models.size(0);
    comm_.broadcast(rows);
    if (!root_) models = torch::empty({rows, models.size(1)}, models.options());
    comm_.broadcast(models);
  }
  for (const PlannedGroup& group : plan.groups) host_.evaluate(group, model_, models);
  Watchdog::get().enter("waiting for others", plan.round);
  if (root_) {
    comm_.meet([this] { return root_->ledger.evaluate_some(); },
               root_->planner.expected_seconds(0));
  } else {
    comm_.meet();
  }
  std::vector<ClientEvaluation> evaluations = comm_.gather_records(host_.evaluations());
  if (!root_) return;
  std::sort(evaluations.begin(), evaluations.end(),
            [](const auto& a, const auto& b) { return a.client < b.client; });
  e_.sampler->learn_evaluations(model_.memory, evaluations);
  root_->ledger.add_evaluations(std::move(evaluations));
}

// The last evaluation, everyone's times, and what is told of the end.
Outcome Simulation::finish(bool paused) {
  RankRecord own = own_times();
  if (root_) {
    root_->ledger.finish_evaluation();
    own.evaluate_seconds = root_->ledger.evaluate_seconds();
  }
  const bool keeps = root_ && (paused || root_->planner.keeps_end());
  if (keeper_ && !keeps) keeper_->give_up();  // the run is through: it needs no checkpoint
  attendance_.report_file(/*wait=*/true);
  comm_.meet();
  std::vector<RankRecord> ranks = comm_.gather_records(std::vector<RankRecord>{own});
  if (!root_) return Outcome{.paused = paused};
  const Outcome outcome = root_->ledger.finish(model_, std::move(ranks), paused);
  if (keeper_) {
    while (keeps && keeper_->waiting() && !keeper_->all_there()) {
      attendance_.look();  // they are on their way
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (keeps) commit_checkpoint();
    if (!keeps) remove_checkpoints(keeper_->folder());
  }
  return outcome;
}

RankRecord Simulation::own_times() const {
  RankRecord own{.rank = comm_.rank(),
                 .compute_seconds = host_.compute_seconds(),
                 .wait_seconds = comm_.clock().wait,
                 .comm_seconds = comm_.clock().communicate};
  for (const auto& lane : lanes_.own) {
    if (lane == nullptr) continue;
    own.wait_seconds += lane->clock().wait;
    own.comm_seconds += lane->clock().communicate;
  }
  host_name().copy(own.host, sizeof own.host - 1);
  e_.device.str().copy(own.device, sizeof own.device - 1);
  return own;
}

}  // namespace fl_sim
