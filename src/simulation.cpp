#include "simulation.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "check.h"
#include "local_training.h"
#include "test_hooks.h"

namespace fl_sim {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The delta first, then the algorithm's further vectors by name.
std::vector<int64_t> sum_sizes(const Network& network, const VectorSizes& extra) {
  std::vector<int64_t> sizes = {network.layout().row()};
  for (const auto& [name, size] : extra) sizes.push_back(size);
  return sizes;
}

Samples to_device(const Samples& samples, torch::Device device) {
  return {samples.inputs.to(device), samples.labels.to(device)};
}

int64_t bytes(const torch::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

}  // namespace

Simulation::Simulation(Experiment& experiment, Communicator& comm, Results* results, Progress* progress)
    : e_(experiment),
      comm_(comm),
      results_(results),
      progress_(progress),
      seed_(static_cast<uint64_t>(e_.job.get<int64_t>("seed"))),
      rounds_(e_.job.get<int64_t>("rounds")),
      group_size_(e_.job.get<int64_t>("group-size")),
      evaluate_every_(e_.job.get<int64_t>("evaluate-every")),
      target_accuracy_(e_.job.get<double>("target-accuracy")),
      state_sizes_(e_.algorithm->client_state()),
      extra_sizes_(e_.algorithm->additive()),
      data_{is_server() && comm.size() > 1 ? Samples{} : to_device(e_.data.train, e_.device), e_.data.scale, e_.data.shift, &e_.partition},
      sum_(sum_sizes(*e_.network, extra_sizes_),
           e_.job.get<std::string>("sum") == "exact" ? SumKind::kExact : SumKind::kFloat, e_.device) {
  torch::Tensor row = torch::zeros({e_.network->layout().row()});
  if (is_server()) {
    Rng rng(seed_, "weights");
    row = e_.network->initial_row(rng);
    evaluator_.emplace(*e_.network, to_device(e_.data.test, e_.device), e_.data.scale, e_.data.shift,
                       [this](const TestResult& result) { evaluated(result); });
  }
  server_.weights = row.unsqueeze(0).to(e_.dtype).to(e_.device);
  e_.algorithm->init(server_);
}

Outcome Simulation::run() {
  comm_.meet();
  comm_.clock() = {};  // what came before was not the run
  for (int64_t round = 1; round <= rounds_ + 1; ++round) {
    const auto start = Clock::now();
    if (is_server() && comm_.size() == 1) evaluator_->finish();

    std::string message;
    if (is_server()) message = plan_round(round).encode();
    comm_.meet();
    comm_.broadcast(message);
    const RoundPlan plan = RoundPlan::decode(message);
    if (plan.stop) break;

    server_.round = round;
    broadcast_model();
    move_client_state(plan);

    sum_.clear();
    own_records_.clear();
    weigh_cohort(plan.cohort);
    for (const PlannedGroup& group : plan.groups) {
      if (group.rank == comm_.rank()) train_group(group);
    }

    comm_.finish_sends();
    TestHooks::get().disturb();
    comm_.meet(is_server() ? [this] { return evaluator_->step(); } : std::function<bool()>());
    comm_.sum_to_root(sum_.buffer());
    const std::vector<ClientRecord> records = collect_records(plan);
    if (!is_server()) continue;

    // A run ends with the model that reached the target, whatever the others did meanwhile.
    if (target_accuracy_ > 0) evaluator_->finish();
    if (outcome_.target_reached) continue;
    update_model(records, seconds_since(start));
    outcome_.rounds = round;
  }
  finish();
  return outcome_;
}

// Rank 0: who takes part, together with whom, and where.
RoundPlan Simulation::plan_round(int64_t round) {
  RoundPlan plan;
  plan.stop = round > rounds_ || outcome_.target_reached;
  if (plan.stop) return plan;
  Rng rng(seed_, "sampler", round);
  plan.cohort = e_.sampler->sample(round, rng);
  assert(std::is_sorted(plan.cohort.begin(), plan.cohort.end()));
  const LocalPlan local(e_.job);
  plan.groups = make_groups(plan.cohort, group_size_,
                            [&](int64_t client) { return local.steps_of(e_.partition.size(client)); });
  std::vector<int64_t> hosts(static_cast<size_t>(std::max(1, comm_.size() - 1)));
  std::iota(hosts.begin(), hosts.end(), comm_.size() == 1 ? 0 : 1);
  plan.moves = deal(plan.groups, hosts, state_sizes_.empty() ? nullptr : &holders_, TestHooks::get().random_deal);
  return plan;
}

void Simulation::broadcast_model() {
  if (comm_.size() == 1) return;
  comm_.broadcast(server_.weights);
  for (auto& [name, tensor] : server_.shared) comm_.broadcast(tensor);
}

// Sends first, receives then: nobody waits for somebody who waits.
void Simulation::move_client_state(const RoundPlan& plan) {
  int64_t length = 0;
  for (const auto& [name, size] : state_sizes_) length += size;
  bytes_moved_ = static_cast<int64_t>(plan.moves.size()) * length * static_cast<int64_t>(server_.weights.element_size());
  for (const StateMove& move : plan.moves) {
    if (move.from != comm_.rank()) continue;
    const auto held = client_state_.find(move.client);  // missing: its updates were all refused so far
    comm_.send(held != client_state_.end() ? held->second : torch::zeros({length}, torch::dtype(e_.dtype)),
               static_cast<int>(move.to));
    if (held != client_state_.end()) client_state_.erase(held);
  }
  for (const StateMove& move : plan.moves) {
    if (move.to != comm_.rank()) continue;
    torch::Tensor state = torch::empty({length}, torch::dtype(e_.dtype).device(e_.device));
    comm_.receive(state, static_cast<int>(move.from));
    client_state_[move.client] = state;
  }
}

// The vectors that these clients keep, [G, n] each.
State Simulation::load_state(const std::vector<int64_t>& ids) const {
  State state;
  int64_t offset = 0;
  for (const auto& [name, size] : state_sizes_) {
    torch::Tensor stacked = torch::zeros({static_cast<int64_t>(ids.size()), size}, torch::dtype(e_.dtype).device(e_.device));
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto held = client_state_.find(ids[i]);
      if (held != client_state_.end()) stacked[static_cast<int64_t>(i)].copy_(held->second.narrow(0, offset, size));
    }
    state[name] = stacked;
    offset += size;
  }
  return state;
}

