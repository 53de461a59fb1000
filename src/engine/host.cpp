#include "engine/host.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/registry.h"
#include "engine/contract.h"
#include "network/useful_line.h"
#include "process/interruption.h"
#include "process/test_hooks.h"
#include "process/watchdog.h"

namespace fl_sim {
namespace {

// The delta first, then the algorithm's further vectors by name. Where rows meet instead, only
// weights are summed.
std::vector<int64_t> sum_sizes(const Experiment& e) {
  if (e.aggregator->sees_clients()) return {0};
  std::vector<int64_t> sizes = {e.network->layout().row()};
  const Needs needs = e.algorithm->needs();
  for (const auto& [name, size] : needs.additive) sizes.push_back(size);
  return sizes;
}

// Of one client: 1, but for rounding.
constexpr double kLargestWeight = 1 + 1e-5;

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

// Does `work` for clients of a round; what fails in it is told with both.
template <class Work>
auto told_of(const char* doing, const std::vector<int64_t>& ids, int64_t round, const Work& work) {
  const auto place = [&] {
    constexpr size_t kMost = 8;
    std::vector<std::string> names;
    for (const int64_t id : ids) {
      if (names.size() < kMost) names.push_back(std::to_string(id));
    }
    if (ids.size() > kMost) names.push_back("...");
    return message(doing, " in round ", round, ", ", ids.size() == 1 ? "client " : "clients ",
                   list_of(names), ": ");
  };
  try {
    return work();
  } catch (const ForwardError& error) {
    throw Error(place() + error.what());
  } catch (const c10::Error& error) {
    throw Error(place() + useful_line(error));
  } catch (const std::logic_error& error) {  // a name that is not there: map::at
    throw Error(place() + error.what());
  }
}

int64_t state_memory(const Job& job) { return job.get<int64_t>("state-memory") << 20; }

std::string state_directory(const Job& job) {
  const auto directory = job.get<std::string>("state-dir");
  return directory == "none" ? "" : directory;
}

}  // namespace

Host::Host(const Experiment& experiment, Communicator& comm,
           const std::vector<Communicator*>& lanes, bool trains)
    : e_(experiment),
      comm_(comm),
      needs_(e_.algorithm->needs()),
      state_(state_layout(experiment)),
      can_roll_back_(state_.empty() || e_.job.get<int64_t>("state-memory") == 0),
      seed_(e_.job.seed()),
      weighting_(e_.job.get<std::string>("weighting") == "uniform" ? Weighting::kUniform
                 : e_.job.get<std::string>("weighting") == "loss"  ? Weighting::kLoss
                                                                   : Weighting::kSamples),
      data_{{}, e_.data.scale, e_.data.shift, &e_.partition, &e_.input_changes},
      held_back_(&e_.held_back()),
      store_(trains && !state_.empty() ? state_directory(e_.job) : "", state_memory(e_.job),
             comm.rank()),
      scorer_(*e_.network, e_.data.scale, e_.data.shift, e_.job.get<int64_t>("threads") == 1),
      metrics_(choose_metrics(e_.job, *e_.network, e_.data.classes)),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))),
      rows_(comm, e_.dtype) {
  if (comm.rank() == 0 && !state_directory(e_.job).empty())
    ClientStore::remove_leftovers(state_directory(e_.job), comm.size());
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    if (lanes[lane] == nullptr) continue;
    WeightedSum& sum = sums_.emplace(static_cast<int64_t>(lane), new_sum()).first->second;
    if (e_.device.is_cpu() && lanes[lane]->size() > 1) {
      lanes[lane]->meet();
      sum.use(lanes[lane]->summing_buffer(sum.buffer().numel(), sum.buffer().scalar_type()));
    }
  }
  if (needs_.pooled) {
    pool_ = pool(e_.partition, e_.trained);
    data_.partition = &pool_;
  }
  if (!trains) return;
  const auto here = [&](const Samples& samples) {
    return Samples{samples.inputs.to(e_.device), samples.labels.to(e_.device)};
  };
  data_.train = here(e_.data.train);
  held_back_samples_ = e_.own_tests ? here(e_.held_back_samples()) : data_.train;
}

WeightedSum Host::new_sum() const {
  const SumKind kind =
      e_.job.get<std::string>("sum") == "exact" ? SumKind::kExact : SumKind::kFloat;
  return {sum_sizes(e_), kind, e_.device, needs_.models_in_lane()};
}

