#include "engine/ledger.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/client_state.h"
#include "engine/evaluation_plan.h"
#include "learning/client_metrics.h"
#include "learning/named_model.h"
#include "network/arithmetic.h"
#include "process/interruption.h"

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

// "client 3", "clients 3, 17 and 22", and of many the first ones.
std::string names_of(const std::vector<int64_t>& clients) {
  constexpr size_t kMost = 8;
  const size_t shown = clients.size() > kMost + 1 ? kMost : clients.size();
  std::string text = clients.size() == 1 ? "client " : "clients ";
  for (size_t i = 0; i < shown; ++i) {
    const char* between = i == 0 ? "" : i + 1 == clients.size() ? " and " : ", ";
    text += message(between, clients[i]);
  }
  if (shown < clients.size()) text += message(" and ", clients.size() - shown, " more");
  return text;
}

// Of models [M, P].
std::vector<NamedTensor> named_rows(const Experiment& e, const torch::Tensor& models) {
  const ParameterLayout& layout = e.network->layout();
  const torch::Tensor rows = models.to(torch::kFloat32).cpu();
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

std::vector<NamedTensor> named_model(const Experiment& e, const ServerState& model) {
  return named_rows(e, e.algorithm->evaluated(model));
}

}  // namespace

Ledger::Ledger(const Experiment& experiment, Trackers trackers)
    : e_(experiment),
      trackers_(std::move(trackers)),
      target_accuracy_(read_options<EvaluationPlan>(e_.job).target),
      stops_at_divergence_(e_.job.get<std::string>("on-divergence") == "stop"),
      patience_(e_.job.get<int64_t>("give-up")),
      state_bytes_(state_layout(e_).length() * static_cast<int64_t>(c10::elementSize(e_.dtype))),
      best_(e_.job, e_.network->objective().classifies()),
      evaluator_(*e_.network,
                 {e_.data.test.inputs.to(e_.device), e_.data.test.labels.to(e_.device)},
                 e_.data.scale, e_.data.shift, read_options<Arithmetic>(e_.job).one_thread(),
                 choose_metrics(e_.job, *e_.network, e_.data.classes),
                 [this](const TestResult& result) { evaluated(result); }) {}

void Ledger::restore(int64_t round, int64_t former) {
  outcome_.rounds = round;
  outcome_.rounds_of_former = former;
  if (trackers_.results == nullptr) return;
  const std::vector<RoundRecord>& rounds = trackers_.results->rounds();
  for (const RoundRecord& record : rounds) {
    count(record);
    count_survivors(record);
    best_.take(record);
    if (record.round <= former) outcome_.samples = 0;
  }
  if (!rounds.empty()) {
    outcome_.target_reached =
        target_accuracy_ > 0 && rounds.back().test_accuracy >= target_accuracy_;
    outcome_.out_of_patience = best_.exhausted();
  }
}

// The row of a round that clients evaluate is still pending.
void Ledger::begin(const RoundPlan& plan) {
  const bool trains = plan.kind == RoundPlan::Kind::kTrain || plan.kind == RoundPlan::Kind::kAsk;
  if (trains && underway_.round != plan.round) underway_ = {.round = plan.round, .records = {}};
  int64_t& moved = trains ? underway_.bytes_state : pending_.back().record.bytes_state;
  moved += static_cast<int64_t>(plan.moves.size()) * state_bytes_;
}

void Ledger::add(const std::vector<ClientRecord>& records, const Traffic& whole) {
  for (ClientRecord record : records) {
    const std::pair key{record.client, record.dispatch};
    const auto before = underway_.records.find(key);
    if (before != underway_.records.end()) {
      record.seconds += before->second.seconds;
      record.samples_seen += before->second.samples_seen;
      if (!before->second.counts()) record.status = before->second.status;
    }
    underway_.records[key] = record;
  }
  stop_at_divergence();
  for (const ClientRecord& record : records) {
    const Traffic each = whole.of(e_.algorithm->task_cost(record.client, record.began_in()));
    underway_.bytes_down += each.down;
    underway_.bytes_up += record.answers() ? each.up : 0;
  }
}

void Ledger::leave_out(const std::vector<int64_t>& clients) {
  underway_.left_out.insert(clients.begin(), clients.end());
  if (clients.empty() || said_too_few_) return;
  said_too_few_ = true;
  note(message("aggregator ", e_.job.get<std::string>("aggregator"), " needs ",
               e_.aggregator->fewest(), " clients or more of a model, and round ", underway_.round,
               " had fewer: their ", clients.size(),
               " updates do not count (said once; /rounds/set_aside counts them)"),
       LogLevel::kWarning);
}

