#include "engine/simulation.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <sstream>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/version.h"
#include "engine/lanes.h"
#include "process/interruption.h"
#include "process/test_hooks.h"
#include "process/watchdog.h"

namespace fl_sim {
namespace {

// Records as bytes, and back.
template <class Record>
std::string bytes_of(const std::vector<Record>& records) {
  return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record)};
}
template <class Record>
std::vector<Record> records_of(const std::vector<std::string>& parts) {
  std::vector<Record> records;
  for (const std::string& part : parts) {
    const size_t before = records.size(), n = part.size() / sizeof(Record);
    records.resize(before + n);
    std::memcpy(records.data() + before, part.data(), part.size());
  }
  return records;
}

}  // namespace

ServerState copy_of(const ServerState& state) {
  ServerState copy = state;
  copy.weights = state.weights.clone();
  for (auto& [name, tensor] : copy.shared) tensor = tensor.clone();
  for (auto& [name, tensor] : copy.hidden) tensor = tensor.clone();
  return copy;
}

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

Simulation::Simulation(const Experiment& experiment, Communicator& comm, Results* results,
                       Progress* progress)
    : e_(experiment),
      comm_(comm),
      lanes_(comm, e_.algorithm->needs().lanes),
      host_(experiment, comm, lanes_.all, comm.rank() != 0 || comm.size() == 1),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))) {
  if (comm_.rank() == 0) server_.emplace(e_, comm_.size(), results, progress);
  if (results != nullptr) keeper_.emplace(e_);
  comm_.on_look([this] { attend(); });
  for (const auto& lane : lanes_.own) {
    if (lane != nullptr) lane->on_look([this] { attend(); });
  }
  std::vector<torch::Tensor> rows;
  for (int64_t model = 0; model < e_.algorithm->needs().models; ++model) {
    const bool drawn = server_ && (model == 0 || e_.algorithm->needs().distinct_models);
    rows.push_back(drawn     ? initial_row(e_, model)
                   : server_ ? rows[0]
                             : torch::zeros({e_.network->layout().row()}));
  }
  model_.weights = torch::stack(rows).to(e_.dtype).to(e_.device);
  e_.algorithm->init(model_);
  if (!server_) model_.hidden.clear();
}

Simulation::~Simulation() {
  comm_.on_look({});
  Interruption::get().set_poll({});
}

void Simulation::follow(int64_t former, int64_t begun, int64_t saved) {
  former_ = former;
  begun_ = begun;
  last_saved_ = saved;
}

void Simulation::resume(ServerState state) {
  if (server_) {
    server_->resume_after(state.round, last_saved_);
    server_->restore({}, former_);
  }
  model_ = std::move(state);
}

std::optional<ServerState> Simulation::before_round() {
  if (!before_.weights.defined()) return {};
  server_->finish_evaluation();
  ServerState state = copy_of(before_);
  --state.round;
  return state;
}

void Simulation::check_faults() const {
  for (const Faults::Fault& fault : faults_.all) {
    const bool rank = fault.kind == Faults::Kind::kRankCrash ||
                      fault.kind == Faults::Kind::kRankStall ||
                      fault.kind == Faults::Kind::kSlowRank;
    const int64_t all = rank ? comm_.size() : e_.partition.clients();
    FL_CHECK(fault.round <= e_.job.get<int64_t>("rounds"), "inject names round ", fault.round,
             ", but there are only ", e_.job.get<std::string>("rounds"));
    FL_CHECK(fault.whom < all, "inject names ", rank ? "rank " : "client ", fault.whom,
             ", but there are only 0 to ", all - 1);
  }
}

void Simulation::resume(const Manifest& manifest) {
  const std::vector<int> all = hosts();
  for (size_t i = 1; i < manifest.files.size(); ++i) {  // the first one is the server's
    if (all[(i - 1) % all.size()] == comm_.rank())
      read_clients_file(manifest, manifest.files[i], host_.store());
  }
  const std::vector<std::string> parts = comm_.gather(bytes_of(host_.store().clients()));
  if (!server_) {
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
  model_.round = state.round;
  server_->resume_after(state.round, state.round);
  std::unordered_map<int64_t, int64_t> holders;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    for (const int64_t client : records_of<int64_t>({parts[rank]}))
      holders[client] = static_cast<int64_t>(rank);
  }
  server_->restore(std::move(holders), former_);
}