// A sum that begins with nothing.
Host::Later& Host::due_in(int64_t version) {
  const auto found = later_.find(version);
  return found != later_.end() ? found->second
                               : later_.emplace(version, Later{new_sum()}).first->second;
}

void Host::begin(const RoundPlan& plan) {
  plan_ = plan;
  move_states(plan.moves, store_, comm_, state_.length(), e_.dtype);
  records_.clear();
  evaluations_.clear();
  rows_.clear();
  const bool trains = plan.kind == RoundPlan::Kind::kTrain;
  if (!trains && plan.kind != RoundPlan::Kind::kAsk) return;
  if (plan.exchange == 0) refused_.clear();
  if (plan.exchange == 0 && can_roll_back_) store_.begin_round();
  if (!trains) return;
  for (auto& [lane, sum] : sums_) sum.clear();
  const auto due = later_.find(plan.round);
  if (due == later_.end()) return;
  sums_.at(0).add(due->second.sum);
  for (const ClientRecord& record : due->second.records) records_.emplace_back(0, record);
  for (auto& [task, row] : due->second.rows) rows_.keep(task, std::move(row));
  later_.erase(due);
}

void Host::train(const PlannedGroup& planned, const GlobalModel& global) {
  TestHooks::get().disturb();
  Watchdog::get().enter("training", global.round, planned.ids.front());
  const auto start = Clock::now();
  if (!planned.due.empty()) refused_.clear();  // each task is a round of its own
  ClientGroup group = make_group(planned, global);
  const Untouched untouched(global);
  Update update = told_of("training", planned.ids, global.round,
                          [&] { return e_.algorithm->train(group, global); });
  const std::string algorithm = "algorithm " + e_.job.get<std::string>("algorithm");
  untouched.check(algorithm, global);
  check_shapes(algorithm, group, update);
  for (const int64_t client : planned.ids) rest(faults_.seconds(global.round, client));

  torch::NoGradGuard no_grad;
  ruin(planned, update, global.round);
  std::vector<bool> good = accept(planned, update);
  transform(planned, group, global, update, good);
  measure_sent(update);
  weigh(planned, update);
  add(planned, update, good);
  const std::vector<ClientStatus> statuses = commit(group, update, good);

  rest(seconds_since(start) * (faults_.slowness(plan_.round, comm_.rank()) - 1));
  record(planned, update, statuses, seconds_since(start));
}

std::vector<Answer> Host::ask(const PlannedGroup& planned, const GlobalModel& global) {
  TestHooks::get().disturb();
  Watchdog::get().enter("answering", global.round, planned.ids.front());
  const auto start = Clock::now();
  std::vector<Answer> answers;
  const Sampler::Question question = e_.sampler->question();
  if (question == Sampler::Question::kUpdateNorm) {
    ClientGroup group = make_group(planned, global);
    const Update update = told_of("training", planned.ids, global.round,
                                  [&] { return e_.algorithm->train(group, global); });
    check_shapes("algorithm " + e_.job.get<std::string>("algorithm"), group, update);
    const std::vector<bool> good = acceptable(update.delta);
    for (size_t i = 0; i < planned.ids.size(); ++i)
      answers.push_back({planned.ids[i], good[i] ? update.clients[i].delta_norm : kNotMeasured});
  } else {
    torch::NoGradGuard no_grad;
    for (const int64_t client : planned.ids) {
      answers.push_back(
          {client, training_loss(client, global, question == Sampler::Question::kBatchLoss)});
    }
  }
  compute_seconds_ += seconds_since(start);
  return answers;
}

