#include "engine/server.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/version.h"
#include "engine/host.h"
#include "engine/lanes.h"
#include "learning/client_metrics.h"
#include "process/interruption.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

// For --log-level debug.
std::string describe_round(const std::vector<ClientRecord>& records, const RoundRecord& round) {
  std::map<int64_t, double> seconds;  // by rank
  for (const ClientRecord& record : records) seconds[record.rank] += record.seconds;
  std::string ranks;
  for (const auto& [rank, time] : seconds) ranks += message(" ", rank, ": ", time, " s,");
  return message("round ", round.round, " trained in ", round.seconds, " s; ranks", ranks, " ",
                 round.bytes_state, " bytes of client state moved");
}

// All ranks but the server's; one rank is both.
std::vector<int64_t> hosts_among(int ranks) {
  std::vector<int64_t> hosts(static_cast<size_t>(std::max(1, ranks - 1)));
  std::iota(hosts.begin(), hosts.end(), ranks == 1 ? 0 : 1);
  return hosts;
}

}  // namespace

Traffic client_traffic(const Experiment& e, const GlobalModel& model) {
  const ParameterLayout& layout = e.network->layout();
  const Needs needs = e.algorithm->needs();
  const int64_t one_model = needs.not_sent.complement(layout).numbers(layout);
  // Vectors as long as the model, or as its trainable part, have its gaps.
  const auto numbers = [&](int64_t size) {
    if (size == layout.trainable()) return layout.count();
    return size == layout.row() ? RowPart().complement(layout).numbers(layout) : size;
  };
  Traffic each{
      .down =
          (needs.models_received > 0 ? needs.models_received : needs.models_in_lane()) * one_model,
      .up = one_model};
  int64_t shared = 0;
  for (const auto& [name, tensor] : model.shared) {
    shared +=
        tensor.dim() == 2 ? tensor.size(0) * numbers(tensor.size(1)) : numbers(tensor.numel());
  }
  each.down += shared / needs.lanes;  // a lane's clients need what belongs to their model
  for (const auto& [name, size] : needs.additive) each.up += numbers(size);
  const auto bytes = static_cast<int64_t>(c10::elementSize(e.dtype));
  return {.down = each.down * bytes, .up = each.up * bytes};
}

Server::Server(const Experiment& experiment, int ranks, Results* results, Progress* progress)
    : e_(experiment),
      results_(results),
      progress_(progress),
      rounds_(e_.job.get<int64_t>("rounds")),
      evaluate_every_(e_.job.get<int64_t>("evaluate-every")),
      checkpoint_every_(e_.job.get<int64_t>("checkpoint-every")),
      exchanges_(e_.algorithm->needs().exchanges),
      lanes_(e_.algorithm->needs().lanes),
      seed_(static_cast<uint64_t>(e_.job.get<int64_t>("seed"))),
      target_accuracy_(e_.job.get<double>("target-accuracy")),
      evaluate_clients_(e_.job.get<double>("evaluate-clients")),
      local_(e_.job),
      ranks_(ranks),
      times_(hosts_among(ranks)),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))),
      evaluator_(*e_.network,
                 {e_.data.test.inputs.to(e_.device), e_.data.test.labels.to(e_.device)},
                 e_.data.scale, e_.data.shift, e_.job.get<int64_t>("threads") == 1,
                 choose_metrics(e_.job, *e_.network, e_.data.classes),
                 [this](const TestResult& result) { evaluated(result); }) {}

void Server::restore(std::unordered_map<int64_t, int64_t> holders, int64_t former) {
  holders_ = std::move(holders);
  if (results_ == nullptr) return;
  for (const RoundRecord& round : results_->rounds()) {
    count(round);
    if (round.round <= former) outcome_.samples = 0;
  }
  if (!results_->rounds().empty()) {
    outcome_.target_reached =
        target_accuracy_ > 0 && results_->rounds().back().test_accuracy >= target_accuracy_;
  }
  outcome_.rounds = round_;
  outcome_.rounds_of_former = former;
}

void Server::drop_round() {
  --round_;
  exchange_ = exchanges_ - 1;
  underway_ = {};
  new_model_ = dropped_ = true;
}

