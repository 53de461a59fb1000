// fl_sim: parse the job, start MPI, run, report errors.
#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "base/check.h"
#include "base/version.h"
#include "commands/compare.h"
#include "commands/progress.h"
#include "commands/provenance.h"
#include "commands/questions.h"
#include "commands/report.h"
#include "commands/run_plan.h"
#include "commands/selftest/selftest.h"
#include "engine/checkpoint_keeper.h"
#include "engine/experiment.h"
#include "engine/rank_loss.h"
#include "network/arithmetic.h"
#include "process/communicator.h"
#include "process/interruption.h"
#include "process/launcher.h"
#include "process/rank_survival.h"
#include "process/test_hooks.h"
#include "process/watchdog.h"
#include "storage/results.h"
#include "storage/run_lock.h"

namespace fl_sim {
namespace {

constexpr double kStartSeconds = 600;  // that MPI may take to start

// `rank` -1: it is not known yet.
void report(int rank, const std::string& what) {
  std::cerr << "fl_sim: " << (rank >= 0 ? message("rank ", rank, ": ") : "") << what << std::endl;
}

// Others are answered at once: starting LibTorch a second time would take half a second.
bool computes(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] == "compare") return false;
  return std::none_of(arguments.begin(), arguments.end(), [](const std::string& word) {
    return word == "--help" || word == "-h" || word == "--list" || word == "--explain";
  });
}

// "stopped by SIGUSR1 after round 12 of 50; ..."
std::string farewell(const Outcome& outcome, const Job& job) {
  const std::string by = "stopped by " + Interruption::get().name();
  if (outcome.rounds == 0) return by + " before the first round was complete";
  return message(by, " after round ", outcome.rounds, " of ", job.get<std::string>("rounds"),
                 "; --resume auto goes on from the checkpoint in ", checkpoint_folder(job));
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

int run(const std::vector<std::string>& arguments, Communicator& comm) {
  const std::string started = utc_now();
  Job job;
  std::optional<Results> results;
  std::optional<RunLock> output_lock, checkpoint_lock;
  if (comm.rank() == 0) {
    TestHooks::get();
    job = Job::parse(arguments);
    const bool replace = job.get<bool>("overwrite") || job.get<std::string>("resume") != "no";
    results.emplace(job.get<std::string>("output"), replace);
    output_lock.emplace(results->path(), "choose another --output");
    // Again: a run that was waited for may have written its file by now.
    results.emplace(job.get<std::string>("output"), replace);
  }
  Experiment experiment = set_up(job, comm);
  job = experiment.job;
  set_arithmetic(job);
  // What is wrong with the job is wrong on all ranks: rank 0 says so while the others wait.
  if (comm.rank() != 0) comm.meet();
  comm.use(choose_gpu_comm(job.get<std::string>("gpu-comm"), experiment.device));
  if (job.get<std::string>("on-rank-loss") == "continue" && comm.size() > 1) allow_losses(comm);
  Continuation former;
  if (comm.rank() == 0) {
    const auto checkpoint_dir = job.get<std::string>("checkpoint-dir");
    if (checkpoint_dir != "auto") prepare_checkpoints(checkpoint_dir);
    checkpoint_lock.emplace(checkpoint_folder(job), "choose another --output or --checkpoint-dir");
    former = look_for_former(experiment, *results);
    if (!former.complete && (job.get<int64_t>("checkpoint-every") > 0 || checkpoint_dir != "auto"))
      prepare_checkpoints(checkpoint_folder(job));
    comm.meet();
  }
  std::string from = former.complete ? "complete" : former.folder;
  comm.broadcast(from);
  if (from == "complete") {
    if (comm.rank() == 0 && !job.get<bool>("quiet")) std::cout << former.note << std::endl;
    return 0;
  }
  Interruption::get().set_grace(job.get<double>("grace"));
  const std::vector<std::string> places = comm.gather(host_name() + " " + experiment.device.str());
  if (comm.rank() != 0) {
    return simulate(experiment, comm, from, nullptr, nullptr).paused ? Interruption::kExitCode : 0;
  }

  const torch::Tensor labels = sample_labels(experiment.data.train);
  const Skew skew = measure_skew(experiment.partition,
                                 {labels.data_ptr<int64_t>(), static_cast<size_t>(labels.numel())},
                                 experiment.data.classes);
  std::map<std::string, std::string> origin = provenance();
  std::string hosts;
  for (const std::string& place : places) hosts += (hosts.empty() ? "" : "\n") + place;
  origin["ranks"] = std::to_string(comm.size());
  origin["hosts"] = hosts;
  origin["start"] = former.start.empty() ? started : former.start;
  if (former.round > 0)
    origin["resumed"] =
        former.resumed + (former.resumed.empty() ? "" : " ") + std::to_string(former.round);
  if (!former.lost_ranks.empty()) origin["lost_ranks"] = former.lost_ranks;
  results->set_job(job.text(), job.values());
  results->set_scalars(experiment.algorithm->scalars());
  results->set_partition(experiment.partition, skew,
                         {.validation = experiment.validation,
                          .test = experiment.test,
                          .holdout = experiment.holdout,
                          .shift_group = experiment.shift_group});
  results->set_provenance(origin);
  if (former.round > 0) results->load(former.round);

  const int columns = terminal_columns();
  Progress progress(job.get<bool>("quiet"), columns > 0,
                    parse_log_level(job.get<std::string>("log-level")), job.get<int64_t>("rounds"));
  progress.note(header(experiment, comm, comm.gpu_comm(), places, skew));
  for (const std::string& warning : experiment.algorithm->warnings()) {
    progress.note(warning, LogLevel::kWarning);
  }
  for (const std::string& note : experiment.notes) progress.note(note, LogLevel::kWarning);
  if (const auto idle = idle_hosts(job, comm.size())) progress.note(*idle, LogLevel::kWarning);
  if (!former.note.empty()) progress.note(former.note, LogLevel::kWarning);
  if (former.round > 0)
    progress.note(message("goes on after round ", former.round, ", from ", former.folder));
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = simulate(experiment, comm, from, &*results, &progress);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  progress.finish();
  if (outcome.paused) {
    progress.note(farewell(outcome, job), LogLevel::kWarning);
    return Interruption::kExitCode;
  }
  progress.note(summary(outcome, seconds, job.get<double>("target-accuracy"), results->path()));
  return 0;
}

}  // namespace
}  // namespace fl_sim