// Of the global model, on all of a client's training samples or on a mini-batch of them.
double Host::training_loss(int64_t client, const GlobalModel& global, bool batch) {
  const auto all = data_.partition->of(client);
  std::vector<int64_t> indices(all.begin(), all.end());
  if (batch) {
    const LocalPlan plan(e_.job);
    Rng rng(seed_, "asked batch", global.round, client);
    rng.shuffle(std::span(indices));
    indices.resize(std::min(indices.size(), static_cast<size_t>(plan.batch_size)));
  }
  if (indices.empty()) return kNotMeasured;
  Scorer::Change change;
  if (e_.input_changes.evaluation())
    change = [&](const torch::Tensor& x) { return e_.input_changes.masked(x, client); };
  const torch::Tensor model = global.model(0);
  Scorer::Totals totals(1);
  const auto step = static_cast<size_t>(scorer_.batch(model));
  const std::span<const int64_t> list(indices);
  for (size_t first = 0; first < list.size(); first += step) {
    Interruption::get().at_step();
    told_of("answering", {client}, global.round, [&] {
      scorer_.add(data_.train, list.subspan(first, std::min(step, list.size() - first)), model, {},
                  totals, change);
    });
  }
  return totals.whole().mean_loss();
}

ClientGroup Host::make_group(const PlannedGroup& planned, const GlobalModel& global) {
  ClientGroup group{
      .ids = planned.ids,
      .data = data_,
      .seed = planned.repeat == 0 ? seed_ : Rng(seed_, "again", planned.repeat).bits64(),
      .limits = planned.limits,
      .model = model_of(planned.lane),
      .squared_losses = e_.sampler->needs_squared_loss()};
  group.rows = global.model(group.model).expand({group.size(), -1}).clone();
  group.fresh.assign(group.ids.size(), true);
  if (state_.empty()) return group;
  group.state = state_.zeros(group.size(), torch::dtype(e_.dtype).device(e_.device));
  for (size_t i = 0; i < group.ids.size(); ++i) {
    const torch::Tensor held = store_.get(group.ids[i]);
    if (!held.defined()) continue;
    group.fresh[i] = false;
    state_.unpack(held, group.state, static_cast<int64_t>(i));
  }
  return group;
}

// What `who` returns, the algorithm or a transform, is what the algorithm has declared.
void Host::check_shapes(const std::string& who, const ClientGroup& group,
                        const Update& update) const {
  const auto expect = [&](const std::string& what, const torch::Tensor& tensor, int64_t length) {
    FL_CHECK(tensor.defined(), who, " does not return ", what, " (must be [", group.size(), ", ",
             length, "])");
    FL_CHECK(tensor.dim() == 2 && tensor.size(0) == group.size() && tensor.size(1) == length, who,
             " returns ", what, " of shape ", tensor.sizes(), " (must be [", group.size(), ", ",
             length, "]: as many rows as clients train together, each as long as declared)");
  };
  expect("a delta", update.delta, e_.network->layout().row());
  for (const auto& [vector, size] : needs_.additive) {
    const auto found = update.extra.find(vector);
    expect("the further vector '" + vector + "'",
           found == update.extra.end() ? torch::Tensor() : found->second, size);
  }
  FL_CHECK(update.extra.size() == needs_.additive.size(), who, " returns ", update.extra.size(),
           " further vectors, but needs() declares ", needs_.additive.size());
  for (const auto& [vector, tensor] : update.state) {
    FL_CHECK(state_.has(vector), who, " returns a state '", vector,
             "', which its needs() do not declare");
    expect("the state '" + vector + "'", tensor, state_.size(vector));
  }
  FL_CHECK(std::ssize(update.clients) == group.size(), who, " returns ", update.clients.size(),
           " outcomes for ", group.size(), " clients (Update::clients must have one for each)");
}

// As the job's faults want it.
void Host::ruin(const PlannedGroup& planned, Update& update, int64_t round) const {
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    if (faults_.has(Faults::Kind::kNanUpdate, round, planned.ids[i]))
      update.delta[static_cast<int64_t>(i)].fill_(std::nan(""));
  }
}

// Which clients may be summed: all vectors of a client are tested before any is added. Who was
// refused in an exchange is refused in those after it, too.
std::vector<bool> Host::accept(const PlannedGroup& planned, const Update& update) {
  std::vector<bool> good = acceptable(update.delta);
  for (const auto& [name, rows] : update.extra) {
    const std::vector<bool> also = acceptable(rows);
    for (size_t i = 0; i < good.size(); ++i) good[i] = good[i] && also[i];
  }
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    if (!good[i]) refused_.insert(planned.ids[i]);
    good[i] = !refused_.contains(planned.ids[i]);
  }
  return good;
}