bool Server::checkpoint_due() const {
  const bool begins_round = !underway_.evaluate_clients && !outcome_.target_reached &&
                            (round_ == 0 || exchange_ + 1 >= exchanges_) && round_ < rounds_;
  return begins_round && checkpoint_every_ > 0 && round_ > saved_ &&
         round_ / checkpoint_every_ > saved_ / checkpoint_every_;
}

RoundPlan Server::next(bool may_save) {
  RoundPlan plan;
  const bool due = may_save && checkpoint_due();
  if (underway_.evaluate_clients) {
    underway_.evaluate_clients = false;
    plan = plan_evaluation();
  } else if (outcome_.target_reached) {
    return plan;
  } else if (round_ > 0 && exchange_ + 1 < exchanges_) {
    ++exchange_;
    plan = underway_.plan;
    plan.moves.clear();
  } else {
    if (round_ == rounds_) return plan;
    if (Interruption::get().requested()) {
      evaluator_.finish();
      if (outcome_.target_reached) return plan;
      plan.kind = RoundPlan::Kind::kPause;
      plan.roll_back = std::exchange(dropped_, false);
      if (round_ > saved_) plan.checkpoint = saved_ = round_;
      return plan;
    }
    if (due) saved_ = round_;
    exchange_ = 0;
    plan = plan_training(++round_);
    if (due) plan.checkpoint = saved_;
  }
  plan.round = round_;
  plan.exchange = exchange_;
  plan.new_model = new_model_;
  plan.roll_back = std::exchange(dropped_, false);
  new_model_ = false;
  return plan;
}

// Ids of clients, ascending.
std::vector<int64_t> Server::draw_cohort(int64_t round) {
  const double chance = e_.job.get<double>("availability.probability");
  const int64_t all = e_.trained.empty() ? e_.partition.clients() : std::ssize(e_.trained);
  const auto id = [&](int64_t place) {
    return e_.trained.empty() ? place : e_.trained[static_cast<size_t>(place)];
  };
  std::vector<int64_t> available;  // places; all if everybody always is
  for (int64_t place = 0; chance < 1 && place < all; ++place) {
    if (Rng(seed_, "availability", round, id(place)).uniform() < chance) available.push_back(place);
  }
  const int64_t candidates = chance < 1 ? std::ssize(available) : all;
  if (candidates == 0) return {};
  Rng rng(seed_, "sampler", round);
  std::vector<int64_t> cohort = e_.sampler->sample(round, candidates, rng);
  assert(std::is_sorted(cohort.begin(), cohort.end()));
  for (int64_t& place : cohort)
    place = id(chance < 1 ? available[static_cast<size_t>(place)] : place);
  return cohort;
}