int main(int argc, char** argv) {
  using namespace fl_sim;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (computes(arguments)) restart_for_fast_blas(argv);
  // Collectives and layers allocate and free large buffers all the time: keep the pages.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  try {
    if (!arguments.empty() && arguments[0] == "selftest") {
      return run_selftest({arguments.begin() + 1, arguments.end()});
    }
    if (!arguments.empty() && arguments[0] == "compare") {
      return run_compare({arguments.begin() + 1, arguments.end()});
    }
    if (launched_as_root() ? answer_question(arguments) : is_question(arguments)) return 0;
  } catch (const std::exception& error) {
    std::cerr << "fl_sim: " << error.what() << std::endl;
    return 1;
  }

  std::optional<MpiSession> mpi;
  std::optional<Communicator> comm;  // outlives what run() makes: its end is collective
  try {
    const bool plans = std::count(arguments.begin(), arguments.end(), "--plan") > 0;
    if (!plans) Interruption::get().listen();
    // Other ranks may have died before they could be missed.
    Watchdog::get().enter("starting MPI");
    Watchdog::get().start(kStartSeconds, [](const std::string& what) {
      report(-1, what + " on " + host_name());
      std::_Exit(1);
    });
    mpi.emplace();
    comm.emplace(*mpi);
    Watchdog::get().stop();
    at::set_num_threads(1);
    if (!plans) return run(arguments, *comm);
    plan_run(arguments, *comm);
    return 0;
  } catch (const c10::Error& error) {
    report(comm ? comm->rank() : -1, error.what_without_backtrace());
  } catch (const std::exception& error) {
    report(comm ? comm->rank() : -1, error.what());
  }
  if (comm && comm->size() > 1) comm->abort(1);
  return 1;
}
