#include "engine/planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/client_state.h"
#include "engine/lanes.h"
#include "engine/reachable.h"
#include "process/test_hooks.h"
#include "storage/checkpoint.h"

namespace fl_sim {

namespace {

// In State::memory: the microsecond at which the next round begins, at the earliest.
constexpr const char* kNow = "clock.now";

constexpr int64_t kAnswerBytes = 8;  // of a client that was asked: a number

Micros time_of(const State& memory) {
  const auto now = memory.find(kNow);
  return now == memory.end() ? 0 : now->second.item<int64_t>();
}

// All ranks but the server's; one rank is both.
std::vector<int64_t> hosts_among(int ranks) {
  std::vector<int64_t> hosts(static_cast<size_t>(std::max(1, ranks - 1)));
  std::iota(hosts.begin(), hosts.end(), ranks == 1 ? 0 : 1);
  return hosts;
}

}  // namespace

State planning_memory(const Experiment& e) {
  State memory;
  e.sampler->init(memory, e.partition.clients());
  if (!e.devices->none()) memory[kNow] = torch::zeros({1}, torch::kInt64);
  return memory;
}

// Who comes late, who does a part, who never answers, who cannot any more, and who is not needed.
struct Planner::Fate {
  std::map<int64_t, int64_t> limits;
  std::set<int64_t> late, lost, offline, not_needed;

  std::optional<ClientStatus> absent(int64_t client) const {
    if (offline.contains(client)) return ClientStatus::kOffline;
    if (lost.contains(client)) return ClientStatus::kLost;
    if (late.contains(client)) return ClientStatus::kStraggler;
    if (not_needed.contains(client)) return ClientStatus::kNotNeeded;
    return {};
  }

  int64_t limit(int64_t client) const {
    const auto found = limits.find(client);
    return found == limits.end() ? int64_t{0} : found->second;
  }
};

Planner::Planner(const Experiment& experiment, int ranks)
    : e_(experiment),
      needs_(e_.algorithm->needs()),
      rounds_(e_.job.get<int64_t>("rounds")),
      checkpoint_every_(read_options<CheckpointOptions>(e_.job).every),
      exchanges_(needs_.exchanges),
      group_size_(e_.job.get<int64_t>("group-size")),
      cohort_(e_.job.get<int64_t>("cohort")),
      keeps_end_(read_options<CheckpointOptions>(e_.job).keep),
      seed_(e_.job.seed()),
      evaluation_(read_options<EvaluationPlan>(e_.job)),
      absence_(read_options<AbsenceOptions>(e_.job)),
      local_(e_.job),
      ranks_(ranks),
      state_length_(state_layout(e_).length()),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))),
      clock_(experiment),
      population_(all_candidates(e_)),
      times_(hosts_among(ranks)) {}

void Planner::resume_after(int64_t round, int64_t saved,
                           std::unordered_map<int64_t, int64_t> holders,
                           std::vector<int64_t> drawn) {
  round_ = round;
  exchange_ = exchanges_ - 1;
  saved_ = saved;
  holders_ = std::move(holders);
  if (async_) async_->follow(round, std::move(drawn));
  if (async_) async_->go_on_after(round);
}

void Planner::charge(const Traffic& traffic) {
  traffic_ = traffic;
  if (!read_options<AsyncOptions>(e_.job).on()) return;
  async_.emplace(e_, clock_, traffic);
  if (round_ > 0) async_->go_on_after(round_);
}

void Planner::drop_round() {
  --round_;
  exchange_ = exchanges_ - 1;
  clients_next_ = asking_ = false;
  new_model_ = dropped_ = true;
  if (async_) async_->go_on_after(round_);
}

void Planner::end_exchange(const std::vector<ClientRecord>& trained) {
  times_.learn(trained);
  new_model_ = true;
  clients_next_ = last_exchange() && clients_evaluate(round_);
}