RoundPlan Server::plan_training(int64_t round) {
  underway_ = {};
  RoundPlan plan{.kind = RoundPlan::Kind::kTrain};
  std::vector<int64_t> cohort = draw_cohort(round);

  // Who comes late, does a part, or never answers.
  std::map<int64_t, int64_t> limits;
  std::set<int64_t> late, lost;
  const double fraction = e_.job.get<double>("stragglers.fraction");
  if (fraction > 0) {
    Rng rng(seed_, "stragglers", round);
    const bool drop = e_.job.get<std::string>("stragglers.policy") == "drop";
    const std::vector<int64_t> order = rng.permutation(std::ssize(cohort));
    const auto count = std::llround(fraction * static_cast<double>(cohort.size()));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t client = cohort[static_cast<size_t>(order[static_cast<size_t>(i)])];
      if (drop) {
        late.insert(client);
      } else {
        limits[client] = 1 + rng.below(local_.steps > 0 ? local_.steps : local_.epochs);
      }
    }
  }
  const double dropout = e_.job.get<double>("availability.dropout");
  for (const int64_t client : cohort) {
    if (dropout > 0 && Rng(seed_, "lost", round, client).uniform() < dropout) lost.insert(client);
    if (faults_.has(Faults::Kind::kClientCrash, round, client)) lost.insert(client);
  }

  const auto limit = [&](int64_t client) {
    const auto found = limits.find(client);
    return found == limits.end() ? int64_t{0} : found->second;
  };
  const auto steps = [&](int64_t client) {
    return local_.steps_of(e_.partition.size(client), limit(client));
  };

  // The cohort's parts, one a lane: disjoint and of equal size.
  std::vector<std::vector<int64_t>> parts = {cohort};
  if (lanes_ > 1) {
    Rng rng(seed_, "lanes", round);
    rng.shuffle(std::span(cohort));
    parts.clear();
    const auto each = cohort.size() / static_cast<size_t>(lanes_);
    for (size_t lane = 0; lane < static_cast<size_t>(lanes_); ++lane) {
      const auto first = cohort.begin() + static_cast<std::ptrdiff_t>(lane * each);
      parts.emplace_back(first, first + static_cast<std::ptrdiff_t>(each));
      std::sort(parts.back().begin(), parts.back().end());
    }
  }
  for (size_t lane = 0; lane < parts.size(); ++lane) {
    std::vector<int64_t> trains;
    int64_t samples = 0, all_steps = 0;
    for (const int64_t client : parts[lane]) {
      samples += e_.partition.size(client);
      if (late.contains(client) || lost.contains(client)) {
        ClientRecord& absent = underway_.absent.emplace_back();
        absent.weight = 0;
        absent.round = round;
        absent.client = client;
        absent.samples = e_.partition.size(client);
        absent.status = static_cast<int64_t>(lost.contains(client) ? ClientStatus::kLost
                                                                   : ClientStatus::kStraggler);
        absent.model = static_cast<int64_t>(lane);
        underway_.absent_lane.push_back(static_cast<int64_t>(lane));
      } else {
        trains.push_back(client);
        all_steps += steps(client);
      }
    }
    plan.clients.push_back(std::ssize(parts[lane]));
    plan.samples.push_back(samples);
    if (e_.algorithm->needs().pooled) {
      PlannedGroup pool{.ids = {0}, .limits = {all_steps}};
      pool.seconds = times_.seconds(all_steps);
      if (all_steps > 0) plan.groups.push_back(std::move(pool));
      continue;
    }
    for (PlannedGroup& group : make_groups(trains, e_.job.get<int64_t>("group-size"), steps)) {
      group.lane = static_cast<int64_t>(lane);
      for (const int64_t client : group.ids) {
        group.seconds += times_.seconds(steps(client));
        if (!limits.empty()) group.limits.push_back(limit(client));
      }
      plan.groups.push_back(std::move(group));
    }
  }
  deal_groups(plan);
  underway_.plan = plan;
  underway_.plan.round = round;
  return plan;
}

// Clients that evaluate: drawn by the seed, of those that may train and of those that never do
// alike.
RoundPlan Server::plan_evaluation() {
  RoundPlan plan{.kind = RoundPlan::Kind::kEvaluate};
  const Partition& held_back =
      e_.job.get<std::string>("evaluate-split") == "test" ? e_.test : e_.validation;
  std::vector<int64_t> seen, unseen, chosen;
  for (int64_t client = 0; client < held_back.clients(); ++client) {
    if (held_back.size(client) == 0) continue;
    const bool holdout = std::binary_search(e_.holdout.begin(), e_.holdout.end(), client);
    (holdout ? unseen : seen).push_back(client);
  }
  const auto least = static_cast<size_t>(e_.job.get<int64_t>("evaluate-min-clients"));
  Rng rng(seed_, "evaluate-clients", round_);
  for (std::vector<int64_t>* all : {&seen, &unseen}) {
    const auto share =
        static_cast<size_t>(std::llround(evaluate_clients_ * static_cast<double>(all->size())));
    const size_t count = std::min(all->size(), std::max(least, share));
    if (count < all->size()) rng.shuffle(std::span(*all));
    chosen.insert(chosen.end(), all->begin(), all->begin() + static_cast<std::ptrdiff_t>(count));
  }
  const auto steps = [&](int64_t client) { return local_.steps_of(e_.partition.size(client)); };
  plan.groups = make_groups(chosen, e_.job.get<int64_t>("group-size"), steps);
  for (PlannedGroup& group : plan.groups) {
    for (const int64_t client : group.ids) group.seconds += times_.seconds(steps(client));
  }
  deal_groups(plan);
  return plan;
}

