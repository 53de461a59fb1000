// How a simulation begins, what it saves, and the faults that a job asks for.
#include "engine/simulation.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "engine/client_state.h"
#include "engine/lanes.h"
#include "engine/planner.h"
#include "engine/record_bytes.h"
#include "engine/traffic.h"
#include "engine/virtual_clock.h"
#include "process/failure.h"
#include "process/interruption.h"
#include "process/watchdog.h"

namespace fl_sim {

// Its beginning -----------------------------------------------------------------------------------

ServerState copy_of(const ServerState& state) {
  ServerState copy = state;
  copy.weights = state.weights.clone();
  for (State* tensors : {&copy.shared, &copy.hidden, &copy.memory}) {
    for (auto& [name, tensor] : *tensors) tensor = tensor.clone();
  }
  return copy;
}

ServerState first_state(const Experiment& e, bool root) {
  const Needs needs = e.algorithm->needs();
  std::vector<torch::Tensor> rows;
  for (int64_t model = 0; model < needs.models; ++model) {
    const bool drawn = root && (model == 0 || needs.distinct_models);
    rows.push_back(drawn  ? initial_row(e, model)
                   : root ? rows[0]
                          : torch::zeros({e.network->layout().row()}));
  }
  ServerState state;
  state.weights = torch::stack(rows).to(e.dtype).to(e.device);
  e.algorithm->init(state);
  for (const auto& [name, transform] : e.transforms) transform->init(state);
  if (root) {
    for (auto& [name, tensor] : planning_memory(e)) state.memory[name] = tensor;
  } else {
    state.hidden.clear();
    state.memory.clear();
  }
  return state;
}

namespace {

// Clients' states that cannot all stay in memory are found before round 1, by planning rounds until
// there are too many; of samplers that follow what is learnt the first one alone is known.
void check_state_memory(const Experiment& e, int64_t hosts, const Traffic& traffic) {
  const int64_t bytes = state_layout(e).length() * static_cast<int64_t>(c10::elementSize(e.dtype));
  const int64_t limit = e.job.get<int64_t>("state-memory") << 20;
  if (bytes == 0 || limit == 0 || e.job.get<std::string>("state-dir") != "none") return;
  const int64_t fit = limit / bytes * hosts;
  if (e.may_train() <= fit) return;
  const int64_t rounds = e.sampler->draws_anytime() ? e.job.get<int64_t>("rounds") : 1;
  const double drawn = std::ceil(read_options<ClockOptions>(e.job).over_commit *
                                 static_cast<double>(e.job.get<int64_t>("cohort")));
  if (static_cast<double>(rounds) * drawn <= static_cast<double>(fit)) return;
  Planner planner(e, 1, traffic);
  State memory = planning_memory(e);
  std::unordered_set<int64_t> kept;
  while (planner.round() < rounds) {
    const RoundPlan plan = planner.next_unanswered(memory);
    if (plan.kind == RoundPlan::Kind::kStop || plan.kind == RoundPlan::Kind::kPause) return;
    if (plan.kind != RoundPlan::Kind::kTrain) continue;
    for (const PlannedGroup& group : plan.groups) kept.insert(group.ids.begin(), group.ids.end());
    FL_CHECK(std::ssize(kept) <= fit, "algorithm ", e.job.get<std::string>("algorithm"), " keeps ",
             bytes, " bytes of each client that took part, which are ", std::ssize(kept), " of ",
             e.may_train(), " in round ", plan.round, " and need ", std::ssize(kept) * bytes,
             " bytes, but state-memory is ", limit, " bytes",
             hosts > 1 ? message(" on each of ", hosts, " hosts") : "",
             " (raise it, or name a folder in state-dir for the states that do not fit)");
    if (planner.last_exchange()) planner.end_round(memory);
  }
}

}  // namespace

Simulation::Lanes::Lanes(Communicator& comm, int64_t lanes) {
  if (lanes == 1) {
    all = {&comm};
    return;
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    std::vector<int> ranks = lane_hosts(lane, lanes, comm.size());
    if (ranks[0] != 0) ranks.insert(ranks.begin(), 0);
    own.push_back(Communicator::among(comm, ranks));
    all.push_back(own.back().get());
  }
}

Simulation::Simulation(const Experiment& experiment, Communicator& comm, Trackers trackers)
    : e_(experiment),
      comm_(comm),
      needs_(e_.algorithm->needs()),
      lanes_(comm, needs_.lanes),
      host_(experiment, comm, lanes_.all, comm.rank() != 0 || comm.size() == 1),
      attendance_(
          comm,
          [this](int rank, const CheckpointWriter::Done& done) {
            if (keeper_) keeper_->add(rank, done);
          },
          [this] { announce_stop(); }),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))) {
  const bool has_results = trackers.results != nullptr;
  if (comm_.rank() == 0) {
    root_.emplace(e_, comm_.size(), std::move(trackers));
    if (has_results) {
      keeper_.emplace(e_);
      root_->ledger.before_shown([this] { root_->ledger.save(last_whole_model(), true); });
    }
  }
  attendance_.after_look([this] { commit_checkpoint(); });
  attendance_.watch(comm_);
  for (const auto& lane : lanes_.own) {
    if (lane != nullptr) attendance_.watch(*lane);
  }
  model_ = first_state(e_, root_.has_value());
  if (!root_) return;
  const Traffic traffic = client_traffic(e_, model_);
  check_state_memory(e_, std::max(1, comm_.size() - 1), traffic);
  root_->planner.charge(traffic);
  root_->server.hold_to(model_);
}

