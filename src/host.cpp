#include "host.h"

#include <chrono>
#include <cmath>

#include "test_hooks.h"

namespace fl_sim {
namespace {

using Clock = std::chrono::steady_clock;

// The delta first, then the algorithm's further vectors by name.
std::vector<int64_t> sum_sizes(const Experiment& e) {
  std::vector<int64_t> sizes = {e.network->layout().row()};
  for (const auto& [name, size] : e.algorithm->additive()) sizes.push_back(size);
  return sizes;
}

// Which of a group's clients may be summed. All vectors of a client are tested before any is added.
std::vector<bool> accepted(const Update& update) {
  std::vector<bool> good = acceptable(update.delta);
  for (const auto& [name, rows] : update.extra) {
    const std::vector<bool> also = acceptable(rows);
    for (size_t i = 0; i < good.size(); ++i) good[i] = good[i] && also[i];
  }
  return good;
}

}  // namespace

Host::Host(const Experiment& experiment, Communicator& comm, bool trains)
    : e_(experiment),
      comm_(comm),
      state_sizes_(e_.algorithm->client_state()),
      extra_sizes_(e_.algorithm->additive()),
      seed_(static_cast<uint64_t>(e_.job.get<int64_t>("seed"))),
      uniform_(e_.job.get<std::string>("weighting") == "uniform"),
      data_{{}, e_.data.scale, e_.data.shift, &e_.partition},
      sum_(sum_sizes(e_),
           e_.job.get<std::string>("sum") == "exact" ? SumKind::kExact : SumKind::kFloat,
           e_.device) {
  if (e_.device.is_cpu() && comm_.size() > 1) {
    comm_.meet();
    sum_.use(comm_.summing_buffer(sum_.buffer().numel(), sum_.buffer().scalar_type()));
  }
  if (trains)
    data_.train = {e_.data.train.inputs.to(e_.device), e_.data.train.labels.to(e_.device)};
}

void Host::begin_round(const RoundPlan& plan) {
  move_state(plan.moves);
  cohort_clients_ = plan.clients;
  cohort_samples_ = plan.samples;
  sum_.clear();
  records_.clear();
}

// Sends first, receives then: nobody waits for somebody who waits.
void Host::move_state(const std::vector<StateMove>& moves) {
  int64_t length = 0;
  for (const auto& [name, size] : state_sizes_) length += size;
  const auto options = torch::dtype(e_.dtype).device(e_.device);
  for (const StateMove& move : moves) {
    if (move.from != comm_.rank()) continue;
    const auto held =
        client_state_.find(move.client);  // missing: its updates were all refused so far
    comm_.send(held != client_state_.end() ? held->second : torch::zeros({length}, options),
               static_cast<int>(move.to));
    if (held != client_state_.end()) client_state_.erase(held);
  }
  for (const StateMove& move : moves) {
    if (move.to != comm_.rank()) continue;
    torch::Tensor state = torch::empty({length}, options);
    comm_.receive(state, static_cast<int>(move.from));
    client_state_[move.client] = state;
  }
  comm_.finish_sends();  // a large message needs its sender until it is through
}

State Host::load_state(const std::vector<int64_t>& ids) const {
  State state;
  int64_t offset = 0;
  for (const auto& [name, size] : state_sizes_) {
    torch::Tensor stacked = torch::zeros({static_cast<int64_t>(ids.size()), size},
                                         torch::dtype(e_.dtype).device(e_.device));
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto held = client_state_.find(ids[i]);
      if (held != client_state_.end())
        stacked[static_cast<int64_t>(i)].copy_(held->second.narrow(0, offset, size));
    }
    state[name] = stacked;
    offset += size;
  }
  return state;
}

void Host::keep_state(int64_t client, const State& state, int64_t row) {
  if (state_sizes_.empty()) return;
  std::vector<torch::Tensor> parts;
  for (const auto& [name, size] : state_sizes_) parts.push_back(state.at(name)[row]);
  client_state_[client] = torch::cat(parts);
}

// p_k over the planned cohort.
float Host::weight_of(int64_t client) const {
  const int64_t part = uniform_ ? 1 : e_.partition.size(client);
  const int64_t total = uniform_ ? cohort_clients_ : cohort_samples_;
  return total > 0 ? static_cast<float>(static_cast<double>(part) / static_cast<double>(total)) : 0;
}

void Host::train(const PlannedGroup& planned, const GlobalModel& global) {
  const TestHooks& hooks = TestHooks::get();
  hooks.disturb();
  const auto start = Clock::now();
  const auto clients = static_cast<int64_t>(planned.ids.size());
  ClientGroup group{.ids = planned.ids, .data = data_, .seed = seed_};
  group.rows = global.weights.expand({clients, -1}).clone();
  group.state = load_state(planned.ids);
  Update update = e_.algorithm->train(group, global);

  torch::NoGradGuard no_grad;
  for (int64_t i = 0; i < clients; ++i) {
    if (hooks.diverging_round == global.round &&
        hooks.diverging_client == planned.ids[static_cast<size_t>(i)]) {
      update.delta[i].fill_(std::nan(""));
    }
  }
  const std::vector<bool> good = accepted(update);
  const torch::Tensor norms = update.delta.narrow(1, 0, e_.network->layout().trainable())
                                  .norm(2, 1)
                                  .to(torch::kFloat64)
                                  .cpu();
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const int64_t client = planned.ids[i];
    const float weight = weight_of(client);
    if (good[i]) {
      std::vector<torch::Tensor> vectors = {update.delta[row]};
      for (const auto& [name, size] : extra_sizes_) vectors.push_back(update.extra.at(name)[row]);
      sum_.add(vectors, weight);
      keep_state(client, update.state, row);
    }
    records_.push_back(
        {.round = global.round,
         .client = client,
         .rank = comm_.rank(),
         .samples = e_.partition.size(client),
         .steps = update.steps[i],
         .samples_seen = update.samples_seen[i],
         .status = static_cast<int64_t>(good[i] ? ClientStatus::kTrained : ClientStatus::kDiverged),
         .weight = weight,
         .loss = update.loss[i],
         .loss_before = update.loss_before[i],
         .loss_after = update.loss_after[i],
         .delta_norm = norms[row].item<double>()});
  }
  hooks.slow_down(comm_.rank(), std::chrono::duration<double>(Clock::now() - start).count());
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  compute_seconds_ += seconds;
  for (size_t i = records_.size() - planned.ids.size(); i < records_.size(); ++i) {
    records_[i].seconds = seconds / static_cast<double>(clients);
  }
}

}  // namespace fl_sim