// Each lane's groups to its own hosts, see lane_hosts().
void Server::deal_groups(RoundPlan& plan) {
  int64_t state_size = 0;
  for (const auto& [name, size] : state_sizes(e_)) state_size += size;
  auto* holders = state_size > 0 ? &holders_ : nullptr;
  const bool random = TestHooks::get().random_deal;
  expected_seconds_.clear();
  if (lanes_ == 1 || plan.kind == RoundPlan::Kind::kEvaluate) {
    plan.moves = deal(plan.groups, times_.hosts(), holders, random);
    expected_seconds_.push_back(times_.makespan(plan.groups));
  } else {
    std::vector<PlannedGroup> all;
    for (int64_t lane = 0; lane < lanes_; ++lane) {
      std::vector<PlannedGroup> own;
      for (const PlannedGroup& group : plan.groups) {
        if (group.lane == lane) own.push_back(group);
      }
      std::vector<HostSpeed> hosts;
      for (const int rank : lane_hosts(lane, lanes_, ranks_)) {
        for (const HostSpeed& host : times_.hosts()) {
          if (host.rank == rank) hosts.push_back(host);
        }
      }
      const std::vector<StateMove> moves = deal(own, hosts, holders, random);
      plan.moves.insert(plan.moves.end(), moves.begin(), moves.end());
      all.insert(all.end(), own.begin(), own.end());
      // A host of several lanes has to be through with those before.
      std::vector<PlannedGroup> until;
      for (const PlannedGroup& group : all) {
        if (std::any_of(hosts.begin(), hosts.end(),
                        [&](const HostSpeed& host) { return host.rank == group.rank; })) {
          until.push_back(group);
        }
      }
      expected_seconds_.push_back(times_.makespan(until));
    }
    plan.groups = std::move(all);
  }
  // The row of a round that clients evaluate is still pending.
  int64_t& moved = plan.kind == RoundPlan::Kind::kEvaluate ? pending_.back().record.bytes_state
                                                           : underway_.bytes_state;
  moved += static_cast<int64_t>(plan.moves.size()) * state_size *
           static_cast<int64_t>(c10::elementSize(e_.dtype));
}

void Server::update(ServerState& model, int64_t lane, const WeightedSum& total,
                    std::vector<ClientRecord> records,
                    const std::function<torch::Tensor(const std::vector<int64_t>&)>& products) {
  // Of all lanes together: in one lane's records the other lanes' hosts did nothing.
  underway_.measured.insert(underway_.measured.end(), records.begin(), records.end());
  for (size_t i = 0; i < underway_.absent.size(); ++i) {
    if (underway_.absent_lane[i] == lane && !e_.algorithm->needs().pooled)
      records.push_back(underway_.absent[i]);
  }
  std::sort(records.begin(), records.end(),
            [](const ClientRecord& a, const ClientRecord& b) { return a.client < b.client; });

  // One record a client and round: of the last exchange, with the time of all.
  for (ClientRecord record : records) {
    const auto before = underway_.records.find(record.client);
    if (before != underway_.records.end()) {
      record.seconds += before->second.seconds;
      record.samples_seen += before->second.samples_seen;
      if (!before->second.counts()) record.status = before->second.status;
    }
    underway_.records[record.client] = record;
  }
  stop_at_divergence(model);

  Sum sum{.lane = lane, .delta = {}, .weight = total.weights(), .extra = {}};
  int64_t index = 0;
  const Needs needs = e_.algorithm->needs();
  for (const std::string& name : needs.scalars) sum.scalar_index[name] = index++;
  for (const ClientRecord& record : records) {
    sum.clients += record.counts() ? 1 : 0;
    sum.samples += record.counts() ? record.samples : 0;
  }
  sum.records = records;
  // Without survivors the model stays as it is.
  if (total.weight() > 0) {
    std::vector<torch::Tensor> means = total.means(e_.dtype);
    sum.delta = means[0];
    size_t next = 1;
    for (const auto& [name, size] : needs.additive) sum.extra[name] = means[next++];
    torch::NoGradGuard no_grad;
    if (needs.keeps_deltas) {
      std::vector<int64_t> clients;
      if (e_.algorithm->wants_products(model, sum)) {
        for (const ClientRecord& record : records) clients.push_back(record.client);
      }
      sum.products = products(clients);
    }
    e_.algorithm->aggregate(model, sum);
  } else if (needs.keeps_deltas) {
    products({});
  }
  new_model_ = true;

  const Traffic each = client_traffic(e_, model);
  underway_.bytes_down += each.down * std::ssize(records);
  underway_.bytes_up +=
      each.up * std::count_if(records.begin(), records.end(), [](const ClientRecord& record) {
        return !record.is(ClientStatus::kLost) && !record.is(ClientStatus::kStraggler);
      });
}

