#include "engine/host.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "process/interruption.h"
#include "process/test_hooks.h"
#include "process/watchdog.h"

namespace fl_sim {
namespace {

// Whose inner products stay below 2^31, see Host::products().
constexpr double kLongestDelta = 46000;

// The delta first, then the algorithm's further vectors by name.
std::vector<int64_t> sum_sizes(const Experiment& e) {
  std::vector<int64_t> sizes = {e.network->layout().row()};
  const Needs needs = e.algorithm->needs();
  for (const auto& [name, size] : needs.additive) sizes.push_back(size);
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

// Everybody's samples in one list.
Partition pool(const Partition& partition, const std::vector<int64_t>& trained) {
  std::vector<int64_t> all;
  const auto add = [&](int64_t client) {
    const auto list = partition.of(client);
    all.insert(all.end(), list.begin(), list.end());
  };
  for (int64_t k = 0; k < (trained.empty() ? partition.clients() : std::ssize(trained)); ++k) {
    add(trained.empty() ? k : trained[static_cast<size_t>(k)]);
  }
  return make_partition({std::move(all)});
}

// Takes so long as a client or rank that is slow, but alive.
void rest(double seconds) {
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    std::this_thread::sleep_for(
        std::chrono::duration<double>(std::min(0.01, seconds - seconds_since(start))));
    Interruption::get().at_step();
  }
}

int64_t state_memory(const Job& job) { return job.get<int64_t>("state-memory") << 20; }

std::string state_directory(const Job& job) {
  const auto directory = job.get<std::string>("state-dir");
  return directory == "none" ? "" : directory;
}

}  // namespace

VectorSizes state_sizes(const Experiment& e) { return e.algorithm->needs().client_state; }

Host::Host(const Experiment& experiment, Communicator& comm,
           const std::vector<Communicator*>& lanes, bool trains)
    : e_(experiment),
      comm_(comm),
      state_sizes_(state_sizes(experiment)),
      can_roll_back_(state_sizes_.empty() || e_.job.get<int64_t>("state-memory") == 0),
      extra_sizes_(e_.algorithm->needs().additive),
      scalars_(e_.algorithm->needs().scalars),
      seed_(static_cast<uint64_t>(e_.job.get<int64_t>("seed"))),
      weighting_(e_.job.get<std::string>("weighting") == "uniform" ? Weighting::kUniform
                 : e_.job.get<std::string>("weighting") == "loss"  ? Weighting::kLoss
                                                                   : Weighting::kSamples),
      pooled_(e_.algorithm->needs().pooled),
      data_{{}, e_.data.scale, e_.data.shift, &e_.partition, &e_.input_changes},
      held_back_(e_.job.get<std::string>("evaluate-split") == "test" ? &e_.test : &e_.validation),
      store_(trains && !state_sizes_.empty() ? state_directory(e_.job) : "", state_memory(e_.job),
             comm.rank()),
      scorer_(*e_.network, e_.data.scale, e_.data.shift, e_.job.get<int64_t>("threads") == 1),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))) {
  if (comm.rank() == 0 && !state_directory(e_.job).empty())
    ClientStore::remove_leftovers(state_directory(e_.job), comm.size());
  FL_CHECK(std::ssize(scalars_) <= ClientRecord::kScalars, "an algorithm returns ", scalars_.size(),
           " numbers per client (must be at most ", ClientRecord::kScalars, ")");
  for (const auto& [name, size] : state_sizes_) state_length_ += size;
  const SumKind kind =
      e_.job.get<std::string>("sum") == "exact" ? SumKind::kExact : SumKind::kFloat;
  const int64_t models = e_.algorithm->needs().models_in_lane();
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    if (lanes[lane] == nullptr) continue;
    WeightedSum& sum = sums_
                           .emplace(static_cast<int64_t>(lane),
                                    WeightedSum(sum_sizes(e_), kind, e_.device, models))
                           .first->second;
    if (e_.device.is_cpu() && lanes[lane]->size() > 1) {
      lanes[lane]->meet();
      sum.use(lanes[lane]->summing_buffer(sum.buffer().numel(), sum.buffer().scalar_type()));
    }
  }
  if (pooled_) {
    pool_ = pool(e_.partition, e_.trained);
    data_.partition = &pool_;
  }
  if (trains)
    data_.train = {e_.data.train.inputs.to(e_.device), e_.data.train.labels.to(e_.device)};
}