// Whether no round may begin at `time` any more.
bool Planner::out_of_time(Micros time) const {
  if (async_) return !async_->timetable().goes_to(round_ + 1);
  const double limit = clock_.options().limit;
  if (!clock_.runs() || limit == 0) return false;
  return time >= micros(limit) || clock_.next_begin(time) >= micros(limit);
}

// Whether a multiple of the job's time between evaluations has come since the round before ended.
bool Planner::passes_evaluation() const {
  const Micros every = clock_.runs() ? micros(evaluation_.every_seconds) : 0;
  return every > 0 && timetable_.end / every > former_end_ / every;
}

bool Planner::evaluates(int64_t round) const {
  return round == rounds_ ||
         (round == round_ && (out_of_time(timetable_.end) || passes_evaluation())) ||
         (evaluation_.every > 0 && round % evaluation_.every == 0);
}

bool Planner::checkpoint_due(bool over) const {
  const bool begins_round =
      !clients_next_ && !asking_ && !over && (round_ == 0 || last_exchange()) && round_ < rounds_;
  return begins_round && checkpoint_every_ > 0 && round_ > saved_ &&
         round_ / checkpoint_every_ > saved_ / checkpoint_every_;
}

RoundPlan Planner::stop(const Situation& now) {
  RoundPlan plan;
  if (keeps_end_ && now.may_save && round_ > saved_) plan.checkpoint = saved_ = round_;
  return plan;
}

RoundPlan Planner::next(const Situation& now, const State& memory) {
  RoundPlan plan;
  if (clients_next_) {
    clients_next_ = false;
    plan = evaluation();
  } else if (now.over) {
    return stop(now);
  } else if (asking_) {
    plan = training(memory);
  } else if (round_ > 0 && !last_exchange()) {
    ++exchange_;
    plan = first_;
    plan.moves.clear();
  } else {
    if (round_ == rounds_ || out_of_time(time_of(memory))) return stop(now);
    if (now.interrupted) {
      plan.kind = RoundPlan::Kind::kPause;
      plan.roll_back = std::exchange(dropped_, false);
      if (round_ > saved_) plan.checkpoint = saved_ = round_;
      return plan;
    }
    const bool due = now.may_save && checkpoint_due(now.over);
    if (due) saved_ = round_;
    ++round_;
    exchange_ = 0;
    plan = async_ ? next_version(memory) : begin_round(memory);
    if (due) plan.checkpoint = saved_;
  }
  plan.round = round_;
  plan.exchange = exchange_;
  plan.new_model = std::exchange(new_model_, false);
  plan.roll_back = std::exchange(dropped_, false);
  return plan;
}

// Those that may train and can be reached.
Candidates Planner::candidates(int64_t round) const {
  if (e_.availability->everybody()) return population_;
  const Micros now = timetable_.start;
  return candidates_among(
      e_,
      [&e = e_, round, now](int64_t client) { return e.availability->online(client, round, now); },
      e_.availability->follows_time());
}

SampleRequest Planner::request(const State& memory) const {
  SampleRequest request{.round = round_,
                        .cohort = clock_.runs() ? clock_.drawn(cohort_) : cohort_,
                        .candidates = who_,
                        .partition = e_.partition,
                        .memory = memory,
                        .population = &population_,
                        .answers = answers_};
  if (!clock_.runs()) return request;
  request.now = seconds_of(timetable_.start);
  request.oracle = clock_.oracle(
      [this](int64_t client) { return clock_.planned(round_, client, traffic_); }, traffic_);
  return request;
}

