#include "commands/run.h"

#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/plugins.h"
#include "commands/progress.h"
#include "commands/provenance.h"
#include "commands/report.h"
#include "engine/checkpoint_keeper.h"
#include "engine/evaluation_plan.h"
#include "engine/experiment.h"
#include "engine/rank_loss.h"
#include "engine/resolve.h"
#include "engine/set_up.h"
#include "network/arithmetic.h"
#include "process/interruption.h"
#include "process/launcher.h"
#include "process/rank_survival.h"
#include "process/test_hooks.h"
#include "storage/checkpoint.h"
#include "storage/results.h"
#include "storage/run_lock.h"

namespace fl_sim {
namespace {

// "stopped by SIGUSR1 after round 12 of 50; ..."
std::string farewell(const Outcome& outcome, const Job& job) {
  const std::string by = "stopped by " + Interruption::get().name();
  if (outcome.rounds == 0) return by + " before the first round was complete";
  return message(by, " after round ", outcome.rounds, " of ", job.get<std::string>("rounds"),
                 "; --resume auto goes on from the checkpoint in ", checkpoint_folder(job));
}

// What an error has left of a run.
std::string what_is_left(const Results& results, const Job& job) {
  const int64_t rounds = results.rounds_written();
  if (rounds < 0) return "\n  it ended before its results were written";
  std::string text =
      message("\n  it ended after round ", rounds, " of ", job.get<std::string>("rounds"), ", and ",
              results.path(), rounds == 1 ? " has that" : " has them all", " with the model");
  if (rounds == 0) text = message("\n  it ended in its first round; ", results.path(), " has none");
  try {
    if (const auto found = find_checkpoint(checkpoint_folder(job)))
      text += message("; --resume auto goes on from the checkpoint of round ", found->round);
  } catch (const Error&) {  // it can be of no use
  }
  return text;
}

// The exit code of a run whose clients' updates were all left out, or that gave up.
constexpr int kInVain = 3;

std::string in_vain_text(const Outcome& outcome, const Job& job) {
  const std::string who =
      message(outcome.diverged, " of ", outcome.asked, " updates diverged, ",
              outcome.lost + outcome.stragglers + outcome.set_aside + outcome.virtual_time.offline +
                  outcome.virtual_time.not_needed + outcome.virtual_time.stale,
              " are missing for other ", "reasons (/clients/status)");
  if (outcome.in_vain()) {
    return message("no client's update counted in any of ", outcome.rounds,
                   outcome.rounds == 1 ? " round" : " rounds",
                   ": the model is the one that the run began with (", who,
                   "; a smaller local.lr, local.clip-norm, or inputs between 0 and 1 may help)");
  }
  return message("gave up after round ", outcome.rounds, ": no client's update counted in ",
                 job.get<std::string>("give-up"), " rounds in a row (give-up); ", who);
}

// Says so where a round has fewer groups of clients than there are hosts.
std::optional<std::string> idle_hosts(const Job& job, int ranks) {
  const auto size = job.get<int64_t>("group-size"), cohort = job.get<int64_t>("cohort");
  const int64_t groups = (cohort + size - 1) / size, hosts = std::max(1, ranks - 1);
  if (size == 1 || groups >= hosts) return std::nullopt;
  return message("a round has ", groups, groups == 1 ? " group" : " groups", " of up to ", size,
                 " clients for ", hosts, " hosts: --group-size ",
                 std::max<int64_t>(1, cohort / hosts),
                 " would give more of them something to do (last bits differ)");
}

void say_complete(const Job& job, const std::string& note) {
  if (!job.get<bool>("quiet")) std::cout << note << std::endl;
}

// Keeps everybody else from the job's results, or from its checkpoints.
RunLock lock_output(const Results& results) { return {results.path(), "choose another --output"}; }
RunLock lock_checkpoints(const Job& job) {
  return {checkpoint_folder(job), "choose another --output or --checkpoint-dir"};
}

// Whether a job is through with the same words as before: what says so, without its data having
// been read. Nothing too where that cannot be known without them.
bool complete_without_data(const Job& given) {
  const auto value = [&](const char* key) { return given.get<std::string>(key); };
  // These do something, or can be wrong, beside what was there before.
  const bool does_more = value("partition.save") != "none" || value("gpu-comm") == "direct" ||
                         value("on-rank-loss") == "continue";
  if (value("resume") != "auto" || does_more || !std::filesystem::exists(value("output")))
    return false;
  // As run() does. First without the lock: nobody has to wait for a run that is not through.
  Results results(value("output"), true);
  std::optional<Job> job;
  try {
    const std::optional<Results::Former> former = results.former();
    if (former) job = resolved_without_data(given, former->job);
    if (!job || !completed(*job, results)) return false;
  } catch (const Error&) {  // run() meets it again
    return false;
  }
  const RunLock output_lock = lock_output(results);
  const auto checkpoint_dir = value("checkpoint-dir");
  if (checkpoint_dir != "auto") prepare_checkpoints(checkpoint_dir);
  const RunLock checkpoint_lock = lock_checkpoints(*job);
  const std::optional<std::string> note = completed(*job, results);
  if (!note) return false;
  tidy_checkpoints(*job);
  say_complete(*job, *note);
  return true;
}

}  // namespace

Start prepare_run(const std::vector<std::string>& arguments) {
  TestHooks::get();
  Start start{.job = Job::parse(arguments)};
  for (const std::string& note : start.job.notes()) tell("warning: " + note);
  name_plugins(start.job, arguments);
  start.complete = complete_without_data(start.job);
  return start;
}

int run(Start start, Communicator& comm, std::string& left) {
  const std::string started = utc_now();
  // Whoever is not rank 0 knows of the job what rank 0 says.
  std::string through = start.complete ? "complete" : "";
  comm.meet();
  comm.broadcast(through);
  if (!through.empty()) return 0;
  share_plugins(comm);
  Job& job = start.job;
  std::optional<Results> results;
  std::optional<RunLock> output_lock, checkpoint_lock;
  if (comm.rank() == 0) {
    const bool replace =
        job.get<bool>("overwrite") || read_options<CheckpointOptions>(job).resume != "no";
    results.emplace(job.get<std::string>("output"), replace);
    output_lock.emplace(results->path(), "choose another --output");
    // Again: a run that was waited for may have written its file by now.
    results.emplace(job.get<std::string>("output"), replace);
  }
  Experiment experiment = set_up(job, comm);
  job = experiment.job;
  set_arithmetic(job);
  const auto checkpoints = read_options<CheckpointOptions>(job);
  const auto survival = read_options<SurvivalOptions>(job);
  // What is wrong with the job is wrong on all ranks: rank 0 says so while the others wait.
  if (comm.rank() != 0) comm.meet();
  comm.use(choose_gpu_comm(job.get<std::string>("gpu-comm"), experiment.device));
  if (survival.goes_on() && comm.size() > 1) allow_losses(comm);
  Continuation former;
  if (comm.rank() == 0) {
    if (checkpoints.folder != "auto") prepare_checkpoints(checkpoints.folder);
    checkpoint_lock.emplace(checkpoint_folder(job), "choose another --output or --checkpoint-dir");
    former = look_for_former(experiment, *results);
    const bool saves = checkpoints.every > 0 || checkpoints.keep || checkpoints.folder != "auto";
    if (!former.complete && saves) prepare_checkpoints(checkpoint_folder(job));
    comm.meet();
  }
  std::string from = former.complete ? "complete" : former.folder;
  comm.broadcast(from);
  if (from == "complete") {
    if (comm.rank() == 0) say_complete(job, former.note);
    return 0;
  }
  Interruption::get().set_grace(survival.grace);
  const std::vector<std::string> places = comm.gather(host_name() + " " + experiment.device.str());
  if (comm.rank() != 0) {
    return simulate(experiment, comm, from).paused ? Interruption::kExitCode : 0;
  }

  const torch::Tensor labels = sample_labels(experiment.data.train);
  const Skew skew = measure_skew(experiment.partition,
                                 {labels.data_ptr<int64_t>(), static_cast<size_t>(labels.numel())},
                                 experiment.data.classes);
  std::vector<std::unique_ptr<Tracker>> others;
  for (const std::string& word : job.names("track")) {
    const auto [name, argument] = split_name(word);
    others.push_back(make<Tracker>(name, {job, argument}));
  }
  const std::vector<std::string> scalars = scalar_names(experiment);
  std::map<std::string, std::string> origin = provenance();
  std::string hosts;
  for (const std::string& place : places) hosts += (hosts.empty() ? "" : "\n") + place;
  origin["ranks"] = std::to_string(comm.size());
  origin["hosts"] = hosts;
  if (const std::string lines = plugin_lines(); !lines.empty()) origin["plugins"] = lines;
  origin["start"] = former.start.empty() ? started : former.start;
  if (former.round > 0)
    origin["resumed"] =
        former.resumed + (former.resumed.empty() ? "" : " ") + std::to_string(former.round);
  if (!former.lost_ranks.empty()) origin["lost_ranks"] = former.lost_ranks;
  results->set_job(job.text(), job.values());
  results->set_scalars(scalars);
  results->set_partition(experiment.partition, skew,
                         {.validation = experiment.validation,
                          .test = experiment.test,
                          .holdout = experiment.holdout,
                          .shift_group = experiment.shift_group,
                          .own_tests = experiment.own_tests});
  results->set_provenance(origin);
  if (former.round > 0) results->load(former.round);

  Trackers trackers{.results = &*results, .all = {&*results}};
  for (const auto& tracker : others) {
    tracker->begin({job, origin, scalars, former.round});
    trackers.all.push_back(tracker.get());
  }

  const int columns = terminal_columns();
  Progress progress(job.get<bool>("quiet"), columns > 0,
                    parse_log_level(job.get<std::string>("log-level")), job.get<int64_t>("rounds"));
  progress.note(header(experiment, comm, comm.gpu_comm(), places, skew));
  for (const std::string& warning : experiment.algorithm->warnings()) {
    progress.note(warning, LogLevel::kWarning);
  }
  for (const std::string& note : experiment.notes) progress.note(note, LogLevel::kWarning);
  if (const auto idle = idle_hosts(job, comm.size())) progress.note(*idle, LogLevel::kWarning);
  if (const std::string tasks = unused_tasks(); comm.size() == 1 && !tasks.empty()) {
    progress.note(
        message("this run is one process, though the batch job has tasks for more (", tasks,
                "): mpirun or srun before fl_sim starts them; --alone says that one is "
                "meant"),
        LogLevel::kWarning);
  }
  if (!former.note.empty()) progress.note(former.note, LogLevel::kWarning);
  if (former.round > 0)
    progress.note(message("goes on after round ", former.round, ", from ", former.folder));
  const auto begin = Clock::now();
  trackers.all.push_back(&progress);
  Outcome outcome;
  try {
    outcome = simulate(experiment, comm, from, trackers);
  } catch (...) {
    progress.finish();
    left = what_is_left(*results, job);
    throw;
  }
  const double seconds = seconds_since(begin);
  progress.finish();
  if (outcome.paused) {
    progress.note(farewell(outcome, job), LogLevel::kWarning);
    return Interruption::kExitCode;
  }
  progress.note(
      summary(outcome, seconds, read_options<EvaluationPlan>(job).target, results->path()));
  if (checkpoints.keep)
    progress.note("--resume auto with more --rounds goes on from the checkpoint in " +
                  checkpoint_folder(job));
  if (!outcome.in_vain() && !outcome.gave_up) return 0;
  progress.note(in_vain_text(outcome, job), LogLevel::kWarning);
  return kInVain;
}

}  // namespace fl_sim