void Host::transform(const PlannedGroup& planned, const ClientGroup& group,
                     const GlobalModel& global, Update& update, std::vector<bool>& good) {
  if (e_.transforms.empty()) return;
  for (size_t i = 0; i < good.size(); ++i) {
    if (good[i]) continue;
    update.delta[static_cast<int64_t>(i)].zero_();
    for (auto& [name, rows] : update.extra) rows[static_cast<int64_t>(i)].zero_();
  }
  for (const auto& [name, transform] : e_.transforms) {
    const Untouched untouched(global);
    transform->apply(update, group, global);
    untouched.check("transform " + name, global);
    check_shapes("transform " + name, group, update);
  }
  good = accept(planned, update);
}

// Lengths as they are sent: as trained, where nothing changes them.
void Host::measure_sent(Update& update) const {
  for (size_t i = 0; i < update.clients.size(); ++i) {
    ClientOutcome& client = update.clients[i];
    client.sent_norm = client.delta_norm;
    if (e_.transforms.empty()) continue;
    const torch::Tensor trained =
        update.delta[static_cast<int64_t>(i)].narrow(0, 0, e_.network->layout().trainable());
    client.sent_norm = trained.to(torch::kFloat64).norm().item<double>();
  }
}

// p_k over the planned cohort.
float Host::weight_of(int64_t client, int64_t lane) const {
  if (needs_.pooled) return 1;
  const bool uniform = weighting_ == Weighting::kUniform;
  const auto index = static_cast<size_t>(lane);
  const int64_t part = uniform ? 1 : e_.partition.size(client);
  const int64_t total = uniform ? plan_.clients.at(index) : plan_.samples.at(index);
  return total > 0 ? static_cast<float>(static_cast<double>(part) / static_cast<double>(total)) : 0;
}

// By the algorithm, the sampler or the job, in this order.
void Host::weigh(const PlannedGroup& planned, Update& update) const {
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    ClientOutcome& client = update.clients[i];
    double weight = client.weight;
    if (std::isnan(weight) && !planned.weights.empty()) weight = planned.weights[i];
    if (std::isnan(weight)) weight = weight_of(planned.ids[i], planned.lane);
    FL_CHECK(weight >= 0 && weight <= kLargestWeight, "the update of client ", planned.ids[i],
             " weighs ", weight, ", as algorithm ", e_.job.get<std::string>("algorithm"),
             " or sampler ", e_.job.get<std::string>("sampler"),
             " has it (must be from 0 to 1: the weights of a cohort come to 1 at most)");
    if (weighting_ == Weighting::kLoss && std::isfinite(client.loss))
      weight /= 1 + std::max(0.0, client.loss);
    client.weight = static_cast<float>(weight);
  }
}

void Host::add(const PlannedGroup& planned, const Update& update, const std::vector<bool>& good) {
  keep_rows(planned, update, good);
  const bool rows = !e_.aggregator->sees_clients();
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    if (!good[i]) continue;
    const auto row = static_cast<int64_t>(i);
    std::vector<torch::Tensor> vectors;
    if (rows) {
      vectors.push_back(update.delta[row]);
      for (const auto& [name, size] : needs_.additive)
        vectors.push_back(update.extra.at(name)[row]);
    } else {
      vectors.push_back(update.delta[row].narrow(0, 0, 0));
    }
    const int64_t due = planned.due.empty() ? plan_.round : planned.due[i];
    if (due < plan_.round) continue;  // it was in a version before the run went on from here
    WeightedSum& sum = due == plan_.round ? sums_.at(planned.lane) : due_in(due).sum;
    sum.add(vectors, static_cast<float>(update.clients[i].weight), update.clients[i].model);
  }
}

// Of an algorithm that compares deltas the trainable part, for an aggregator all that a client
// returns.
void Host::keep_rows(const PlannedGroup& planned, const Update& update,
                     const std::vector<bool>& good) {
  const bool whole = e_.aggregator->sees_clients();
  if (!whole && !needs_.keeps_deltas) return;
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    if (!good[i]) continue;
    const auto row = static_cast<int64_t>(i);
    std::vector<torch::Tensor> parts = {update.delta[row]};
    if (!whole) parts[0] = parts[0].narrow(0, 0, e_.network->layout().trainable());
    for (const auto& [name, size] : needs_.additive) {
      if (whole) parts.push_back(update.extra.at(name)[row]);
    }
    torch::Tensor kept = parts.size() > 1 ? torch::cat(parts) : parts[0].clone();
    if (planned.due.empty()) {
      rows_.keep(planned.ids[i], std::move(kept));
    } else if (planned.due[i] == plan_.round) {
      rows_.keep(planned.tasks[i], std::move(kept));
    } else if (planned.due[i] > plan_.round) {
      due_in(planned.due[i]).rows.emplace_back(planned.tasks[i], std::move(kept));
    }
  }
}