// Ranks that host clients.
std::vector<int> Simulation::hosts() const {
  std::vector<int> ranks;
  for (int rank = comm_.size() == 1 ? 0 : 1; rank < comm_.size(); ++rank) ranks.push_back(rank);
  return ranks;
}

Outcome Simulation::run() {
  bool paused = false;
  if (server_ && former_ == 0 && begun_ == 0) check_faults();
  // Where everyone is, for messages.
  std::string places;
  for (const std::string& place : comm_.gather(host_name())) places += place + "\n";
  comm_.broadcast(places);
  std::istringstream lines(places);
  for (std::string line; std::getline(lines, line);) places_.push_back(line);
  Interruption::get().set_poll([this] { attend(); });
  comm_.meet();
  comm_.clock() = {};  // what came before was not the run
  for (const auto& lane : lanes_.own) {
    if (lane != nullptr) lane->clock() = {};
  }
  for (;;) {
    if (server_ && comm_.size() == 1) server_->finish_evaluation();

    await_checkpoint();

    // Rank 0 decides, everyone learns.
    const auto start = Clock::now();
    std::string message;
    if (server_) {
      attend();
      message = server_->next(keeper_.has_value()).encode();
    }
    comm_.meet();
    comm_.broadcast(message);
    const RoundPlan plan = RoundPlan::decode(message, comm_.rank());
    // Nobody would be here without the others.
    if (server_) {
      for (int rank = 1; rank < comm_.size(); ++rank) heard_of(rank, "training", plan.round);
    } else {
      heard_of(0, "waiting for others", plan.round);
    }
    if (plan.roll_back) host_.roll_back();
    if (plan.checkpoint > 0) save_clients(plan.checkpoint);
    if (plan.kind == RoundPlan::Kind::kStop || plan.kind == RoundPlan::Kind::kPause) {
      if (plan.checkpoint > 0) save_server(plan.checkpoint);
      paused = plan.kind == RoundPlan::Kind::kPause;
      break;
    }
    if (plan.new_model) broadcast_model();
    if (plan.checkpoint > 0) save_server(plan.checkpoint);
    model_.round = plan.round;
    model_.exchange = plan.exchange;
    host_.begin(plan);
    if (plan.kind == RoundPlan::Kind::kTrain) {
      if (train(plan)) {
        if (server_ && !server_->target_reached())
          server_->end_exchange(model_, seconds_since(start));
      } else if (server_) {
        model_ = before_;
        server_->drop_round();
      }
    } else {
      evaluate(plan);
    }
  }
  return finish(paused);
}

// What comes while others are busy: messages of ranks, the wish to stop, a file that is written.
void Simulation::attend() {
  while (const auto post = comm_.poll()) read(post->first, post->second);
  const Interruption& interruption = Interruption::get();
  if (interruption.requested() && !told_) {
    told_ = true;
    const std::string text = message("S", interruption.signal());
    if (!server_) comm_.post(text, 0);
    for (int rank = 1; server_ && rank < comm_.size(); ++rank) comm_.post(text, rank);
  }
  if (const auto done = writer_.take()) report(*done);
  commit_checkpoint();
  watch_others();
}

void Simulation::heard_of(int rank, const char* what, int64_t round) const {
  Watchdog& dog = Watchdog::get();
  if (!dog.watching()) return;
  dog.heard_of(rank,
               message(what, " in round ", round, " on ", places_[static_cast<size_t>(rank)]));
}

// Everyone tells rank 0 now and then that it lives, and rank 0 everyone.
void Simulation::watch_others() {
  Watchdog& dog = Watchdog::get();
  dog.beat();
  if (!dog.watching() || comm_.size() == 1) return;
  if (dog.due()) {
    const std::string text = message("H", dog.state(), " on ", host_name());
    if (!server_) comm_.post(text, 0);
    for (int rank = 1; server_ && rank < comm_.size(); ++rank) comm_.post(text, rank);
  }
  const std::string silent = dog.silent(server_ ? 1 : 0, server_ ? comm_.size() - 1 : 0);
  if (silent.empty()) return;
  if (keeper_) server_->save(model_, true);
  throw Error(silent + " (stall-timeout)");
}