void Host::begin(const RoundPlan& plan) {
  plan_ = plan;
  move_state(plan.moves);
  records_.clear();
  evaluations_.clear();
  deltas_.clear();
  if (plan.kind != RoundPlan::Kind::kTrain) return;
  if (plan.exchange == 0) refused_.clear();
  if (plan.exchange == 0 && can_roll_back_) store_.begin_round();
  for (auto& [lane, sum] : sums_) sum.clear();
}

// Sends first, receives then: nobody waits for somebody who waits. A leading 1 says that there is a
// state: a client whose updates were all refused so far has none.
void Host::move_state(const std::vector<StateMove>& moves) {
  const auto options = torch::dtype(e_.dtype);
  for (const StateMove& move : moves) {
    if (move.from != comm_.rank()) continue;
    torch::Tensor packet = torch::zeros({1 + state_length_}, options);
    if (store_.has(move.client)) {
      packet[0] = 1;
      packet.narrow(0, 1, state_length_).copy_(store_.get(move.client));
      store_.erase(move.client);
    }
    comm_.send(packet, static_cast<int>(move.to));
  }
  for (const StateMove& move : moves) {
    if (move.to != comm_.rank()) continue;
    torch::Tensor packet = torch::empty({1 + state_length_}, options);
    comm_.receive(packet, static_cast<int>(move.from));
    if (packet[0].item<double>() == 1)
      store_.put(move.client, packet.narrow(0, 1, state_length_).clone());
  }
  comm_.finish_sends();  // a large message needs its sender until it is through
}

void Host::load_state(ClientGroup& group) {
  group.fresh.assign(group.ids.size(), true);
  if (state_sizes_.empty()) return;
  const auto options = torch::dtype(e_.dtype).device(e_.device);
  for (const auto& [name, size] : state_sizes_) {
    group.state[name] = torch::zeros({group.size(), size}, options);
  }
  for (size_t i = 0; i < group.ids.size(); ++i) {
    const torch::Tensor held = store_.get(group.ids[i]);
    if (!held.defined()) continue;
    group.fresh[i] = false;
    int64_t offset = 0;
    for (const auto& [name, size] : state_sizes_) {
      group.state.at(name)[static_cast<int64_t>(i)].copy_(held.narrow(0, offset, size));
      offset += size;
    }
  }
}

// What an exchange does not return stays as it was.
void Host::keep_state(int64_t client, const State& old, const State& state, int64_t row) {
  if (state.empty()) return;
  std::vector<torch::Tensor> parts;
  for (const auto& [name, size] : state_sizes_) {
    const auto next = state.find(name);
    parts.push_back((next != state.end() ? next->second : old.at(name))[row].to(e_.dtype));
  }
  store_.put(client, torch::cat(parts).cpu());
}

bool Host::finite_state(const State& state, int64_t row) const {
  if (!e_.algorithm->needs().personal) return true;  // then nothing but the delta is trained
  return std::all_of(state.begin(), state.end(), [&](const auto& entry) {
    return torch::isfinite(entry.second[row]).all().template item<bool>();
  });
}

// p_k over the planned cohort.
float Host::weight_of(int64_t client, int64_t lane) const {
  if (pooled_) return 1;
  const bool uniform = weighting_ == Weighting::kUniform;
  const auto index = static_cast<size_t>(lane);
  const int64_t part = uniform ? 1 : e_.partition.size(client);
  const int64_t total = uniform ? plan_.clients.at(index) : plan_.samples.at(index);
  return total > 0 ? static_cast<float>(static_cast<double>(part) / static_cast<double>(total)) : 0;
}

ClientGroup Host::make_group(const PlannedGroup& planned, const GlobalModel& global) {
  ClientGroup group{.ids = planned.ids,
                    .data = data_,
                    .seed = seed_,
                    .limits = planned.limits,
                    .model = e_.algorithm->needs().lanes > 1 ? planned.lane : 0};
  group.rows = global.model(group.model).expand({group.size(), -1}).clone();
  load_state(group);
  return group;
}