// What an exchange does not return stays as it was.
std::vector<ClientStatus> Host::commit(const ClientGroup& group, const Update& update,
                                       const std::vector<bool>& good) {
  std::vector<ClientStatus> statuses;
  for (size_t i = 0; i < group.ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    ClientStatus& status = statuses.emplace_back(ClientStatus::kDiverged);
    if (!good[i]) continue;
    status =
        group.limit(row) > 0 && !needs_.pooled ? ClientStatus::kPartial : ClientStatus::kTrained;
    if (!finite_state(update.state, row)) {
      status = ClientStatus::kPersonalDiverged;
    } else if (!update.state.empty()) {
      store_.put(group.ids[i], state_.pack(update.state, group.state, row, e_.dtype));
    }
  }
  return statuses;
}

bool Host::finite_state(const State& state, int64_t row) const {
  if (!needs_.personal) return true;  // then nothing but the delta is trained
  return std::all_of(state.begin(), state.end(), [&](const auto& entry) {
    return torch::isfinite(entry.second[row]).all().template item<bool>();
  });
}

void Host::record(const PlannedGroup& planned, const Update& update,
                  const std::vector<ClientStatus>& statuses, double seconds) {
  compute_seconds_ += seconds;
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    ClientRecord record;
    static_cast<ClientOutcome&>(record) = update.clients[i];
    record.round = plan_.round;
    record.client = planned.ids[i];
    record.rank = comm_.rank();
    record.samples = data_.partition->size(planned.ids[i]);
    record.status = static_cast<int64_t>(statuses[i]);
    record.seconds = seconds / static_cast<double>(planned.ids.size());
    if (needs_.lanes > 1) record.model = planned.lane;
    if (!planned.due.empty()) {
      record.round = planned.due[i];
      record.dispatch = planned.tasks[i];
      record.base_version = planned.base;
      record.staleness = planned.due[i] - 1 - planned.base;
    }
    if (record.round == plan_.round) records_.emplace_back(planned.lane, record);
    if (record.round > plan_.round) due_in(record.round).records.push_back(record);
  }
}

// Collective: what the aggregator chooses on rank 0 by the clients' inner products, [q, m] float64,
// rounded to float32.
torch::Tensor Host::choose(const Meeting::Set& set) {
  const torch::Tensor products = rows_.products(set.rows, e_.network->layout().trainable());
  const auto m = std::ssize(set.rows);
  std::string bytes;
  if (comm_.rank() == 0) {
    const torch::Tensor weights = torch::tensor(set.weights, torch::kFloat64);
    const torch::Tensor chosen =
        (e_.aggregator->takes_stale()
             ? e_.aggregator->choose_stale(products, weights,
                                           torch::tensor(set.staleness, torch::kFloat64))
             : e_.aggregator->choose(products, weights))
            .to(torch::kFloat32)
            .contiguous();
    const std::string name = "aggregator " + e_.job.get<std::string>("aggregator");
    FL_CHECK(chosen.dim() == 2 && chosen.size(0) > 0 && chosen.size(1) == m, name,
             " chooses a matrix of shape ", chosen.sizes(), " (must be [q, ", m,
             "]: a column for each client)");
    FL_CHECK(chosen.sum(1).ne(0).all().item<bool>() && chosen.isfinite().all().item<bool>(), name,
             " chooses weights that come to 0, or are no numbers");
    bytes.assign(static_cast<const char*>(chosen.data_ptr()), chosen.nbytes());
  }
  comm_.broadcast(bytes);
  const auto q = static_cast<int64_t>(bytes.size() / sizeof(float)) / m;
  return torch::from_blob(bytes.data(), {q, m}, torch::kFloat32).to(torch::kFloat64);
}

