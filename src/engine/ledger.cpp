#include "engine/ledger.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/client_state.h"
#include "engine/evaluation_plan.h"
#include "learning/client_metrics.h"
#include "network/arithmetic.h"

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

std::vector<NamedTensor> named_model(const Experiment& e, const ServerState& model) {
  const ParameterLayout& layout = e.network->layout();
  const torch::Tensor rows = e.algorithm->evaluated(model).to(torch::kFloat32).cpu();
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

}  // namespace

Ledger::Ledger(const Experiment& experiment, Trackers trackers)
    : e_(experiment),
      trackers_(std::move(trackers)),
      target_accuracy_(read_options<EvaluationPlan>(e_.job).target),
      stops_at_divergence_(e_.job.get<std::string>("on-divergence") == "stop"),
      state_bytes_(state_layout(e_).length() * static_cast<int64_t>(c10::elementSize(e_.dtype))),
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
    if (record.round <= former) outcome_.samples = 0;
  }
  if (!rounds.empty()) {
    outcome_.target_reached =
        target_accuracy_ > 0 && rounds.back().test_accuracy >= target_accuracy_;
  }
}

// The row of a round that clients evaluate is still pending.
void Ledger::begin(const RoundPlan& plan) {
  const bool trains = plan.kind == RoundPlan::Kind::kTrain;
  if (trains && plan.exchange == 0) underway_ = {.round = plan.round, .records = {}};
  int64_t& moved = trains ? underway_.bytes_state : pending_.back().record.bytes_state;
  moved += static_cast<int64_t>(plan.moves.size()) * state_bytes_;
}

void Ledger::add(const ServerState& model, const std::vector<ClientRecord>& records,
                 const Traffic& each) {
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
  underway_.bytes_down += each.down * std::ssize(records);
  underway_.bytes_up +=
      each.up * std::count_if(records.begin(), records.end(), [](const ClientRecord& record) {
        return !record.is(ClientStatus::kLost) && !record.is(ClientStatus::kStraggler);
      });
}

// If the job says so, before the round changes the model.
void Ledger::stop_at_divergence(const ServerState& model) {
  if (!stops_at_divergence_) return;
  for (const auto& [client, record] : underway_.records) {
    if (!record.is(ClientStatus::kDiverged)) continue;
    for (Tracker* tracker : trackers_.all) tracker->clients(records());
    evaluator_.finish();
    save(model, true);
    throw Error(message("client ", client, " diverged in round ", underway_.round,
                        ": its update is not finite, or reaches 2048 (on-divergence is stop; a "
                        "smaller local.lr or a local.clip-norm may help)"));
  }
}

std::vector<ClientRecord> Ledger::records() const {
  std::vector<ClientRecord> records;
  for (const auto& [client, record] : underway_.records) records.push_back(record);
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
  for (const auto& [client, record] : underway_.records) {
    busy += record.seconds;
    round.samples += record.samples_seen;
    round.failed += record.counts() && !underway_.left_out.contains(client) ? 0 : 1;
    if (!record.counts() || record.steps == 0 || !std::isfinite(record.loss)) continue;
    loss += record.loss * static_cast<double>(record.samples);
    loss_weight += static_cast<double>(record.samples);
  }
  if (loss_weight > 0) round.train_loss = loss / loss_weight;
  round.idle_share = 1 - busy / (round.seconds * static_cast<double>(hosts));
  return round;
}

void Ledger::end_round(const ServerState& model, const Figures& figures,
                       const Evaluation& evaluates, int64_t hosts) {
  RoundRecord round = row_of_round(hosts);
  round.figures = figures;
  const std::vector<ClientRecord> clients = records();
  for (Tracker* tracker : trackers_.all) tracker->clients(clients);
  report_failures();
  hint_at_inputs();
  if (evaluates.test_set) {
    evaluator_.finish(1);  // two models wait at most, so that a short round costs nobody time
    evaluator_.add(round.round, e_.algorithm->evaluated(model));
  }
  pending_.push_back({round, evaluates.test_set, evaluates.clients});
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
  for (const auto& [client, record] : underway_.records) {
    if (record.is(ClientStatus::kPersonalDiverged)) {
      note(message("client ", client, "'s own model diverged in round ", record.round,
                   ": it is kept as it was"),
           LogLevel::kWarning);
    }
    if (!record.is(ClientStatus::kDiverged)) continue;
    note(message("client ", client, " diverged in round ", record.round,
                 ": its update is not finite, or reaches 2048 (left out)"),
         LogLevel::kWarning);
  }
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
    const RoundRecord round = pending_.front().record;
    pending_.pop_front();
    count(round);
    for (Tracker* tracker : trackers_.all) tracker->round(round);
  }
}

void Ledger::count(const RoundRecord& round) {
  ++complete_rows_;
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

void Ledger::note(const std::string& text, LogLevel level) const {
  for (Tracker* tracker : trackers_.all) tracker->note(text, level);
}

void Ledger::save(const ServerState& model, bool force) const {
  for (Tracker* tracker : trackers_.all)
    tracker->save([&] { return named_model(e_, model); }, force);
}

const Outcome& Ledger::finish(const ServerState& model, std::vector<RankRecord> ranks,
                              bool paused) {
  outcome_.paused = paused;
  outcome_.ranks = std::move(ranks);
  outcome_.checksum = model_checksum(named_model(e_, model));
  for (Tracker* tracker : trackers_.all) tracker->end(outcome_);
  save(model, true);
  return outcome_;
}

}  // namespace fl_sim