std::vector<Drawn> Planner::draw(const State& memory) {
  factor_ = 1;
  if (who_.none()) return {};
  Rng rng(seed_, "sampler", round_);
  std::vector<Drawn> cohort = e_.sampler->sample(request(memory), rng);
  const std::string name = "sampler " + e_.job.get<std::string>("sampler");
  double weights = 0;
  for (size_t i = 0; i < cohort.size(); ++i) {
    const auto& [client, weight] = cohort[i];
    FL_CHECK(i == 0 || cohort[i - 1].client < client, name, " drew client ", client,
             " behind client ", cohort[i - 1].client, " (must be distinct and ascending)");
    FL_CHECK(who_.contains(client), name, " drew client ", client,
             ", who is none of the round's candidates");
    FL_CHECK(!e_.sampler->weighs() || !(weight < 0), name, " has client ", client, " weigh ",
             weight, " (must be at least 0, or NaN for the job's weighting)");
    FL_CHECK(e_.sampler->weighs() || std::isnan(weight), name, " has client ", client, " weigh ",
             weight, ", but its weighs() says that it weighs nobody");
    if (!std::isnan(weight)) weights += weight;
  }
  if (asked()) {
    for (const Drawn& one : cohort)
      FL_CHECK(answers_.contains(one.client), name, " drew client ", one.client,
               ", who has not answered what it asked");
  }
  if (e_.sampler->estimates_sum()) {
    if (!(weights > 0)) return cohort;  // of clients without a sample
    factor_ = weights;
    for (Drawn& one : cohort) one.weight /= weights;
    return cohort;
  }
  FL_CHECK(!e_.sampler->weighs() || weights < 1.00001, name, "'s weights come to ", weights,
           " (must be 1 at most)");
  return cohort;
}

Planner::Fate Planner::fate_of(const std::vector<Drawn>& cohort) {
  Fate fate;
  if (absence_.stragglers > 0) {
    Rng rng(seed_, "stragglers", round_);
    const bool drop = absence_.policy == "drop";
    const std::vector<int64_t> order = rng.permutation(std::ssize(cohort));
    const auto count = std::llround(absence_.stragglers * static_cast<double>(cohort.size()));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t client = cohort[static_cast<size_t>(order[static_cast<size_t>(i)])].client;
      if (drop) {
        fate.late.insert(client);
      } else {
        fate.limits[client] = 1 + rng.below(local_.steps > 0 ? local_.steps : local_.epochs);
      }
    }
  }
  for (const auto& [client, weight] : cohort) {
    if (absence_.dropout > 0 && Rng(seed_, "lost", round_, client).uniform() < absence_.dropout)
      fate.lost.insert(client);
    if (faults_.has(Faults::Kind::kClientCrash, round_, client)) fate.lost.insert(client);
  }
  if (clock_.runs()) plan_times(cohort, fate);
  return fate;
}

// What of the cohort's fate virtual time decides. Who is late by the job's `stragglers` is so
// however fast it is.
void Planner::plan_times(const std::vector<Drawn>& cohort, Fate& fate) {
  std::vector<int64_t> clients;
  for (const Drawn& one : cohort) clients.push_back(one.client);
  std::set<int64_t> silent = fate.lost;
  silent.insert(fate.late.begin(), fate.late.end());
  const bool norms = e_.sampler->question() == Sampler::Question::kUpdateNorm;
  timetable_ = clock_.round(
      round_, asked() ? asking_times_.end : timetable_.start, clients,
      [&](int64_t client) { return fate.limit(client); }, silent,
      asked() ? Traffic{.down = 0, .up = traffic_.up} : traffic_, /*trained=*/asked() && norms);
  for (TimedTask& task : timetable_.tasks) {
    // Silent for the clock, but late by the job.
    if (fate.late.contains(task.client) && !fate.lost.contains(task.client) && !task.offline)
      task.end = TimedTask::End::kLate;
    if (task.limit > 0) fate.limits[task.client] = task.limit;
    if (task.offline) fate.offline.insert(task.client);
    if (task.end == TimedTask::End::kLate) fate.late.insert(task.client);
    if (task.end == TimedTask::End::kNotNeeded) fate.not_needed.insert(task.client);
  }
}

void Planner::put_times(std::vector<ClientRecord>& records) const {
  if (async_) return async_->put_times(records);
  if (!clock_.runs()) return;
  for (ClientRecord& record : records) {
    const TimedTask* task = timetable_.task_of(record.client);
    if (task == nullptr) continue;
    record.start_seconds = seconds_of(timetable_.start);
    record.finish_seconds = seconds_of(task->finish);
    record.download_seconds = seconds_of(task->down);
    record.compute_seconds = seconds_of(task->compute);
    record.upload_seconds = seconds_of(task->up);
    record.joules = task->joules;
  }
}