void Simulation::keep_state(int64_t client, const State& state, int64_t row) {
  if (state_sizes_.empty()) return;
  std::vector<torch::Tensor> parts;
  for (const auto& [name, size] : state_sizes_) parts.push_back(state.at(name)[row]);
  client_state_[client] = torch::cat(parts);
}

void Simulation::weigh_cohort(const std::vector<int64_t>& cohort) {
  const bool uniform = e_.job.get<std::string>("weighting") == "uniform";
  int64_t total = 0;
  for (const int64_t id : cohort) total += uniform ? 1 : e_.partition.size(id);
  weights_.clear();
  for (const int64_t id : cohort) {
    const auto part = static_cast<double>(uniform ? 1 : e_.partition.size(id));
    weights_[id] = total > 0 ? static_cast<float>(part / static_cast<double>(total)) : 0;
  }
}

void Simulation::train_group(const PlannedGroup& planned) {
  TestHooks::get().disturb();
  const auto start = Clock::now();
  const int64_t clients = static_cast<int64_t>(planned.ids.size());
  ClientGroup group{.ids = planned.ids, .data = data_, .seed = seed_};
  group.rows = server_.weights.expand({clients, -1}).clone();
  group.state = load_state(planned.ids);
  Update update = e_.algorithm->train(group, server_);

  torch::NoGradGuard no_grad;
  const TestHooks& hooks = TestHooks::get();
  for (int64_t i = 0; i < clients; ++i) {
    if (hooks.diverging_round == server_.round && hooks.diverging_client == planned.ids[static_cast<size_t>(i)]) {
      update.delta[i].fill_(std::nan(""));
    }
  }
  // All vectors of a client are tested before any is added.
  std::vector<bool> good = acceptable(update.delta);
  for (const auto& [name, tensor] : update.extra) {
    const std::vector<bool> also = acceptable(tensor);
    for (size_t i = 0; i < good.size(); ++i) good[i] = good[i] && also[i];
  }
  const torch::Tensor norms = update.delta.narrow(1, 0, e_.network->layout().trainable()).norm(2, 1).to(torch::kFloat64).cpu();

  for (int64_t i = 0; i < clients; ++i) {
    const size_t at = static_cast<size_t>(i);
    const int64_t client = planned.ids[at];
    const float weight = weights_.at(client);
    if (good[at]) {
      std::vector<torch::Tensor> vectors = {update.delta[i]};
      for (const auto& [name, size] : extra_sizes_) vectors.push_back(update.extra.at(name)[i]);
      sum_.add(vectors, weight);
      keep_state(client, update.state, i);
    }
    own_records_.push_back({.round = server_.round,
                            .client = client,
                            .rank = comm_.rank(),
                            .samples = e_.partition.size(client),
                            .steps = update.steps[at],
                            .samples_seen = update.samples_seen[at],
                            .status = static_cast<int64_t>(good[at] ? ClientStatus::kTrained : ClientStatus::kDiverged),
                            .weight = weight,
                            .loss = update.loss[at],
                            .loss_before = update.loss_before[at],
                            .loss_after = update.loss_after[at],
                            .delta_norm = norms[i].item<double>()});
  }
  const double seconds = seconds_since(start);
  compute_seconds_ += seconds;
  for (size_t i = own_records_.size() - planned.ids.size(); i < own_records_.size(); ++i) {
    own_records_[i].seconds = seconds / static_cast<double>(clients);
  }
}