void Simulation::follow(int64_t former, int64_t begun, int64_t saved) {
  former_ = former;
  begun_ = begun;
  last_saved_ = saved;
}

void Simulation::resume(ServerState state) {
  if (root_) {
    root_->planner.resume_after(state.round, last_saved_, {}, state.drawn);
    root_->ledger.restore(state.round, former_);
  }
  model_ = std::move(state);
}

void Simulation::resume(const Manifest& manifest) {
  const std::vector<int> all = hosts();
  for (size_t i = 1; i < manifest.files.size(); ++i) {  // the first one is the server's
    if (all[(i - 1) % all.size()] == comm_.rank())
      read_clients_file(manifest, manifest.files[i], host_.store());
  }
  const std::vector<std::string> parts = comm_.gather(bytes_of(host_.store().clients()));
  if (!root_) {
    model_.round = manifest.round;
    return;
  }
  ServerState state = read_server_file(manifest);
  const auto fits = [](const torch::Tensor& a, const torch::Tensor& b) {
    return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type();
  };
  const auto place = [&](State& own, const State& saved) {
    FL_CHECK(own.size() == saved.size(), manifest.folder, ": holds ", saved.size(),
             " tensors of the server where this job has ", own.size());
    for (auto& [name, tensor] : own) {
      const auto found = saved.find(name);
      FL_CHECK(found != saved.end() && fits(tensor, found->second), manifest.folder,
               ": holds no tensor '", name, "' of the server that fits this job's");
      tensor.copy_(found->second);
    }
  };
  FL_CHECK(fits(model_.weights, state.weights), manifest.folder, ": holds a model of shape ",
           state.weights.sizes(), ", this job's is ", model_.weights.sizes());
  model_.weights.copy_(state.weights);
  place(model_.shared, state.shared);
  place(model_.hidden, state.hidden);
  place(model_.memory, state.memory);
  for (auto& [version, model] : state.versions) {
    FL_CHECK(fits(model_.weights, model.weights), manifest.folder, ": holds version ", version,
             " of the model in shape ", model.weights.sizes(), ", this job's is ",
             model_.weights.sizes());
    model_.versions[version] = {.round = version + 1,
                                .weights = model.weights.to(e_.device),
                                .shared = std::move(model.shared)};
    for (auto& [name, tensor] : model_.versions[version].shared) tensor = tensor.to(e_.device);
  }
  model_.round = state.round;
  std::unordered_map<int64_t, int64_t> holders;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    for (const int64_t client : records_of<int64_t>({parts[rank]}))
      holders[client] = static_cast<int64_t>(rank);
  }
  root_->planner.resume_after(state.round, state.round, std::move(holders), std::move(state.drawn));
  root_->ledger.restore(state.round, former_);
}

std::optional<ServerState> Simulation::before_round() {
  if (!root_->before.weights.defined()) return {};
  root_->ledger.finish_evaluation();
  ServerState state = copy_of(root_->before);
  --state.round;
  return state;
}

// Ranks that host clients.
std::vector<int> Simulation::hosts() const {
  std::vector<int> ranks;
  for (int rank = comm_.size() == 1 ? 0 : 1; rank < comm_.size(); ++rank) ranks.push_back(rank);
  return ranks;
}

// Checkpoints
// ---------------------------------------------------------------------------------------