VirtualRound Planner::end_round(State& memory) const {
  if (clock_.runs()) memory.at(kNow).fill_(timetable_.end);
  if (async_) return async_->row(round_, traffic_);
  if (!clock_.runs()) return {};
  const int64_t all = e_.may_train();
  VirtualRound round{.end = seconds_of(timetable_.end),
                     .length = seconds_of(timetable_.end - begun_),
                     .online = all - absent_clients_,
                     .started = std::ssize(timetable_.tasks)};
  if (clock_.options().energy) round.joules = round.wasted_joules = 0;
  for (const TimedTask& task : timetable_.tasks) {
    round.finished += task.lost ? 0 : 1;
    round.offline += task.offline ? 1 : 0;
    round.not_needed += task.end == TimedTask::End::kNotNeeded ? 1 : 0;
    round.joules += task.joules;
    if (task.end == TimedTask::End::kKept) continue;
    round.wasted_joules += task.joules;
    round.wasted_samples += task.samples;
    const Traffic each = traffic_.of(e_.algorithm->task_cost(task.client, round_));
    round.wasted_bytes_down += exchanges_ * each.down;
    round.wasted_bytes_up += task.lost ? 0 : exchanges_ * each.up;
  }
  for (const int64_t client : asked_) {  // and then were not drawn
    if (timetable_.task_of(client) != nullptr) continue;
    round.wasted_samples += asking_times_.samples.at(client);
    round.wasted_bytes_down += traffic_.down;
    round.wasted_bytes_up += asking_times_.silent.contains(client) ? 0 : kAnswerBytes;
  }
  return round;
}

// The cohort's parts, one a lane: disjoint and of equal size.
std::vector<std::vector<Drawn>> Planner::cut_into_lanes(std::vector<Drawn> cohort) const {
  if (needs_.lanes == 1) return {std::move(cohort)};
  Rng rng(seed_, "lanes", round_);
  rng.shuffle(std::span(cohort));
  std::vector<std::vector<Drawn>> parts;
  const auto each = cohort.size() / static_cast<size_t>(needs_.lanes);
  for (size_t lane = 0; lane < static_cast<size_t>(needs_.lanes); ++lane) {
    const auto first = cohort.begin() + static_cast<std::ptrdiff_t>(lane * each);
    parts.emplace_back(first, first + static_cast<std::ptrdiff_t>(each));
    std::sort(parts.back().begin(), parts.back().end(),
              [](const Drawn& a, const Drawn& b) { return a.client < b.client; });
  }
  return parts;
}

// A round of an asynchronous run.
RoundPlan Planner::next_version(const State& memory) {
  async_->grow_to(round_, memory);
  RoundPlan plan{.kind = RoundPlan::Kind::kTrain, .round = round_};
  async_->plan(plan, times_, TestHooks::get().random_deal);
  timetable_ = async_->tasks_of(round_);
  former_end_ = timetable_.start;
  absent_ = async_->missing(round_);
  absent_clients_ = e_.may_train() - async_->timetable().version(round_).online;
  expected_seconds_ = {times_.makespan(plan.groups)};
  first_ = plan;
  return plan;
}

// Where the sampler wants to ask somebody, that first.
RoundPlan Planner::begin_round(const State& memory) {
  former_end_ = time_of(memory);
  timetable_ = {.start = clock_.begin(former_end_), .end = 0, .tasks = {}};
  begun_ = timetable_.start;
  who_ = candidates(round_);
  absent_clients_ = e_.may_train() - count_of(who_, Rng(seed_, "online", round_));
  asked_.clear();
  answers_.clear();
  asking_times_ = {};
  if (e_.sampler->question() != Sampler::Question::kNothing && !who_.none()) {
    Rng rng(seed_, "asked", round_);
    asked_ = e_.sampler->ask(request(memory), rng);
  }
  return asked() ? asking() : training(memory);
}