// If the job says so, before the round changes the model.
void Ledger::stop_at_divergence() {
  if (!stops_at_divergence_) return;
  for (const auto& [key, record] : underway_.records) {
    const int64_t client = record.client;
    if (!record.is(ClientStatus::kDiverged)) continue;
    for (Tracker* tracker : trackers_.all) tracker->clients(records());
    throw Error(message("client ", client, " diverged in round ", underway_.round,
                        ": its update is not finite, or reaches 2048 (on-divergence is stop; a "
                        "smaller local.lr or a local.clip-norm may help)"));
  }
}

std::vector<ClientRecord> Ledger::records() const {
  std::vector<ClientRecord> records;
  for (const auto& [key, record] : underway_.records) records.push_back(record);
  return records;
}

RoundRecord Ledger::row_of_round(int64_t hosts) const {
  RoundRecord round;
  round.round = underway_.round;
  round.seconds = underway_.seconds;
  round.cohort = std::ssize(underway_.records);
  round.bytes_down = underway_.bytes_down;
  round.bytes_up = underway_.bytes_up;
  round.bytes_state = underway_.bytes_state;
  double loss = 0, loss_weight = 0, busy = 0;
  for (const auto& [key, record] : underway_.records) {
    busy += record.seconds;
    round.samples += record.samples_seen;
    const bool set_aside = record.counts() && underway_.left_out.contains(record.client);
    round.failed += record.counts() && !set_aside ? 0 : 1;
    round.diverged += record.is(ClientStatus::kDiverged) ? 1 : 0;
    round.stragglers += record.is(ClientStatus::kStraggler) ? 1 : 0;
    round.lost += record.is(ClientStatus::kLost) ? 1 : 0;
    round.set_aside += set_aside ? 1 : 0;
    round.partial += record.is(ClientStatus::kPartial) && !set_aside ? 1 : 0;
    if (!record.counts() || record.steps == 0 || !std::isfinite(record.loss)) continue;
    loss += record.loss * static_cast<double>(record.samples);
    loss_weight += static_cast<double>(record.samples);
  }
  if (loss_weight > 0) round.train_loss = loss / loss_weight;
  round.idle_share = 1 - busy / (round.seconds * static_cast<double>(hosts));
  return round;
}

void Ledger::end_round(const ServerState& model, const Figures& figures, const VirtualRound& times,
                       Evaluation evaluates, int64_t hosts, int64_t absent) {
  RoundRecord round = row_of_round(hosts);
  round.figures = figures;
  round.virtual_time = times;
  // A host trains for later rounds too: how long it did not is in /ranks.
  if (times.asynchronous()) round.idle_share = kNotMeasured;
  round.absent = absent;
  count_survivors(round);
  evaluates.test_set = evaluates.test_set || outcome_.gave_up;  // the last model is looked at
  const std::vector<ClientRecord> clients = records();
  for (Tracker* tracker : trackers_.all) tracker->clients(clients);
  report_failures();
  hint_at_inputs();
  if (evaluates.test_set) {
    evaluator_.finish(1);  // two models wait at most, so that a short round costs nobody time
    evaluator_.add(round.round, e_.algorithm->evaluated(model));
  }
  pending_.push_back({round, evaluates.test_set, evaluates.clients, {}});
  if (best_.saves() && (evaluates.test_set || evaluates.clients))
    pending_.back().model = e_.algorithm->evaluated(model).detach().clone();
  note(describe_round(clients, round), LogLevel::kDebug);
  outcome_.rounds = round.round;
  complete_rounds();
  save(model, false);
}

// Once a run: inputs far from 0 are the commonest reason.
void Ledger::hint_at_inputs() {
  constexpr double kLarge = 20;
  const bool diverged =
      std::any_of(underway_.records.begin(), underway_.records.end(),
                  [](const auto& entry) { return entry.second.is(ClientStatus::kDiverged); });
  if (!diverged || std::exchange(hinted_, true)) return;
  const torch::Tensor& x = e_.data.train.inputs;
  const auto seen = [&](const torch::Tensor& input) {
    return std::abs(input.to(torch::kFloat64).item<double>() * e_.data.scale + e_.data.shift);
  };
  const double largest = std::max(seen(x.max()), seen(x.min()));
  if (largest < kLarge) return;
  note(message("the model sees inputs as large as ", largest, ", of which clients may diverge (",
               e_.data.scaled_by.empty()
                   ? "inputs near 1 are better, or a smaller local.lr"
                   : e_.data.scaled_by + " brings them near 1, where it is easier to learn",
               largest > 127 && largest <= 255 ? "; 0.00392157 is 1/255, for pixels)" : ")"),
       LogLevel::kWarning);
}

