#include "commands/run_estimate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "commands/timetables.h"
#include "engine/client_state.h"
#include "engine/delta_shards.h"
#include "engine/planner.h"
#include "learning/batches.h"
#include "storage/checkpoint.h"

namespace fl_sim {
namespace {

constexpr double kBusy = 0.9;        // of the hosts' time in which they train: few ranks enough
constexpr int64_t kSomeRounds = 10;  // whose deals are looked at

int64_t bytes_of(const Samples& samples) {
  int64_t bytes = 0;
  for (const torch::Tensor& tensor : {samples.inputs, samples.labels}) {
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return bytes;
}
int64_t bytes_of(const Partition& lists) {
  return 8 * (std::ssize(lists.offsets) + std::ssize(lists.indices));
}

}  // namespace

RunEstimate::RunEstimate(const Experiment& experiment, const Measured& measured,
                         const ProcessMemory& at_start, int64_t reading_peak)
    : e_(experiment), m_(measured), at_start_(at_start), reading_peak_(reading_peak) {
  const RoundPlan plan = planner_of(1).next_unanswered(planning_memory(e_));
  for (const int64_t clients : plan.clients) cohort_ += clients;
  rows_ = e_.algorithm->needs().pooled ? std::ssize(plan.groups) : cohort_;
  groups_ = std::ssize(plan.groups);
  count_rounds();
  state_ = state_layout(e_).length() * static_cast<int64_t>(c10::elementSize(e_.dtype));
  const auto clients = static_cast<double>(e_.may_train());
  const double share = std::min(1.0, static_cast<double>(cohort_) / clients);
  clients_with_state_ =
      state_ > 0 ? std::llround(clients * -std::expm1(static_cast<double>(rounds_) *
                                                      std::log1p(-std::min(share, 1 - 1e-12))))
                 : 0;
}

// As virtual time has it, where it ends the run or says when models are looked at.
void RunEstimate::count_rounds() {
  const auto evaluation = read_options<EvaluationPlan>(e_.job);
  if (e_.devices->none() ||
      (read_options<ClockOptions>(e_.job).limit == 0 && evaluation.every_seconds == 0)) {
    rounds_ = e_.job.get<int64_t>("rounds");
    evaluations_ = evaluation.every == 0 ? 1 : (rounds_ + evaluation.every - 1) / evaluation.every;
    return;
  }
  each_timed_round(e_, [&](const TimedRound& round) {
    rounds_ = round.number;
    evaluations_ += round.evaluated ? 1 : 0;
  });
}

Planner RunEstimate::planner_of(int ranks) const {
  const int64_t exchanges = e_.algorithm->needs().exchanges;
  return Planner(e_, ranks, {.down = m_.traffic.down / exchanges, .up = m_.traffic.up / exchanges});
}

std::map<int64_t, RunEstimate::Load> RunEstimate::first_deal(int ranks) const {
  std::map<int64_t, Load> loads;
  for (int rank = ranks == 1 ? 0 : 1; rank < ranks; ++rank) loads[rank];
  const LocalPlan local(e_.job);
  for (const PlannedGroup& group : planner_of(ranks).next_unanswered(planning_memory(e_)).groups) {
    Load& load = loads[group.rank];
    ++load.groups;
    for (size_t i = 0; i < group.ids.size(); ++i) {
      const int64_t limit = group.limits.empty() ? 0 : group.limits[i];
      ++load.clients;
      load.steps += e_.algorithm->needs().pooled
                        ? limit
                        : local.steps_of(e_.partition.size(group.ids[i]), limit);
    }
  }
  return loads;
}

RunEstimate::Pace RunEstimate::pace(int ranks) const {
  Planner planner = planner_of(ranks);
  planner.expect(m_.start, m_.step);
  State memory = planning_memory(e_);
  const int64_t rounds = std::min(rounds_, kSomeRounds);
  double work = 0, span = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    RoundPlan plan;
    for (int64_t exchange = 0; exchange < e_.algorithm->needs().exchanges; ++exchange)
      plan = planner.next_unanswered(memory);  // the same groups in each
    std::vector<ClientRecord> took_part;
    for (const PlannedGroup& group : plan.groups) {
      work += group.seconds;
      for (const int64_t client : group.ids) took_part.emplace_back().client = client;
    }
    e_.sampler->learn(memory, planner.learned_from(std::move(took_part)));
    planner.end_round(memory);
    double last = 0;
    for (int64_t lane = 0; lane < e_.algorithm->needs().lanes; ++lane)
      last = std::max(last, planner.expected_seconds(lane));
    span += last;
  }
  work /= static_cast<double>(rounds);
  span /= static_cast<double>(rounds);
  const double evaluated = static_cast<double>(evaluations()) / static_cast<double>(rounds_);
  const double test = m_.evaluation * evaluated, hosts = hosts_of(ranks);
  const double by_clients =
      evaluated * m_.client_evaluation * std::ceil(static_cast<double>(m_.evaluating) / hosts);
  Pace pace;
  // One rank does it all; else the test set is the server's, while others train.
  pace.round = (ranks == 1 ? span + test : std::max(span, test)) + m_.update + by_clients;
  pace.busy = work / (hosts * pace.round);
  pace.work = work + test + m_.update +
              evaluated * m_.client_evaluation * static_cast<double>(m_.evaluating);
  pace.waiting = ranks > 1 && test > span;
  return pace;
}

int RunEstimate::busy_ranks() const {
  int best = 1;
  double best_busy = 0;
  for (int64_t hosts = 1; hosts <= std::max<int64_t>(1, groups_);
       hosts += std::max<int64_t>(1, hosts / 8)) {
    const int ranks = static_cast<int>(hosts) + 1;
    const double busy = pace(ranks).busy;
    if (busy >= kBusy || busy > best_busy) best = ranks;
    best_busy = std::max(best_busy, std::min(busy, kBusy));
  }
  return best;
}

double RunEstimate::total_seconds(int ranks) const {
  return pace(ranks).round * static_cast<double>(rounds_);
}

// From what the code allocates (host.cpp, server.cpp, communicator.cpp, results.cpp).
RunEstimate::Need RunEstimate::need(int ranks, bool serves, bool trains) const {
  Need need;
  const auto add = [&](const std::string& name, int64_t bytes, bool shared = false) {
    if (bytes == 0) return;
    need.parts.emplace_back(name, bytes);
    if (shared) need.shared += bytes;
  };
  const bool several = ranks > 1;
  const int64_t hosts = hosts_of(ranks), train = bytes_of(e_.data.train);
  const int64_t lists = bytes_of(e_.partition) + bytes_of(e_.validation) + bytes_of(e_.test);
  const int64_t per_host = (cohort_ + hosts - 1) / hosts;
  const ProcessMemory now = memory_now();
  add("program, libraries", at_start_.resident - at_start_.files + now.files);
  add("training set", train, several);
  if (e_.own_tests) add("test set", bytes_of(e_.data.test), several);
  add("partition", lists, several);
  // Large models are broadcast through two halves of a window.
  const bool window = several && m_.weights >= (1 << 16);
  add("window for the model", window ? 2 * m_.weights : 0, true);
  // Beside its own part a rank reads, and the first one writes, a slice of all others'.
  const int64_t slices = several ? m_.sum * (ranks - 1) / ranks : 0;
  add("sum", m_.sum);
  add("others' sums, a slice", slices, true);
  const int64_t model = m_.weights + m_.shared;
  add("model", model);
  // Rows that meet, see delta_shards.h: the wave that a rank sends, the block that it gets, once
  // more as it comes in, and what an aggregator makes of its blocks.
  const Needs needs = e_.algorithm->needs();
  const bool aggregates = e_.aggregator->sees_clients(), meets = aggregates || needs.keeps_deltas;
  const auto number = static_cast<int64_t>(c10::elementSize(e_.dtype));
  int64_t row = e_.network->layout().row();
  for (const auto& [name, size] : needs.additive) row += aggregates ? size : 0;
  row *= number;
  if (meets) {
    const int64_t block = std::min(DeltaShards::kBlock * number, row);  // of a client's row
    const int64_t wave = std::min(ranks * block, row);
    const int64_t doubles = block / number * int64_t{sizeof(double)};
    add("updates that meet",
        (trains && several ? per_host * wave : 0) + cohort_ * (block + 2 * doubles));
    if (aggregates) add("what they come to", serves ? 3 * row : 2 * row / ranks);
  }
  if (serves) {
    add("test set", bytes_of(e_.data.test));
    add("server: state, that of the round before", m_.hidden + model + m_.hidden);
    add("server: mean of the updates", m_.sum / 2);
    add("server: evaluation", 2 * m_.weights + m_.evaluation_memory);
    const int64_t skew = 8 * e_.partition.clients() * (e_.data.classes + 5);
    add("server: results", 2 * m_.weights + skew + (5 << 20));
  }
  if (trains) {
    add("training", m_.training_memory);
    if (meets) add("updates of a round", per_host * row);
    int64_t states = (clients_with_state_ + hosts - 1) / hosts * state_;
    const int64_t limit = e_.job.get<int64_t>("state-memory") << 20;
    if (limit > 0) states = std::min(states, limit);
    add("client states", states);
    if (limit == 0) add("client states before the round", std::min(states, per_host * state_));
    add("client states, being saved", std::min(states, saving_block(state_ / number) * number));
  }
  // The first rank of a machine reads the data, and copies them for all.
  if (serves) {
    const int64_t rest = reading_peak_ + (several ? train + lists : 0) - need.all();
    add("reading the data", std::max<int64_t>(0, rest));
  }
  return need;
}

int64_t RunEstimate::node_need(int ranks) const {
  const Need server = server_need(ranks), host = host_need(ranks);
  if (ranks == 1) return server.all();
  const int64_t files = memory_now().files;
  const int64_t of_others = (ranks - 1) * (host.all() - host.shared - files);
  // A rank's slices are of the others' own parts.
  return server.all() + of_others;
}

}  // namespace fl_sim
