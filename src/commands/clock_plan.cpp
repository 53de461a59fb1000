#include "commands/clock_plan.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/statistics.h"
#include "base/text.h"
#include "commands/clock_picture.h"
#include "commands/gnuplot.h"
#include "commands/progress.h"
#include "commands/text_table.h"
#include "commands/timetables.h"
#include "commands/words.h"
#include "engine/planned_partition.h"

namespace fl_sim {
namespace {

// What the rounds of a run come to.
struct Timetables {
  std::vector<double> lengths;  // of rounds, seconds
  VirtualRound sum;             // over rounds; `end` and `length` of the last one
  std::map<TaskFate, int64_t> fates;
  int64_t samples = 0, in_vain = 0;
  double busy = 0;              // seconds in which clients that count are at work
  std::vector<int64_t> counts;  // by client: rounds in which it counts
  BusyPicture picture;          // of the first rounds
  // Of an asynchronous run: clients in flight, how old updates are, what could train at once, and
  // versions that are kept.
  struct Versions {
    double staleness = 0, largest = 0, parallelism = 0;
    int64_t held = 0;
  };
  std::optional<Versions> versions;
};

TaskFate fate_of(const TimedTask& task) {
  if (task.offline) return TaskFate::kOffline;
  switch (task.end) {
    case TimedTask::End::kKept:
      return TaskFate::kCounts;
    case TimedTask::End::kLate:
      return TaskFate::kLate;
    case TimedTask::End::kNotNeeded:
      return TaskFate::kNotNeeded;
    case TimedTask::End::kLost:
      break;
  }
  return TaskFate::kLost;
}

// As many rounds as there is room for, the first one in any case.
void add_to_picture(BusyPicture& picture, const TimedRound& round) {
  constexpr size_t kMostRounds = 12;
  const bool next = picture.ends.size() + 1 == static_cast<size_t>(round.number);
  if (!next || picture.ends.size() == kMostRounds) return;
  std::set<int64_t> clients;
  for (const BusyTask& task : picture.tasks) clients.insert(task.client);
  for (const TimedTask& task : round.table.tasks) clients.insert(task.client);
  if (round.number > 1 && clients.size() > kMostBusyClients) return;
  for (const TimedTask& task : round.table.tasks) {
    picture.tasks.push_back({.client = task.client,
                             .start = seconds_of(task.start),
                             .finish = seconds_of(task.finish),
                             .down = seconds_of(task.down),
                             .compute = seconds_of(task.compute),
                             .up = seconds_of(task.up),
                             .fate = fate_of(task)});
  }
  picture.ends.push_back(round.times.end);
}

void add_round(Timetables& all, const TimedRound& round) {
  all.lengths.push_back(round.times.length);
  all.sum += round.times;
  bool counts = false;
  for (const TimedTask& task : round.table.tasks) {
    all.samples += task.samples;
    ++all.fates[fate_of(task)];
    if (task.end != TimedTask::End::kKept) continue;
    counts = true;
    ++all.counts[static_cast<size_t>(task.client)];
    all.busy += seconds_of(task.duration());
  }
  all.in_vain += counts ? 0 : 1;
  if (round.asynchronous != nullptr) {
    if (!all.versions) {
      all.picture.end_name = "a version is made";
      all.picture.late_name = "too old";
    }
    if (!all.versions || round.asynchronous->grows()) {
      all.versions = {.staleness = all.versions ? all.versions->staleness : 0,
                      .largest = all.versions ? all.versions->largest : 0,
                      .parallelism = round.asynchronous->parallelism(),
                      .held = round.asynchronous->most_held()};
    }
    const auto due = static_cast<double>(round.asynchronous->version(round.number).due.size());
    all.versions->staleness += due * round.times.staleness_mean;
    all.versions->largest = std::max(all.versions->largest, round.times.staleness_max);
  }
  add_to_picture(all.picture, round);
}

Timetables timetables_of(const Experiment& e) {
  Timetables all;
  all.counts.resize(static_cast<size_t>(e.partition.clients()));
  each_timed_round(e, [&](const TimedRound& round) { add_round(all, round); });
  return all;
}

std::string title_of(const Experiment& e) {
  const auto value = [&](const std::string& key) { return e.job.get<std::string>(key); };
  return message(value("algorithm"), ", ", value("dataset"), ", ", value("model"), ", ",
                 value("cohort"), " of ", e.partition.clients(), " clients, devices ",
                 value("devices"));
}

void show(const Experiment& e, Timetables all) {
  const auto rounds = static_cast<double>(std::max<size_t>(1, all.lengths.size()));
  std::vector<double>& lengths = all.lengths;
  std::sort(lengths.begin(), lengths.end());
  const auto quantile = [&](double share) { return nearest_rank(lengths, share); };
  const auto each = [&](int64_t n) { return fixed(static_cast<double>(n) / rounds, 2); };
  const auto share = [](double part, double whole) {
    return fixed(whole > 0 ? 100 * part / whole : 0, 1) + " %";
  };
  TextTable table({{}, {}});
  const auto value = [&](const std::string& key) { return e.job.get<std::string>(key); };
  table.add({"job", title_of(e)});
  const bool limited = std::ssize(lengths) < e.job.get<int64_t>("rounds");
  table.add({"rounds", message(lengths.size(), " in ", duration_text(std::max(0.0, all.sum.end)),
                               " (", fixed(std::max(0.0, all.sum.end), 3), " virtual seconds)",
                               limited ? message("; clock.limit comes before the ", value("rounds"),
                                                 " of the job")
                                       : "")});
  const double mean = std::accumulate(lengths.begin(), lengths.end(), 0.0) / rounds;
  table.add({"a round", message(fixed(mean, 3), " s; half of them up to ", fixed(quantile(0.5), 3),
                                ", nine in ten up to ", fixed(quantile(0.9), 3), ", the longest ",
                                fixed(quantile(1), 3))});
  table.add({"online", each(all.sum.online) + " clients"});
  table.add({"asked", each(all.sum.started) + " a round"});
  const auto of = [&](TaskFate fate) {
    const auto found = all.fates.find(fate);
    return found == all.fates.end() ? int64_t{0} : found->second;
  };
  const int64_t kept = of(TaskFate::kCounts);
  table.add({"  count",
             message(each(kept),
                     all.in_vain > 0 ? message(" (nobody in ", all.in_vain, " rounds)") : "")});
  for (const auto& [name, fate] :
       {std::pair{all.versions ? "  too old" : "  late", TaskFate::kLate},
        {"  not needed", TaskFate::kNotNeeded},
        {"  offline", TaskFate::kOffline},
        {"  lost", TaskFate::kLost}}) {
    if (of(fate) > 0) table.add({name, each(of(fate))});
  }
  if (all.versions) {
    table.add({"at work", message(fixed(all.busy / std::max(1e-9, all.sum.end), 1),
                                  " clients on average, those that count")});
    table.add({"staleness", message(fixed(all.versions->staleness /
                                              static_cast<double>(std::max<int64_t>(1, kept)),
                                          2),
                                    " on average, ", fixed(all.versions->largest, 0), " at most")});
    table.add(
        {"ranks", message("up to ", fixed(all.versions->parallelism, 1), " can train at once; ",
                          all.versions->held, " versions of the model are kept at most")});
  } else {
    table.add({"at work", share(all.busy, mean * static_cast<double>(kept)) +
                              " of a round's time, those that count"});
  }
  table.add({"wasted", message(share(static_cast<double>(all.sum.wasted_samples),
                                     static_cast<double>(all.samples)),
                               " of the samples, ", all.sum.wasted_bytes_down, " bytes down, ",
                               all.sum.wasted_bytes_up, " up")});
  if (!std::isnan(all.sum.joules)) {
    table.add(
        {"energy", message(joules_text(all.sum.joules), ", ", joules_text(all.sum.joules / rounds),
                           " a round; ", share(all.sum.wasted_joules, all.sum.joules), " wasted")});
  }
  for (auto k = e.holdout.rbegin(); k != e.holdout.rend(); ++k)
    all.counts.erase(all.counts.begin() + static_cast<std::ptrdiff_t>(*k));  // they never train
  const auto never = std::count(all.counts.begin(), all.counts.end(), 0);
  const auto [least, most] = std::minmax_element(all.counts.begin(), all.counts.end());
  table.add(
      {"clients", message("count in ", *least, " to ", *most, " rounds, ", never,
                          " of them never; Jain's index ", fixed(jain_index(all.counts), 3))});
  std::cout << table.text() << std::flush;
  State memory;
  e.sampler->init(memory, 1);
  if (!memory.empty()) {
    std::cout << "\nSampler " << value("sampler")
              << " may learn from training, which has not taken place here\n";
  }
}

}  // namespace

void plan_clock(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  take_option(words, "--plan");
  const std::optional<std::string> picture = take_option(words, "--picture");
  const Job job = Job::parse(words);
  FL_CHECK(
      job.get<std::string>("devices") != "none",
      "--plan clock: devices is none, so that the run has no virtual time (choose devices, such "
      "as --devices lognormal)");
  PlannedPartition plan = make_partition_of(job);
  const Experiment e = make_experiment(std::move(plan.job), std::move(plan.data));
  Timetables all = timetables_of(e);
  all.picture.title = title_of(e);
  show(e, all);
  if (!picture) return;
  draw_by_gnuplot(busy_script(all.picture, *picture), *picture);
  std::cout << "\npicture  " << *picture << ", of the first " << all.picture.ends.size()
            << " rounds\n";
}

}  // namespace fl_sim