std::vector<torch::Tensor> Host::meet(const Meeting& meeting) {
  std::vector<torch::Tensor> met;
  for (const Meeting::Set& set : meeting.sets) {
    if (set.rows.empty()) {
      met.emplace_back();
      continue;
    }
    if (meeting.kind == Meeting::Kind::kProducts) {
      met.push_back(rows_.products(set.rows, e_.network->layout().trainable()));
      continue;
    }
    const Aggregator& aggregator = *e_.aggregator;
    const torch::Tensor choice = aggregator.needs_products() ? choose(set) : torch::Tensor();
    int64_t length = e_.network->layout().row();
    for (const auto& [name, size] : needs_.additive) length += size;
    met.push_back(rows_.combine(set.rows, length, [&](const torch::Tensor& rows) {
      torch::Tensor one = aggregator.combine(
          choice.defined() ? choice.mm(rows).div_(choice.sum(1, /*keepdim=*/true)) : rows);
      FL_CHECK(one.dim() == 1 && one.size(0) == rows.size(1), "aggregator ",
               e_.job.get<std::string>("aggregator"), " makes a row of shape ", one.sizes(),
               " of a block of ", rows.size(1), " coordinates");
      return one;
    }));
  }
  return met;
}

void Host::evaluate(const PlannedGroup& planned, const GlobalModel& global,
                    const torch::Tensor& models) {
  Watchdog::get().enter("evaluating", global.round, planned.ids.front());
  const auto start = Clock::now();
  // Clients' own models are made of what is evaluated, where that is the same number of models.
  GlobalModel shown = global;
  if (needs_.evaluates_apart && models.size(0) == global.weights.size(0)) shown.weights = models;
  ClientGroup group = make_group(planned, shown);
  std::vector<PersonalModel> own;
  if (needs_.personal)
    own = told_of("evaluating", planned.ids, global.round,
                  [&] { return e_.algorithm->personalize(group, shown); });
  torch::NoGradGuard no_grad;
  const auto score = [&](int64_t client, std::span<const int64_t> indices,
                         const torch::Tensor& rows, const std::vector<double>& weights) {
    Scorer::Totals totals(rows.size(0));
    if (metrics_.needs_detail_by_client())
      totals.keep_detail(metrics_.classes, metrics_.area_under_curve);
    Scorer::Change change;
    if (e_.input_changes.evaluation()) {
      change = [&, client](const torch::Tensor& x) { return e_.input_changes.masked(x, client); };
    }
    const auto step = static_cast<size_t>(scorer_.batch(rows));
    for (size_t first = 0; first < indices.size(); first += step) {
      Interruption::get().at_step();
      told_of("evaluating", {client}, global.round, [&] {
        scorer_.add(held_back_samples_,
                    indices.subspan(first, std::min(step, indices.size() - first)), rows, weights,
                    totals, change);
      });
    }
    return totals;
  };
  const auto measured = [](bool asked, double value) { return asked ? value : kNotMeasured; };
  for (size_t i = 0; i < planned.ids.size(); ++i) {
    const int64_t client = planned.ids[i];
    const auto indices = held_back_->of(client);
    ClientEvaluation result{
        .round = global.round,
        .client = client,
        .rank = comm_.rank(),
        .samples = std::ssize(indices),
        .holdout = std::binary_search(e_.holdout.begin(), e_.holdout.end(), client) ? 1 : 0};
    Scorer::Totals shared = score(client, indices, models, {});
    const Detail& detail = shared.detail();
    result.loss = shared.whole().mean_loss();
    result.accuracy = shared.whole().accuracy();
    result.balanced_accuracy = measured(metrics_.balanced_accuracy, detail.balanced_accuracy());
    result.area_under_curve = measured(metrics_.area_under_curve, detail.area_under_curve());
    result.macro_f1 = measured(metrics_.macro_f1, detail.macro_f1());
    if (!own.empty()) {
      Scorer::Totals personal = score(client, indices, torch::stack(own[i].rows), own[i].weights);
      const Detail& its = personal.detail();
      result.personal_loss = personal.whole().mean_loss();
      result.personal_accuracy = personal.whole().accuracy();
      result.personal_balanced_accuracy =
          measured(metrics_.balanced_accuracy, its.balanced_accuracy());
      result.personal_area_under_curve =
          measured(metrics_.area_under_curve, its.area_under_curve());
      result.personal_macro_f1 = measured(metrics_.macro_f1, its.macro_f1());
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

}  // namespace fl_sim