// Everyone's records, on rank 0, in the cohort's order.
std::vector<ClientRecord> Simulation::collect_records(const RoundPlan& plan) {
  const std::string own(reinterpret_cast<const char*>(own_records_.data()), own_records_.size() * sizeof(ClientRecord));
  std::vector<ClientRecord> records;
  for (const std::string& part : comm_.gather(own)) {
    const size_t n = part.size() / sizeof(ClientRecord);
    records.resize(records.size() + n);
    std::memcpy(records.data() + records.size() - n, part.data(), part.size());
  }
  std::sort(records.begin(), records.end(),
            [](const ClientRecord& a, const ClientRecord& b) { return a.client < b.client; });
  if (is_server() && records.size() != plan.cohort.size()) throw Error("some clients' records are missing (a bug)");
  return records;
}

// Rank 0: the server's half of the round.
void Simulation::update_model(const std::vector<ClientRecord>& records, double seconds) {
  const auto count = static_cast<int64_t>(records.size());
  RoundRecord round{.round = server_.round, .seconds = seconds, .cohort = count};
  Sum sum;
  sum.records = records;
  double loss = 0, loss_weight = 0;
  for (const ClientRecord& record : records) {
    round.samples += record.samples_seen;
    if (record.status != static_cast<int64_t>(ClientStatus::kTrained)) {
      ++round.failed;
      continue;
    }
    ++sum.clients;
    sum.samples += record.samples;
    if (record.steps == 0) continue;
    loss += record.loss * static_cast<double>(record.samples);
    loss_weight += static_cast<double>(record.samples);
  }
  if (loss_weight > 0) round.train_loss = loss / loss_weight;
  if (results_ != nullptr) results_->add_clients(records);
  report_divergence(records);

  // Without survivors the model stays as it is.
  if (sum_.weight() > 0) {
    std::vector<torch::Tensor> means = sum_.means(e_.dtype);
    sum.delta = means[0].unsqueeze(0);
    size_t next = 1;
    for (const auto& [name, size] : extra_sizes_) sum.extra[name] = means[next++];
    torch::NoGradGuard no_grad;
    e_.algorithm->aggregate(server_, sum);
  }

  round.bytes_down = bytes(server_.weights);
  for (const auto& [name, tensor] : server_.shared) round.bytes_down += bytes(tensor);
  round.bytes_down *= count;
  round.bytes_up = count * (sum_.buffer().numel() - 1) * static_cast<int64_t>(server_.weights.element_size());
  round.bytes_state = bytes_moved_;

  const bool evaluate = server_.round == rounds_ || (evaluate_every_ > 0 && server_.round % evaluate_every_ == 0);
  if (evaluate) evaluator_->add(server_.round, server_.weights);
  pending_.push_back({round, evaluate});
  complete_rounds();
}