// If the job says so, before the round changes the model.
void Server::stop_at_divergence(const ServerState& model) {
  if (e_.job.get<std::string>("on-divergence") != "stop") return;
  std::vector<ClientRecord> records;
  bool diverged = false;
  for (const auto& [client, record] : underway_.records) {
    records.push_back(record);
    diverged = diverged || record.is(ClientStatus::kDiverged);
  }
  if (!diverged) return;
  if (results_ != nullptr) results_->add_clients(records);
  report_failures(model);
}

void Server::end_exchange(ServerState& model, double seconds) {
  underway_.seconds += seconds;
  times_.learn(underway_.measured);
  underway_.measured.clear();
  if (exchange_ + 1 == exchanges_) end_round(model);
}

bool Server::evaluation_due(int64_t round) const {
  return round == rounds_ || (evaluate_every_ > 0 && round % evaluate_every_ == 0);
}

void Server::end_round(ServerState& model) {
  std::vector<ClientRecord> records;
  for (const auto& [client, record] : underway_.records) records.push_back(record);
  {
    torch::NoGradGuard no_grad;
    e_.algorithm->end_round(model, records);
  }
  RoundRecord round{.round = round_,
                    .seconds = underway_.seconds,
                    .cohort = std::ssize(records),
                    .bytes_down = underway_.bytes_down,
                    .bytes_up = underway_.bytes_up,
                    .bytes_state = underway_.bytes_state};
  double loss = 0, loss_weight = 0, busy = 0;
  for (const ClientRecord& record : records) {
    busy += record.seconds;
    round.samples += record.samples_seen;
    round.failed += record.counts() ? 0 : 1;
    if (!record.counts() || record.steps == 0 || !std::isfinite(record.loss)) continue;
    loss += record.loss * static_cast<double>(record.samples);
    loss_weight += static_cast<double>(record.samples);
  }
  if (loss_weight > 0) round.train_loss = loss / loss_weight;
  round.idle_share = 1 - busy / (round.seconds * static_cast<double>(times_.hosts().size()));
  if (results_ != nullptr) results_->add_clients(records);
  report_failures(model);

  const bool evaluate = evaluation_due(round_);
  if (evaluate) {
    evaluator_.finish(1);  // two models wait at most, so that a short round costs nobody time
    evaluator_.add(round_, model.weights);
  }
  underway_.evaluate_clients = evaluate && evaluate_clients_ > 0;
  pending_.push_back({round, evaluate, underway_.evaluate_clients});
  if (progress_ != nullptr) progress_->note(describe_round(records, round), LogLevel::kDebug);
  outcome_.rounds = round_;
  complete_rounds();
  if (results_ != nullptr && results_->due()) save(model, false);
}

