#include "commands/clock_plan.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>

#include "base/check.h"
#include "base/text.h"
#include "commands/progress.h"
#include "commands/text_table.h"
#include "commands/words.h"
#include "engine/planned_partition.h"
#include "engine/planner.h"
#include "engine/traffic.h"

namespace fl_sim {
namespace {

// What the rounds of a run come to.
struct Timetables {
  std::vector<double> lengths;  // of rounds, seconds
  VirtualRound sum;             // over rounds; `end` and `length` of the last one
  int64_t kept = 0, late = 0, lost = 0, samples = 0, in_vain = 0;
  double busy = 0;              // seconds in which clients that count are at work
  std::vector<int64_t> counts;  // by client: rounds in which it counts
};

void add_round(Timetables& all, const Timetable& table, const VirtualRound& round) {
  all.lengths.push_back(round.length);
  all.sum.end = round.end;
  all.sum.online += round.online;
  all.sum.started += round.started;
  all.sum.finished += round.finished;
  all.sum.offline += round.offline;
  all.sum.not_needed += round.not_needed;
  all.sum.wasted_samples += round.wasted_samples;
  all.sum.wasted_bytes_down += round.wasted_bytes_down;
  all.sum.wasted_bytes_up += round.wasted_bytes_up;
  const int64_t before = all.kept;
  for (const TimedTask& task : table.tasks) {
    all.samples += task.samples;
    all.late += task.end == TimedTask::End::kLate ? 1 : 0;
    all.lost += task.lost && !task.offline ? 1 : 0;
    if (task.end != TimedTask::End::kKept) continue;
    ++all.kept;
    ++all.counts[static_cast<size_t>(task.client)];
    all.busy += seconds_of(task.duration());
  }
  all.in_vain += all.kept == before ? 1 : 0;
}

Timetables timetables_of(const Experiment& e) {
  ServerState model;
  const Needs needs = e.algorithm->needs();
  model.weights = torch::zeros({needs.models, e.network->layout().row()}, e.dtype);
  e.algorithm->init(model);
  for (const auto& [name, transform] : e.transforms) transform->init(model);
  Planner planner(e, 1);
  planner.charge(client_traffic(e, model));
  State memory = planning_memory(e);
  Timetables all;
  all.counts.resize(static_cast<size_t>(e.partition.clients()));
  for (;;) {
    RoundPlan plan = planner.next_unanswered(memory);
    if (plan.kind != RoundPlan::Kind::kTrain) return all;
    while (!planner.last_exchange()) plan = planner.next({}, memory);
    std::vector<ClientRecord> drawn;
    for (const TimedTask& task : planner.timetable().tasks)
      drawn.emplace_back().client = task.client;
    e.sampler->learn(memory, drawn);
    add_round(all, planner.timetable(), planner.end_round(memory));
  }
}

// (sum x)^2 / (N sum x^2): 1 where all count as often, 1/N where only one does.
double jain_index(const std::vector<int64_t>& counts) {
  double sum = 0, squares = 0;
  for (const int64_t count : counts) {
    sum += static_cast<double>(count);
    squares += static_cast<double>(count) * static_cast<double>(count);
  }
  return squares > 0 ? sum * sum / (static_cast<double>(counts.size()) * squares) : 0;
}

void show(const Experiment& e, Timetables all) {
  const auto rounds = static_cast<double>(std::max<size_t>(1, all.lengths.size()));
  std::vector<double>& lengths = all.lengths;
  std::sort(lengths.begin(), lengths.end());
  const auto quantile = [&](double q) {
    const double place = std::ceil(q * static_cast<double>(lengths.size()) - 1e-9) - 1;
    return lengths.empty() ? 0 : lengths[static_cast<size_t>(std::max(0.0, place))];
  };
  const auto each = [&](int64_t n) { return fixed(static_cast<double>(n) / rounds, 2); };
  const auto share = [](double part, double whole) {
    return fixed(whole > 0 ? 100 * part / whole : 0, 1) + " %";
  };
  TextTable table({{}, {}});
  const auto value = [&](const std::string& key) { return e.job.get<std::string>(key); };
  table.add({"job", message(value("algorithm"), ", ", value("dataset"), ", ", value("model"), ", ",
                            value("cohort"), " of ", e.partition.clients(), " clients, devices ",
                            value("devices"))});
  table.add({"rounds", message(lengths.size(), " in ", duration_text(std::max(0.0, all.sum.end)),
                               " (", fixed(std::max(0.0, all.sum.end), 3), " virtual seconds)")});
  const double mean = std::accumulate(lengths.begin(), lengths.end(), 0.0) / rounds;
  table.add({"a round", message(fixed(mean, 3), " s; half of them up to ", fixed(quantile(0.5), 3),
                                ", nine in ten up to ", fixed(quantile(0.9), 3), ", the longest ",
                                fixed(quantile(1), 3))});
  table.add({"online", each(all.sum.online) + " clients"});
  table.add({"asked", each(all.sum.started) + " a round"});
  table.add({"  count",
             message(each(all.kept),
                     all.in_vain > 0 ? message(" (nobody in ", all.in_vain, " rounds)") : "")});
  for (const auto& [name, count] :
       {std::pair{"  late", all.late}, std::pair{"  not needed", all.sum.not_needed},
        std::pair{"  offline", all.sum.offline}, std::pair{"  lost", all.lost}}) {
    if (count > 0) table.add({name, each(count)});
  }
  table.add({"at work", share(all.busy, mean * static_cast<double>(all.kept)) +
                            " of a round's time, those that count"});
  table.add({"wasted", message(share(static_cast<double>(all.sum.wasted_samples),
                                     static_cast<double>(all.samples)),
                               " of the samples, ", all.sum.wasted_bytes_down, " bytes down, ",
                               all.sum.wasted_bytes_up, " up")});
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
  const Job job = Job::parse(words);
  FL_CHECK(
      job.get<std::string>("devices") != "none",
      "--plan clock: devices is none, so that the run has no virtual time (choose devices, such "
      "as --devices lognormal)");
  PlannedPartition plan = make_partition_of(job);
  const Experiment e = make_experiment(std::move(plan.job), std::move(plan.data));
  show(e, timetables_of(e));
}

}  // namespace fl_sim