void Host::train(const PlannedGroup& planned, const GlobalModel& global) {
  const TestHooks& hooks = TestHooks::get();
  hooks.disturb();
  Watchdog::get().enter("training", global.round, planned.ids.front());
  const auto start = Clock::now();
  ClientGroup group = make_group(planned, global);
  Update update = e_.algorithm->train(group, global);
  for (const int64_t client : planned.ids) rest(faults_.seconds(global.round, client));

  torch::NoGradGuard no_grad;
  for (int64_t i = 0; i < group.size(); ++i) {
    const int64_t client = planned.ids[static_cast<size_t>(i)];
    if ((hooks.diverging_round == global.round && hooks.diverging_client == client) ||
        faults_.has(Faults::Kind::kNanUpdate, global.round, client)) {
      update.delta[i].fill_(std::nan(""));
    }
  }
  std::vector<bool> good = accepted(update);
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    if (!good[i]) refused_.insert(planned.ids[i]);
    good[i] = !refused_.contains(planned.ids[i]);
  }
  const int64_t trained = e_.network->layout().trainable();
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const int64_t client = planned.ids[i];
    const ClientOutcome& outcome = update.clients[i];
    double weight = outcome.weight;
    if (std::isnan(weight)) weight = weight_of(client, planned.lane);
    if (weighting_ == Weighting::kLoss && std::isfinite(outcome.loss))
      weight /= 1 + std::max(0.0, outcome.loss);
    ClientStatus status = ClientStatus::kDiverged;
    if (good[i]) {
      std::vector<torch::Tensor> vectors = {update.delta[row]};
      for (const auto& [name, size] : extra_sizes_) vectors.push_back(update.extra.at(name)[row]);
      sums_.at(planned.lane).add(vectors, static_cast<float>(weight), outcome.model);
      status = group.limit(row) > 0 && !pooled_ ? ClientStatus::kPartial : ClientStatus::kTrained;
      if (finite_state(update.state, row)) {
        keep_state(client, group.state, update.state, row);
      } else {
        status = ClientStatus::kPersonalDiverged;
      }
      // Products of larger ones do not fit; what grew so long is about to diverge.
      if (e_.algorithm->needs().keeps_deltas && outcome.delta_norm < kLongestDelta)
        deltas_[client] = update.delta[row].narrow(0, 0, trained).clone();
    }
    ClientRecord record;
    static_cast<ClientOutcome&>(record) = outcome;
    record.round = global.round;
    record.client = client;
    record.rank = comm_.rank();
    record.samples = data_.partition->size(client);
    record.status = static_cast<int64_t>(status);
    record.weight = static_cast<float>(weight);
    if (e_.algorithm->needs().lanes > 1) record.model = planned.lane;
    records_.emplace_back(planned.lane, record);
  }
  hooks.slow_down(comm_.rank(), seconds_since(start));
  rest(seconds_since(start) * (faults_.slowness(global.round, comm_.rank()) - 1));
  const double seconds = seconds_since(start);
  compute_seconds_ += seconds;
  for (size_t i = records_.size() - planned.ids.size(); i < records_.size(); ++i) {
    records_[i].second.seconds = seconds / static_cast<double>(group.size());
  }
}

void Host::evaluate(const PlannedGroup& planned, const GlobalModel& global) {
  Watchdog::get().enter("evaluating", global.round, planned.ids.front());
  const auto start = Clock::now();
  ClientGroup group = make_group(planned, global);
  std::vector<PersonalModel> own;
  if (e_.algorithm->needs().personal) own = e_.algorithm->personalize(group, global);
  torch::NoGradGuard no_grad;
  const auto score = [&](int64_t client, std::span<const int64_t> indices,
                         const torch::Tensor& models, const std::vector<double>& weights) {
    Scorer::Totals totals(models.size(0));
    Scorer::Change change;
    if (e_.input_changes.evaluation()) {
      change = [&, client](const torch::Tensor& x) { return e_.input_changes.masked(x, client); };
    }
    const auto step = static_cast<size_t>(scorer_.batch(models));
    for (size_t first = 0; first < indices.size(); first += step) {
      Interruption::get().at_step();
      scorer_.add(data_.train, indices.subspan(first, std::min(step, indices.size() - first)),
                  models, weights, totals, change);
    }
    return totals.whole();
  };
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    const int64_t client = planned.ids[i];
    const auto indices = held_back_->of(client);
    ClientEvaluation result{
        .round = global.round,
        .client = client,
        .rank = comm_.rank(),
        .samples = std::ssize(indices),
        .holdout = std::binary_search(e_.holdout.begin(), e_.holdout.end(), client) ? 1 : 0};
    const Score global_score = score(client, indices, global.weights, {});
    result.loss = global_score.mean_loss();
    result.accuracy = global_score.accuracy();
    if (!own.empty()) {
      const Score personal = score(client, indices, torch::stack(own[i].rows), own[i].weights);
      result.personal_loss = personal.mean_loss();
      result.personal_accuracy = personal.accuracy();
    }
    evaluations_.push_back(result);
  }
  const double seconds = seconds_since(start);
  compute_seconds_ += seconds;
  for (size_t i = evaluations_.size() - planned.ids.size(); i < evaluations_.size(); ++i) {
    evaluations_[i].seconds = seconds / static_cast<double>(group.size());
  }
}