void Simulation::report_divergence(const std::vector<ClientRecord>& records) const {
  const bool stop = e_.job.get<std::string>("on-divergence") == "stop";
  for (const ClientRecord& record : records) {
    if (record.status != static_cast<int64_t>(ClientStatus::kDiverged)) continue;
    const std::string what = message("client ", record.client, " diverged in round ", record.round,
                                     ": its update is not finite, or reaches 2048");
    if (stop) {
      if (results_ != nullptr) save(true);
      throw Error(what + " (on-divergence is stop; a smaller local.lr or local.clip-norm may help)");
    }
    if (progress_ != nullptr) progress_->note(what + " (left out)", LogLevel::kWarning);
  }
}

void Simulation::evaluated(const TestResult& result) {
  for (PendingRound& pending : pending_) {
    if (pending.record.round != result.round) continue;
    pending.record.test_loss = result.loss;
    pending.record.test_accuracy = result.accuracy;
    pending.waiting = false;
  }
  outcome_.last_accuracy = result.accuracy;
  if (!(outcome_.best_accuracy >= result.accuracy)) outcome_.best_accuracy = result.accuracy;
  outcome_.target_reached = target_accuracy_ > 0 && result.accuracy >= target_accuracy_;
  complete_rounds();
}

// Rows leave in order, each when its evaluation is there.
void Simulation::complete_rounds() {
  while (!pending_.empty() && !pending_.front().waiting) {
    const RoundRecord round = pending_.front().record;
    pending_.pop_front();
    outcome_.samples += round.samples;
    outcome_.bytes += round.bytes_down + round.bytes_up;
    if (progress_ != nullptr) progress_->round_done(round);
    if (results_ == nullptr) continue;
    results_->add_round(round);
    if (results_->due()) save(false);
  }
}

void Simulation::save(bool force) const {
  results_->set_model(named_model());
  results_->save(force);
}

std::vector<NamedTensor> Simulation::named_model() const {
  const ParameterLayout& layout = e_.network->layout();
  const torch::Tensor rows = server_.weights.to(torch::kFloat32).cpu();
  std::vector<NamedTensor> model;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const torch::Tensor values = layout.view(rows, static_cast<int64_t>(i)).contiguous();
    const float* data = values.data_ptr<float>();
    model.push_back({layout.parameters()[i].name, layout.parameters()[i].shape, {data, data + values.numel()}});
  }
  return model;
}

// The last evaluation, everyone's times, and the file.
void Simulation::finish() {
  RankRecord own{.rank = comm_.rank(),
                 .compute_seconds = compute_seconds_,
                 .wait_seconds = comm_.clock().wait,
                 .comm_seconds = comm_.clock().communicate};
  host_name().copy(own.host, sizeof own.host - 1);
  e_.device.str().copy(own.device, sizeof own.device - 1);
  if (is_server()) {
    evaluator_->finish();
    own.evaluate_seconds = evaluator_->seconds();
  }
  comm_.meet();
  const std::vector<std::string> parts = comm_.gather({reinterpret_cast<const char*>(&own), sizeof own});
  if (!is_server()) return;
  for (const std::string& part : parts) std::memcpy(&outcome_.ranks.emplace_back(), part.data(), sizeof(RankRecord));
  outcome_.checksum = model_checksum(named_model());
  if (results_ == nullptr) return;
  results_->set_ranks(outcome_.ranks);
  save(true);
}

}  // namespace fl_sim