RoundPlan Planner::asking() {
  asking_ = true;
  if (clock_.runs()) {
    asking_times_ = clock_.ask(round_, timetable_.start, asked_, e_.sampler->question(),
                               {.down = traffic_.down, .up = kAnswerBytes});
  }
  std::vector<int64_t> answering;
  for (size_t i = 0; i < asked_.size(); ++i) {
    FL_CHECK(who_.contains(asked_[i]) && (i == 0 || asked_[i - 1] < asked_[i]), "sampler ",
             e_.job.get<std::string>("sampler"), " asks client ", asked_[i],
             " (must be distinct candidates, ascending)");
    if (asking_times_.silent.contains(asked_[i])) continue;
    answering.push_back(asked_[i]);
    answers_[asked_[i]] = 1;
  }
  RoundPlan plan{.kind = RoundPlan::Kind::kAsk};
  const auto steps = [&](int64_t client) { return local_.steps_of(e_.partition.size(client)); };
  plan.groups = make_groups(answering, group_size_, steps);
  for (PlannedGroup& group : plan.groups) {
    for (const int64_t client : group.ids) group.seconds += times_.seconds(steps(client));
  }
  deal_groups(plan);
  return plan;
}

void Planner::end_asking(std::vector<Answer> answers) {
  for (const Answer& answer : answers) answers_.at(answer.client) = answer.value;
}

Traffic Planner::asking_traffic() const {
  return {.down = std::ssize(asked_) * traffic_.down, .up = std::ssize(answers_) * kAnswerBytes};
}

RoundPlan Planner::training(const State& memory) {
  asking_ = false;
  absent_.clear();
  RoundPlan plan{.kind = RoundPlan::Kind::kTrain};
  std::vector<Drawn> cohort = draw(memory);
  const std::vector<std::vector<Drawn>> parts = cut_into_lanes(cohort);
  if (clock_.runs() && needs_.lanes > 1) {  // who is in no lane is not asked
    cohort.clear();
    for (const std::vector<Drawn>& part : parts)
      cohort.insert(cohort.end(), part.begin(), part.end());
    std::sort(cohort.begin(), cohort.end(),
              [](const Drawn& a, const Drawn& b) { return a.client < b.client; });
  }
  const Fate fate = fate_of(cohort);
  int64_t lane = 0;
  for (const std::vector<Drawn>& part : parts) plan_lane(plan, lane++, part, fate);
  deal_groups(plan);
  first_ = plan;
  return plan;
}

void Planner::plan_lane(RoundPlan& plan, int64_t lane, const std::vector<Drawn>& cohort,
                        const Fate& fate) {
  const auto steps = [&](int64_t client) {
    return local_.steps_of(e_.partition.size(client), fate.limit(client));
  };
  std::vector<int64_t> trains;
  std::map<int64_t, double> weights;  // of those who train, where the sampler sets them
  int64_t samples = 0, all_steps = 0;
  for (const auto& [client, weight] : cohort) {
    samples += e_.partition.size(client);
    if (const std::optional<ClientStatus> status = fate.absent(client)) {
      ClientRecord& absent = absent_.emplace_back();
      absent.round = round_;
      absent.client = client;
      absent.samples = e_.partition.size(client);
      absent.status = static_cast<int64_t>(*status);
      absent.weight = 0;
      absent.model = lane;
      continue;
    }
    trains.push_back(client);
    if (e_.sampler->weighs()) weights[client] = weight;
    all_steps += steps(client);
  }
  plan.clients.push_back(std::ssize(cohort));
  plan.samples.push_back(samples);
  if (needs_.pooled) {
    drawn_.clear();
    for (const Drawn& one : cohort) drawn_.push_back(one.client);
    PlannedGroup pool{.ids = {0}, .limits = {all_steps}};
    pool.seconds = times_.seconds(all_steps);
    if (all_steps > 0) plan.groups.push_back(std::move(pool));
    return;
  }
  for (PlannedGroup& group : make_groups(trains, group_size_, steps)) {
    group.lane = lane;
    for (const int64_t client : group.ids) {
      group.seconds += times_.seconds(steps(client));
      if (!fate.limits.empty()) group.limits.push_back(fate.limit(client));
      if (!weights.empty()) group.weights.push_back(weights.at(client));
    }
    plan.groups.push_back(std::move(group));
  }
}

