#include "engine/async_rounds.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/check.h"

namespace fl_sim {

AsyncRounds::AsyncRounds(const Experiment& experiment, const VirtualClock& clock,
                         const Traffic& traffic)
    : e_(experiment),
      local_(e_.job),
      table_(experiment, clock, traffic, e_.job.get<int64_t>("rounds")),
      group_size_(e_.job.get<int64_t>("group-size")) {}

int64_t AsyncRounds::steps_of(int64_t dispatch) const {
  const TimedTask& task = table_.task(dispatch).time;
  return local_.steps_of(e_.partition.size(task.client), task.limit);
}

// Tasks in groups of the job's size, in their order.
std::vector<AsyncRounds::Group> AsyncRounds::cut(const std::vector<int64_t>& tasks) const {
  std::vector<Group> groups;
  for (size_t first = 0; first < tasks.size(); first += static_cast<size_t>(group_size_)) {
    const size_t end = std::min(tasks.size(), first + static_cast<size_t>(group_size_));
    Group& group = groups.emplace_back(tasks.begin() + static_cast<std::ptrdiff_t>(first),
                                       tasks.begin() + static_cast<std::ptrdiff_t>(end));
    std::stable_sort(group.begin(), group.end(),
                     [&](int64_t a, int64_t b) { return steps_of(a) > steps_of(b); });
  }
  return groups;
}

// Groups of tasks that start from `base`, in the order of their dispatch. Who starts from it for
// the second time has other streams than at first, and a group has one seed. Which train together
// must not depend on where the run ends, nor on where it goes on: so those that will not count are
// in a group, too, if another of it does.
void AsyncRounds::make_groups_of(int64_t base, int64_t after) {
  // Where staleness is drawn, later rounds still add tasks of this base: theirs are groups of their
  // own.
  const bool drawn = table_.options().drawn();
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> by_repeat;
  for (const int64_t dispatch : table_.started_from(base)) {
    const AsyncTask& task = table_.task(dispatch);
    if (!task.time.lost) by_repeat[{task.repeat, drawn ? task.version : 0}].push_back(dispatch);
  }
  for (const auto& [repeat, tasks] : by_repeat) {
    for (Group& group : cut(tasks)) {
      int64_t due = 0;  // the first version behind `after` that it helps to make
      for (const int64_t dispatch : group) {
        const int64_t version = due_of(dispatch);
        if (version > after && (due == 0 || version < due)) due = version;
      }
      if (due == 0) continue;
      ready_.emplace(due, std::ssize(groups_));
      groups_.push_back(std::move(group));
    }
  }
}

// Of a timetable that grows what is due in its newest version, in groups of those that start from
// one version, in the order of their dispatch.
void AsyncRounds::make_groups_due_in(int64_t round) {
  groups_.clear();
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> by_base;
  for (const int64_t dispatch : table_.version(round).due)
    by_base[{table_.task(dispatch).base, table_.task(dispatch).repeat}].push_back(dispatch);
  for (auto& [base, tasks] : by_base) {
    std::sort(tasks.begin(), tasks.end());
    for (Group& group : cut(tasks)) {
      ready_.emplace(round, std::ssize(groups_));
      groups_.push_back(std::move(group));
    }
  }
}

// 0: it does not count.
int64_t AsyncRounds::due_of(int64_t dispatch) const {
  const AsyncTask& task = table_.task(dispatch);
  return task.fate == AsyncTask::Fate::kCounts ? task.version : 0;
}

void AsyncRounds::go_on_after(int64_t round) {
  groups_.clear();
  ready_.clear();
  there_.clear();
  if (table_.grows()) return;
  // A run that goes on with a nearer clock.limit has fewer versions than it has made already.
  for (int64_t base = 0; base < std::min(round, versions() + 1); ++base) {
    if (table_.needed_until(base) > round) make_groups_of(base, round);
  }
  prepared_ = round - 1;
}

PlannedGroup AsyncRounds::planned(const Group& group, const TimeModel& times) const {
  const AsyncTask& first = table_.task(group.front());
  PlannedGroup planned{.ids = {}, .base = first.base, .repeat = first.repeat};
  bool limited = false;
  for (const int64_t dispatch : group) {
    const AsyncTask& task = table_.task(dispatch);
    const int64_t due = due_of(dispatch);
    planned.ids.push_back(task.time.client);
    const double all = due > 0 ? table_.version(due).weight : 0;
    planned.weights.push_back(all > 0 ? task.weight / all : 0);
    planned.limits.push_back(task.time.limit);
    planned.tasks.push_back(dispatch);
    planned.due.push_back(due);
    limited = limited || task.time.limit > 0;
    planned.seconds += times.seconds(steps_of(dispatch));
  }
  if (!limited) planned.limits.clear();
  return planned;
}

void AsyncRounds::plan(RoundPlan& plan, const TimeModel& times, bool random) {
  const int64_t round = plan.round, newest = round - 1;
  if (table_.grows()) {
    make_groups_due_in(round);
  } else {
    while (prepared_ < newest) make_groups_of(++prepared_, newest);
  }
  const int64_t oldest = newest - table_.options().keep_versions + 1;
  std::vector<Ready> must;
  for (const Ready& one : ready_) {
    const Group& group = groups_[static_cast<size_t>(std::get<1>(one))];
    const bool due = std::get<0>(one) <= round;
    if (!due && (there_.empty() || *there_.begin() >= oldest)) break;
    if (due || table_.task(group.front()).base < oldest) must.push_back(one);
  }
  for (const Ready& one : must) {
    ready_.erase(one);
    plan.groups.push_back(planned(groups_[static_cast<size_t>(std::get<1>(one))], times));
  }
  deal(plan.groups, times.hosts(), nullptr, random);
  // Whoever would wait for the others trains what is due next meanwhile.
  std::unordered_map<int64_t, double> busy;  // rank -> until when
  double end = 0;
  for (const PlannedGroup& group : plan.groups) {
    for (const HostSpeed& host : times.hosts()) {
      if (host.rank != group.rank) continue;
      busy[host.rank] += group.seconds / host.speed;
      end = std::max(end, busy[host.rank]);
    }
  }
  constexpr double kTolerance = 1.02;
  constexpr int64_t kMostTries = 16;  // groups that are too long for every place
  int64_t tries = 0;
  // Where updates meet one by one, hosts would have to keep what is not due yet.
  const bool ahead = !must.empty() && !e_.aggregator->sees_clients();
  for (auto one = ready_.begin(); ahead && one != ready_.end() && tries < kMostTries;) {
    PlannedGroup group = planned(groups_[static_cast<size_t>(std::get<1>(*one))], times);
    const HostSpeed* best = nullptr;
    double until = end * kTolerance;
    for (const HostSpeed& host : times.hosts()) {
      const double then = busy[host.rank] + group.seconds / host.speed;
      if (then > until || (best != nullptr && then == until)) continue;
      best = &host;
      until = then;
    }
    if (best == nullptr) {
      ++tries;
      ++one;
      continue;
    }
    busy[best->rank] = until;
    group.rank = best->rank;
    plan.groups.push_back(std::move(group));
    one = ready_.erase(one);
  }
  const AsyncVersion& version = table_.version(round);
  int64_t samples = 0;
  for (const int64_t dispatch : version.due)
    samples += e_.partition.size(table_.task(dispatch).time.client);
  plan.clients = {std::ssize(version.due) + std::ssize(version.missing)};
  plan.samples = {samples};
  // What hosts have to have from now on.
  std::set<int64_t> needed;
  for (const PlannedGroup& group : plan.groups) needed.insert(group.base);
  for (const Ready& one : ready_)
    needed.insert(table_.task(groups_[static_cast<size_t>(std::get<1>(one))].front()).base);
  for (int64_t base = std::max<int64_t>(0, oldest); table_.grows() && base <= newest; ++base) {
    if (table_.needed_until(base) > round) needed.insert(base);
  }
  plan.bases.assign(needed.begin(), needed.end());
  for (const int64_t base : needed) {
    if (base != newest && !there_.contains(base)) plan.sends.push_back(base);
  }
  there_ = std::move(needed);
}

const std::set<int64_t>& AsyncRounds::held(int64_t newest) {
  if (newest < held_at_) {
    held_.clear();
    held_at_ = -1;
  }
  while (held_at_ < newest) held_.insert(++held_at_);
  std::erase_if(held_, [&](int64_t base) { return table_.needed_until(base) <= newest; });
  return held_;
}

std::vector<ClientRecord> AsyncRounds::missing(int64_t round) const {
  std::vector<ClientRecord> records;
  for (const int64_t dispatch : table_.version(round).missing) {
    const AsyncTask& task = table_.task(dispatch);
    ClientRecord& record = records.emplace_back();
    record.round = round;
    record.client = task.time.client;
    record.samples = e_.partition.size(task.time.client);
    record.status = static_cast<int64_t>(task.fate == AsyncTask::Fate::kStale ? ClientStatus::kStale
                                         : task.time.offline ? ClientStatus::kOffline
                                                             : ClientStatus::kLost);
    record.weight = 0;
    record.dispatch = dispatch;
    record.base_version = task.base;
    record.staleness = task.staleness();
  }
  return records;
}

void AsyncRounds::put_times(std::vector<ClientRecord>& records) const {
  if (!table_.timed()) return;
  for (ClientRecord& record : records) {
    const AsyncTask& task = table_.task(record.dispatch);
    record.start_seconds = seconds_of(task.start);
    record.finish_seconds = seconds_of(task.time.finish);
    record.download_seconds = seconds_of(task.time.down);
    record.compute_seconds = seconds_of(task.time.compute);
    record.upload_seconds = seconds_of(task.time.up);
    record.joules = task.time.joules;
  }
}

VirtualRound AsyncRounds::row(int64_t round, const Traffic& traffic) const {
  const AsyncVersion& version = table_.version(round);
  const Micros before = round > 1 ? table_.version(round - 1).at : 0;
  VirtualRound row{.online = version.online,
                   .started = std::ssize(table_.started_from(round - 1)),
                   .finished = std::ssize(version.due),
                   .staleness_mean = 0,
                   .staleness_max = 0};
  if (table_.timed()) {
    row.end = seconds_of(version.at);
    row.length = seconds_of(version.at - before);
  }
  if (e_.job.values().contains("clock.energy") && e_.job.get<bool>("clock.energy"))
    row.joules = row.wasted_joules = 0;
  for (const int64_t dispatch : version.due) {
    row.joules += table_.task(dispatch).time.joules;
    const auto staleness = static_cast<double>(table_.task(dispatch).staleness());
    row.staleness_mean += staleness / static_cast<double>(version.due.size());
    row.staleness_max = std::max(row.staleness_max, staleness);
  }
  for (const int64_t dispatch : version.missing) {
    const AsyncTask& task = table_.task(dispatch);
    const bool stale = task.fate == AsyncTask::Fate::kStale;
    row.stale += stale ? 1 : 0;
    row.finished += stale ? 1 : 0;
    row.offline += !stale && task.time.offline ? 1 : 0;
    row.joules += task.time.joules;
    row.wasted_joules += task.time.joules;
    row.wasted_samples += task.time.samples;
    const Traffic each = traffic.of(e_.algorithm->task_cost(task.time.client, task.base + 1));
    row.wasted_bytes_down += each.down;
    row.wasted_bytes_up += stale ? each.up : 0;
  }
  return row;
}

Timetable AsyncRounds::tasks_of(int64_t round) const {
  const AsyncVersion& version = table_.version(round);
  Timetable table{
      .start = round > 1 ? table_.version(round - 1).at : 0, .end = version.at, .tasks = {}};
  for (const int64_t dispatch : version.due) table.tasks.push_back(table_.task(dispatch).time);
  for (const int64_t dispatch : version.missing) {
    const AsyncTask& task = table_.task(dispatch);
    table.tasks.push_back(task.time);
    table.tasks.back().end =
        task.fate == AsyncTask::Fate::kStale ? TimedTask::End::kLate : TimedTask::End::kLost;
  }
  std::stable_sort(table.tasks.begin(), table.tasks.end(),
                   [](const TimedTask& a, const TimedTask& b) { return a.client < b.client; });
  return table;
}

// The sum of weights over what it is divided by, of those that count: a client that diverged is
// left out of both.
AsyncRounds::Mixing AsyncRounds::mixing(int64_t round,
                                        const std::vector<ClientRecord>& records) const {
  const AsyncOptions& o = table_.options();
  double weight = 0, mass = 0;
  Mixing mixing{.part = table_.version(round).part};
  for (const ClientRecord& record : records) {
    if (!record.counts() || record.round != round) continue;
    const AsyncTask& task = table_.task(record.dispatch);
    weight += task.weight;
    mass += task.mass;
    FL_CHECK(mixing.base < 0 || mixing.base == task.base, "async.protocol ", o.protocol,
             " makes version ", round, " of updates of versions ", mixing.base, " and ", task.base,
             ", but async.mixing is ", o.mixing, ", which needs a single one");
    if (o.mixing > 0) mixing.base = task.base;
  }
  if (mass == 0) return mixing;
  if (o.weighting == "unbiased") {
    mixing.scale = weight;
  } else if (o.normalise == "buffer") {
    mixing.scale = weight / mass;
  }
  if (o.mixing > 0) mixing.scale *= o.mixing;
  return mixing;
}

}  // namespace fl_sim