namespace {

// How a rank says that its file is there.
struct Report {
  char kind = 'C';
  int64_t round = 0, bytes = 0, clients = 0;
  char name[32] = {}, checksum[16] = {}, error[512] = {};
};

}  // namespace

void Simulation::read(int from, const std::string& post) {
  if (post[0] == 'H') {
    Watchdog::get().heard_of(from, post.substr(1));
    return;
  }
  if (post[0] == 'S') {
    Interruption::get().request(std::stoi(post.substr(1)));
    return;
  }
  const Report report = records_of<Report>({post}).at(0);
  if (!keeper_) return;
  try {
    keeper_->add(from, {.round = report.round,
                        .file = {.name = report.name,
                                 .bytes = report.bytes,
                                 .checksum = report.checksum,
                                 .clients = report.clients},
                        .error = report.error});
  } catch (...) {
    server_->save(model_, true);
    throw;
  }
}

void Simulation::report(const CheckpointWriter::Done& done) {
  if (server_) {
    if (keeper_) keeper_->add(comm_.rank(), done);
    return;
  }
  Report report;
  report.round = done.round;
  report.bytes = done.file.bytes;
  report.clients = done.file.clients;
  done.file.name.copy(report.name, sizeof report.name - 1);
  done.file.checksum.copy(report.checksum, sizeof report.checksum - 1);
  done.error.copy(report.error, sizeof report.error - 1);
  comm_.post(bytes_of(std::vector<Report>{report}), 0);
}

// Before anything of the next round: clients' state as it is, by a thread of its own.
void Simulation::save_clients(int64_t round) {
  const std::vector<int> all = hosts();
  const bool hosts_clients = std::find(all.begin(), all.end(), comm_.rank()) != all.end();
  if (!hosts_clients || host_.state_length() == 0) return;
  if (const auto former = writer_.take(true)) report(*former);
  writer_.start(round_folder(checkpoint_folder(e_.job), round), comm_.rank(), round,
                host_.state_length(), e_.dtype, host_.store().capture());
}

// While the hosts train already.
void Simulation::save_server(int64_t round) {
  if (!keeper_) return;
  model_.round = round;
  try {
    keeper_->begin(round, model_, host_.state_length() > 0 ? hosts() : std::vector<int>());
  } catch (...) {
    server_->save(model_, true);
    throw;
  }
}

void Simulation::commit_checkpoint() {
  if (!keeper_ || !keeper_->all_there() || server_->complete_rows() < keeper_->round()) return;
  server_->save(model_, true);
  keeper_->commit();
}