void Server::report_failures(const ServerState& model) {
  const bool stop = e_.job.get<std::string>("on-divergence") == "stop";
  for (const auto& [client, record] : underway_.records) {
    if (record.is(ClientStatus::kPersonalDiverged) && progress_ != nullptr) {
      progress_->note(message("client ", client, "'s own model diverged in round ", round_,
                              ": it is kept as it was"),
                      LogLevel::kWarning);
    }
    if (!record.is(ClientStatus::kDiverged)) continue;
    const std::string what = message("client ", client, " diverged in round ", round_,
                                     ": its update is not finite, or reaches 2048");
    if (stop) {
      evaluator_.finish();
      if (results_ != nullptr) save(model, true);
      throw Error(what +
                  " (on-divergence is stop; a smaller local.lr or a local.clip-norm may help)");
    }
    if (progress_ != nullptr) progress_->note(what + " (left out)", LogLevel::kWarning);
  }
}

void Server::add_evaluations(std::vector<ClientEvaluation> evaluations) {
  std::sort(
      evaluations.begin(), evaluations.end(),
      [](const ClientEvaluation& a, const ClientEvaluation& b) { return a.client < b.client; });
  for (PendingRound& pending : pending_) {
    if (pending.record.round != round_) continue;
    pending.record.clients = summarize(evaluations, false, false);
    pending.record.personal = summarize(evaluations, false, true);
    pending.record.holdout_clients = summarize(evaluations, true, false);
    pending.record.holdout_personal = summarize(evaluations, true, true);
    pending.waiting_clients = false;
  }
  if (results_ != nullptr) results_->add_evaluations(evaluations);
  complete_rounds();
}

void Server::evaluated(const TestResult& result) {
  for (PendingRound& pending : pending_) {
    if (pending.record.round != result.round) continue;
    pending.record.test_loss = result.loss;
    pending.record.test_accuracy = result.accuracy;
    pending.record.model_loss = result.model_loss;
    pending.record.model_accuracy = result.model_accuracy;
    pending.record.metrics = result.metrics;
    pending.waiting = false;
  }
  outcome_.target_reached = target_accuracy_ > 0 && result.accuracy >= target_accuracy_;
  complete_rounds();
}

// Rows leave in order, each when its evaluation is there.
void Server::complete_rounds() {
  while (!pending_.empty() && !pending_.front().waiting && !pending_.front().waiting_clients) {
    const RoundRecord round = pending_.front().record;
    pending_.pop_front();
    count(round);
    if (progress_ != nullptr) progress_->round_done(round);
    if (results_ != nullptr) results_->add_round(round);
  }
}

void Server::count(const RoundRecord& round) {
  ++outcome_rows_;
  outcome_.samples += round.samples;
  if (round.clients.clients > 0) outcome_.evaluated = round;
  outcome_.bytes += round.bytes_down + round.bytes_up;
  if (!std::isnan(round.test_loss)) {
    outcome_.last_loss = round.test_loss;
    outcome_.last_metrics = round.metrics;
  }
  if (std::isnan(round.test_accuracy)) return;
  outcome_.last_accuracy = round.test_accuracy;
  if (!(outcome_.best_accuracy >= round.test_accuracy))
    outcome_.best_accuracy = round.test_accuracy;
}

std::vector<NamedTensor> Server::named_model(const ServerState& model) const {
  const ParameterLayout& layout = e_.network->layout();
  const torch::Tensor rows = model.weights.to(torch::kFloat32).cpu();
  std::vector<NamedTensor> named;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const torch::Tensor values = layout.view(rows, static_cast<int64_t>(i)).contiguous();
    const float* data = values.data_ptr<float>();
    std::vector<int64_t> shape = layout.parameters()[i].shape;
    if (rows.size(0) > 1) shape.insert(shape.begin(), rows.size(0));  // several models
    named.push_back({layout.parameters()[i].name, shape, {data, data + values.numel()}});
  }
  return named;
}

void Server::save(const ServerState& model, bool force) {
  results_->set_model(named_model(model));
  results_->save(force);
}

const Outcome& Server::finish(const ServerState& model, std::vector<RankRecord> ranks,
                              bool paused) {
  outcome_.paused = paused;
  outcome_.ranks = std::move(ranks);
  outcome_.checksum = model_checksum(named_model(model));
  if (results_ != nullptr) {
    results_->set_ranks(outcome_.ranks);
    if (!paused) results_->add_provenance("end", utc_now());
    save(model, true);
  }
  return outcome_;
}

}  // namespace fl_sim