std::vector<ClientRecord> Planner::absent(int64_t lane) const {
  std::vector<ClientRecord> records;
  if (needs_.pooled) return records;
  std::copy_if(absent_.begin(), absent_.end(), std::back_inserter(records),
               [&](const ClientRecord& record) { return record.model == lane; });
  return records;
}

// Of a pool, whose record is nobody's, those that were drawn; they have done what the pool did.
std::vector<ClientRecord> Planner::learned_from(std::vector<ClientRecord> records) const {
  if (!needs_.pooled) return records;
  std::vector<ClientRecord> each;
  for (const int64_t client : drawn_) {
    ClientRecord record = records.empty() ? ClientRecord() : records.front();
    record.round = round_;
    record.client = client;
    record.samples = e_.partition.size(client);
    each.push_back(record);
  }
  return each;
}

// Clients that evaluate: drawn by the seed, of those that may train and of those that never do
// alike.
RoundPlan Planner::evaluation() {
  RoundPlan plan{.kind = RoundPlan::Kind::kEvaluate};
  const Partition& held_back = e_.held_back();
  std::vector<int64_t> seen, unseen, chosen;
  for (int64_t client = 0; client < held_back.clients(); ++client) {
    if (held_back.size(client) == 0) continue;
    const bool holdout = std::binary_search(e_.holdout.begin(), e_.holdout.end(), client);
    (holdout ? unseen : seen).push_back(client);
  }
  const auto least = static_cast<size_t>(evaluation_.min_clients);
  Rng rng(seed_, "evaluate-clients", round_);
  for (std::vector<int64_t>* all : {&seen, &unseen}) {
    const auto share =
        static_cast<size_t>(std::llround(evaluation_.share * static_cast<double>(all->size())));
    const size_t count = std::min(all->size(), std::max(least, share));
    if (count < all->size()) rng.shuffle(std::span(*all));
    chosen.insert(chosen.end(), all->begin(), all->begin() + static_cast<std::ptrdiff_t>(count));
  }
  const auto steps = [&](int64_t client) { return local_.steps_of(e_.partition.size(client)); };
  plan.groups = make_groups(chosen, group_size_, steps);
  for (PlannedGroup& group : plan.groups) {
    for (const int64_t client : group.ids) group.seconds += times_.seconds(steps(client));
  }
  deal_groups(plan);
  return plan;
}

void Planner::deal_groups(RoundPlan& plan) {
  expected_seconds_.clear();
  if (needs_.lanes > 1 && plan.kind == RoundPlan::Kind::kTrain) return deal_lanes(plan);
  plan.moves = deal(plan.groups, times_.hosts(), state_length_ > 0 ? &holders_ : nullptr,
                    TestHooks::get().random_deal);
  expected_seconds_.push_back(times_.makespan(plan.groups));
}

// Each lane's groups to its own hosts, see lane_hosts().
void Planner::deal_lanes(RoundPlan& plan) {
  std::vector<PlannedGroup> all;
  for (int64_t lane = 0; lane < needs_.lanes; ++lane) {
    std::vector<PlannedGroup> own;
    for (const PlannedGroup& group : plan.groups) {
      if (group.lane == lane) own.push_back(group);
    }
    std::vector<HostSpeed> hosts;
    for (const int rank : lane_hosts(lane, needs_.lanes, ranks_)) {
      for (const HostSpeed& host : times_.hosts()) {
        if (host.rank == rank) hosts.push_back(host);
      }
    }
    const std::vector<StateMove> moves =
        deal(own, hosts, state_length_ > 0 ? &holders_ : nullptr, TestHooks::get().random_deal);
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

}  // namespace fl_sim