// Rank 0, where a checkpoint is due: until the one before is complete. So a kill never costs more
// rounds than twice as many as lie between two checkpoints, the round under way included.
void Simulation::await_checkpoint() {
  if (!keeper_ || !server_->checkpoint_due()) return;
  Watchdog::get().enter("waiting for a checkpoint", keeper_->round());
  while (keeper_->waiting() && !Interruption::get().requested()) {
    if (server_->complete_rows() < keeper_->round()) server_->finish_evaluation();
    attend();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Simulation::broadcast_model() {
  if (comm_.size() == 1) return;
  Watchdog::get().enter("sharing the model", model_.round);
  comm_.broadcast(model_.weights);
  for (auto& [name, tensor] : model_.shared) comm_.broadcast(tensor);
}

// Each rank trains its groups and adds them into its own part of the sum, lane after lane; rank 0
// takes each lane's sum as soon as it is complete, and evaluates the model that the others started
// from while it waits.
//
// Returns whether every rank did all of its part, or on others than rank 0 whether it did itself.
bool Simulation::train(const RoundPlan& plan) {
  const auto start = Clock::now();
  bool complete = true;
  if (former_ == 0 && plan.round > begun_ && plan.exchange == 0) {
    if (faults_.has(Faults::Kind::kRankCrash, plan.round, comm_.rank())) std::raise(SIGKILL);
    if (faults_.has(Faults::Kind::kRankStall, plan.round, comm_.rank())) std::raise(SIGSTOP);
  }
  if (keeper_ && plan.exchange == 0) before_ = copy_of(model_);
  const auto train_lane = [&](int64_t lane) {
    const Interruption::MayAbandon may(host_.can_roll_back());
    try {
      for (const PlannedGroup& group : plan.groups) {
        if (group.lane == lane && complete) host_.train(group, model_);
      }
    } catch (const Interruption::Abandoned&) {
      complete = false;
    }
  };
  std::vector<int64_t> open;
  for (int64_t lane = 0; lane < std::ssize(lanes_.all); ++lane) {
    if (lanes_.all[static_cast<size_t>(lane)] != nullptr) open.push_back(lane);
  }
  if (!server_) {
    for (const int64_t lane : open) {
      train_lane(lane);
      TestHooks::get().disturb();
      TestHooks::get().hold(plan.round);
      Watchdog::get().enter("waiting for others", plan.round);
      lanes_.all[static_cast<size_t>(lane)]->meet();
      collect(lane, complete);
    }
    return complete;
  }
  for (const int64_t lane : open) {
    train_lane(lane);
    lanes_.all[static_cast<size_t>(lane)]->arrive();
  }
  TestHooks::get().disturb();
  TestHooks::get().hold(plan.round);
  Watchdog::get().enter("waiting for others", plan.round);
  while (!open.empty()) {
    std::vector<Communicator*> arrived;
    double expected = server_->expected_seconds(open[0]);  // of the lane that is through first
    for (const int64_t lane : open) {
      arrived.push_back(lanes_.all[static_cast<size_t>(lane)]);
      expected = std::min(expected, server_->expected_seconds(lane));
    }
    const size_t first = comm_.wait_for_any(
        arrived, [this] { return server_->evaluate_some(); },
        std::max(0.0, expected - seconds_since(start)));
    complete = collect(open[first], complete) && complete;
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return complete;
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
  const bool compares = e_.algorithm->needs().keeps_deltas;
  if (!server_) {
    if (compares) products({});
    return complete;
  }
  for (std::string& part : parts) {
    complete = complete && part.back() == '+';
    part.pop_back();
  }
  if (!complete) {
    if (compares) products({});
    return false;
  }
  if (server_->waits_for_target()) server_->finish_evaluation();
  if (!server_->target_reached()) {
    server_->update(model_, lane, host_.sum(lane), records_of<ClientRecord>(parts),
                    [this](const std::vector<int64_t>& clients) { return products(clients); });
  } else if (compares) {
    products({});
  }
  return true;
}

// Inner products of clients' deltas; rank 0 says of whom, or of nobody.
torch::Tensor Simulation::products(const std::vector<int64_t>& clients) {
  std::string message = bytes_of(clients);
  comm_.broadcast(message);
  const std::vector<int64_t> asked = records_of<int64_t>({message});
  return asked.empty() ? torch::Tensor() : host_.products(asked);
}

void Simulation::evaluate(const RoundPlan& plan) {
  for (const PlannedGroup& group : plan.groups) host_.evaluate(group, model_);
  Watchdog::get().enter("waiting for others", plan.round);
  if (server_) {
    comm_.meet([this] { return server_->evaluate_some(); }, server_->expected_seconds(0));
  } else {
    comm_.meet();
  }
  const std::vector<std::string> parts = comm_.gather(bytes_of(host_.evaluations()));
  if (server_) server_->add_evaluations(records_of<ClientEvaluation>(parts));
}

// The last evaluation, everyone's times, and the file.
Outcome Simulation::finish(bool paused) {
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
  if (server_) {
    server_->finish_evaluation();
    own.evaluate_seconds = server_->evaluate_seconds();
  }
  if (keeper_ && !paused) keeper_->give_up();  // the run is through: it needs no checkpoint
  if (const auto done = writer_.take(true)) report(*done);
  comm_.meet();
  std::vector<RankRecord> ranks;
  for (const std::string& part : comm_.gather({reinterpret_cast<const char*>(&own), sizeof own})) {
    std::memcpy(&ranks.emplace_back(), part.data(), sizeof(RankRecord));
  }
  if (!server_) return Outcome{.paused = paused};
  const Outcome outcome = server_->finish(model_, std::move(ranks), paused);
  if (keeper_) {
    while (paused && keeper_->waiting() && !keeper_->all_there()) {
      attend();  // they are on their way
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (paused) commit_checkpoint();
    if (!paused) remove_checkpoints(keeper_->folder());
  }
  return outcome;
}

}  // namespace fl_sim