std::vector<ClientRecord> Host::records(int64_t lane) const {
  std::vector<ClientRecord> own;
  for (const auto& [of_lane, record] : records_) {
    if (of_lane == lane) own.push_back(record);
  }
  return own;
}

// Each block of coordinates goes to one rank, which multiplies all clients' parts of it; the
// products are added as integers, so that they are the same for every number of ranks.
torch::Tensor Host::products(const std::vector<int64_t>& clients) {
  constexpr int64_t kBlock = 1 << 16;
  constexpr double kScale = 0x1p32;  // products up to 2^31 in all
  const int64_t length = e_.network->layout().trainable(), m = std::ssize(clients);
  const auto own_place = [&](int64_t client) { return deltas_.contains(client); };

  // Who has which: every rank's list on every rank.
  std::string mine;
  for (const int64_t client : clients) mine += own_place(client) ? '1' : '0';
  std::string all;
  for (const std::string& part : comm_.gather(mine)) all += part;
  comm_.broadcast(all);
  const auto has = [&](int rank, int64_t place) {
    return all[static_cast<size_t>(rank * m + place)] == '1';
  };

  // Sends of all blocks first; a block of rows [clients there, kBlock] each.
  const auto options = torch::dtype(e_.dtype);
  const auto owner = [&](int64_t block) { return static_cast<int>(block % comm_.size()); };
  const auto block_rows = [&](int64_t first, int64_t n) {
    std::vector<torch::Tensor> rows;
    for (const int64_t client : clients) {
      if (own_place(client)) rows.push_back(deltas_.at(client).narrow(0, first, n).cpu());
    }
    return rows.empty() ? torch::empty({0, n}, options) : torch::stack(rows);
  };
  const int64_t blocks = (length + kBlock - 1) / kBlock;
  const auto size_of = [&](int64_t block) { return std::min(kBlock, length - block * kBlock); };
  for (int64_t block = 0; block < blocks; ++block) {
    if (owner(block) == comm_.rank() || deltas_.empty()) continue;
    comm_.send(block_rows(block * kBlock, size_of(block)), owner(block));
  }
  torch::Tensor sum = torch::zeros({m, m}, torch::kInt64);
  for (int64_t block = comm_.rank(); block < blocks; block += comm_.size()) {
    const int64_t n = size_of(block);
    torch::Tensor parts = torch::zeros({m, n}, torch::kFloat64);
    for (int rank = 0; rank < comm_.size(); ++rank) {
      std::vector<int64_t> places;
      for (int64_t place = 0; place < m; ++place) {
        if (has(rank, place)) places.push_back(place);
      }
      if (places.empty()) continue;
      torch::Tensor rows;
      if (rank == comm_.rank()) {
        rows = block_rows(block * kBlock, n);
      } else {
        rows = torch::empty({std::ssize(places), n}, options);
        comm_.receive(rows, rank);
      }
      parts.index_copy_(0, torch::tensor(places, torch::kInt64), rows.to(torch::kFloat64));
    }
    sum.add_(parts.mm(parts.t()).mul_(kScale).round_().to(torch::kInt64));
  }
  comm_.finish_sends();
  comm_.sum_to_root(sum);
  return sum.to(torch::kFloat64).div_(kScale);
}

}  // namespace fl_sim