void Ledger::report_failures() const {
  std::vector<int64_t> own, whole;
  for (const auto& [key, record] : underway_.records) {
    if (record.is(ClientStatus::kPersonalDiverged)) own.push_back(record.client);
    if (record.is(ClientStatus::kDiverged)) whole.push_back(record.client);
  }
  if (!own.empty()) {
    note(message("of ", names_of(own), own.size() == 1 ? " the own model" : " the own models",
                 " diverged in round ", underway_.round,
                 own.size() == 1 ? ": it is kept as it was" : ": they are kept as they were"),
         LogLevel::kWarning);
  }
  if (whole.empty()) return;
  note(message(names_of(whole), " diverged in round ", underway_.round,
               whole.size() == 1 ? ": its update is not finite, or reaches 2048 (left out)"
                                 : ": their updates are not finite, or reach 2048 (left out)"),
       LogLevel::kWarning);
}

// A round in vain is one without a client whose update counts.
void Ledger::count_survivors(const RoundRecord& round) {
  const bool in_vain = round.failed == round.cohort;
  in_vain_in_row_ = in_vain ? in_vain_in_row_ + 1 : 0;
  outcome_.rounds_in_vain += in_vain ? 1 : 0;
  outcome_.gave_up = patience_ > 0 && in_vain_in_row_ >= patience_;
}

void Ledger::add_evaluations(std::vector<ClientEvaluation> evaluations) {
  std::sort(
      evaluations.begin(), evaluations.end(),
      [](const ClientEvaluation& a, const ClientEvaluation& b) { return a.client < b.client; });
  for (PendingRound& pending : pending_) {
    if (pending.record.round != underway_.round) continue;
    pending.record.clients = summarize(evaluations, false, false);
    pending.record.personal = summarize(evaluations, false, true);
    pending.record.holdout_clients = summarize(evaluations, true, false);
    pending.record.holdout_personal = summarize(evaluations, true, true);
    pending.waiting_clients = false;
  }
  for (Tracker* tracker : trackers_.all) tracker->evaluations(evaluations);
  complete_rounds();
}

void Ledger::evaluated(const TestResult& result) {
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
void Ledger::complete_rounds() {
  while (!pending_.empty() && !pending_.front().waiting && !pending_.front().waiting_clients) {
    const PendingRound round = std::move(pending_.front());
    pending_.pop_front();
    count(round.record);
    judge(round);
    tell(round.record);
  }
}

// Whoever fails, the others are told; the first error is thrown then, where one may still be.
void Ledger::tell(const RoundRecord& round) {
  std::exception_ptr first;
  for (Tracker* tracker : trackers_.all) {
    try {
      tracker->round(round);
      if (tracker == trackers_.results && before_shown_ && Interruption::get().requested())
        before_shown_();
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first && !ends_by_error_) std::rethrow_exception(first);
}

void Ledger::finish_by_error(bool hurry) noexcept {
  ends_by_error_ = true;
  if (!hurry) {
    try {
      evaluator_.finish();
    } catch (...) {  // it may be what has failed
    }
  }
  try {
    leave_unevaluated();
  } catch (...) {  // the error that ends the run is told
  }
}

void Ledger::leave_unevaluated() {
  for (PendingRound& pending : pending_) pending.waiting = pending.waiting_clients = false;
  complete_rounds();
}

// Whether it is the best so far, and the last.
void Ledger::judge(const PendingRound& round) {
  const bool better = best_.take(round.record);
  outcome_.out_of_patience = best_.exhausted();
  if (!better || !best_.saves()) return;
  const std::vector<NamedTensor> model = named_rows(e_, round.model);
  for (Tracker* tracker : trackers_.all) tracker->best(best_.round(), best_.value(), model);
}

void Ledger::count(const RoundRecord& round) {
  ++complete_rows_;
  outcome_.samples += round.samples;
  outcome_.asked += round.cohort;
  outcome_.diverged += round.diverged;
  outcome_.stragglers += round.stragglers;
  outcome_.lost += round.lost;
  outcome_.set_aside += round.set_aside;
  outcome_.partial += round.partial;
  outcome_.virtual_time += round.virtual_time;
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

void Ledger::note(const std::string& text, LogLevel level) const {
  for (Tracker* tracker : trackers_.all) tracker->note(text, level);
}

void Ledger::save(const ServerState& model, bool force) const {
  for (Tracker* tracker : trackers_.all)
    tracker->save([&] { return named_model(e_, model); }, force);
}

void Ledger::save_what_there_is(const ServerState& model) const noexcept {
  for (Tracker* tracker : trackers_.all) {
    try {
      tracker->save([&] { return named_model(e_, model); }, true);
    } catch (...) {  // the error that ends the run is told
    }
  }
}

const Outcome& Ledger::finish(const ServerState& model, std::vector<RankRecord> ranks,
                              bool paused) {
  outcome_.paused = paused;
  outcome_.ranks = std::move(ranks);
  outcome_.best_round = best_.round();
  outcome_.best_value = best_.value();
  outcome_.checksum = model_checksum(named_model(e_, model));
  for (Tracker* tracker : trackers_.all) tracker->end(outcome_);
  save(model, true);
  return outcome_;
}

}  // namespace fl_sim