// Before anything of the next round: clients' state as it is, by a thread of its own, and on rank 0
// the server's, while the hosts train already.
void Simulation::save_checkpoint(int64_t round) {
  const std::vector<int> all = hosts();
  const bool hosts_clients = std::find(all.begin(), all.end(), comm_.rank()) != all.end();
  if (hosts_clients && host_.state_length() > 0) {
    attendance_.report_file(/*wait=*/true);  // of a former one
    attendance_.writer().start(round_folder(checkpoint_folder(e_.job), round), comm_.rank(), round,
                               host_.state_length(), e_.dtype, host_.store().capture());
  }
  if (!keeper_) return;
  model_.round = round;
  keeper_->begin(round, model_, host_.state_length() > 0 ? all : std::vector<int>());
}

void Simulation::commit_checkpoint() {
  if (!keeper_ || !keeper_->all_there() || root_->ledger.complete_rows() < keeper_->round()) return;
  root_->ledger.save(model_, true);
  keeper_->commit();
}

// Where a checkpoint is due: until the one before is complete. So a kill never costs more rounds
// than twice as many as lie between two checkpoints, the round under way included.
void Simulation::wait_for_checkpoint() {
  if (!keeper_ || !root_->planner.checkpoint_due(root_->ledger.over())) return;
  Watchdog::get().enter("waiting for a checkpoint", keeper_->round());
  while (keeper_->waiting() && !Interruption::get().requested()) {
    if (root_->ledger.complete_rows() < keeper_->round()) root_->ledger.finish_evaluation();
    attendance_.look();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Ends
// ----------------------------------------------------------------------------------------------

const ServerState& Simulation::last_whole_model() const {
  const bool within =
      root_->before.weights.defined() && root_->ledger.rounds() < root_->before.round;
  return within ? root_->before : model_;
}

// On rank 0, when a signal asks the run to stop: whoever sent it may not wait for the round.
void Simulation::announce_stop() {
  if (!keeper_) return;
  root_->ledger.save(last_whole_model(), true);
  root_->ledger.note(message(Interruption::get().origin(), " asks the run to stop: it ends after ",
                             "the round under way, or after ", e_.job.get<std::string>("grace"),
                             " s without it (grace); a second signal ends it at once"),
                     LogLevel::kWarning);
  // Rounds that are trained but not evaluated, which the model has learnt from.
  root_->ledger.finish_evaluation();
  root_->ledger.save(last_whole_model(), true);
}

// With what is being thrown, on any rank: the results are written as they are. A round that is
// trained but not evaluated is evaluated first, where there is time for that.
void Simulation::end_by_error() noexcept {
  const std::string why = text_of_error();
  bool hurry = Interruption::get().requested();
  bool of_another = false;
  try {
    throw;
  } catch (const RankGone& gone) {  // those that are left have a second, under most launchers
    hurry = of_another = true;
    if (gone.rank == 0) return;
  } catch (const FailedElsewhere& failed) {
    hurry = of_another = failed.gone;
  } catch (...) {
  }
  if (!root_) {
    attendance_.fail(why, of_another);
    return;
  }
  if (of_another) tell(why);
  if (!keeper_) return;
  root_->ledger.save_what_there_is(last_whole_model());
  root_->ledger.finish_by_error(hurry);
  root_->ledger.save_what_there_is(last_whole_model());
}

// Faults
// --------------------------------------------------------------------------------------------

void Simulation::inject_rank_faults(const RoundPlan& plan) const {
  if (former_ > 0 || plan.round <= begun_ || plan.exchange > 0) return;
  if (faults_.has(Faults::Kind::kRankCrash, plan.round, comm_.rank())) std::raise(SIGKILL);
  FL_CHECK(!faults_.has(Faults::Kind::kRankError, plan.round, comm_.rank()), "an error in round ",
           plan.round, ", as inject asks for (rank-error)");
  if (faults_.has(Faults::Kind::kRankStall, plan.round, comm_.rank())) std::raise(SIGSTOP);
}

void Simulation::check_faults() const {
  for (const Faults::Fault& fault : faults_.all) {
    const bool rank =
        fault.kind == Faults::Kind::kRankCrash || fault.kind == Faults::Kind::kRankError ||
        fault.kind == Faults::Kind::kRankStall || fault.kind == Faults::Kind::kSlowRank;
    const int64_t all = rank ? comm_.size() : e_.partition.clients();
    FL_CHECK(fault.round <= e_.job.get<int64_t>("rounds"), "inject names round ", fault.round,
             ", but there are only ", e_.job.get<std::string>("rounds"));
    FL_CHECK(fault.whom < all, "inject names ", rank ? "rank " : "client ", fault.whom,
             ", but there are only 0 to ", all - 1);
  }
}

}  // namespace fl_sim
