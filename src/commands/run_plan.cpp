#include "commands/run_plan.h"

#include <torch/cuda.h>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "commands/batch_script.h"
#include "commands/probe.h"
#include "commands/progress.h"
#include "commands/run_estimate.h"
#include "commands/text_table.h"
#include "commands/words.h"
#include "engine/experiment.h"
#include "engine/model_trial.h"
#include "engine/planned_partition.h"
#include "engine/set_up.h"
#include "network/arithmetic.h"

namespace fl_sim {
namespace {

std::string mib(int64_t bytes) {
  return fixed(static_cast<double>(bytes) / static_cast<double>(1 << 20), 1);
}

std::string counted(int64_t n, const std::string& what) {
  return message(n, " ", what, n == 1 ? "" : "s");
}

// So many ranks as the user says, or mpirun; 0: nobody said so.
int asked_ranks(std::vector<std::string>& words, int launched) {
  const std::string text = take_option(words, "--plan-ranks").value_or("");
  if (text.empty()) return launched > 1 ? launched : 0;
  const bool digits = text.size() < 7 && text.find_first_not_of("0123456789") == std::string::npos;
  FL_CHECK(digits && std::stoi(text) > 0, "--plan-ranks is ", text,
           " (must be a whole number of at least 1)");
  return std::stoi(text);
}

// The job's experiment, on this rank alone. Where a GPU is asked for and there is none, the
// processor stands in for it.
Experiment make(const Job& job, Communicator& alone) {
  if (!read_options<Arithmetic>(job).cuda() || torch::cuda::is_available())
    return set_up(job, alone);
  PlannedPartition plan = make_partition_of(job);
  Experiment experiment = make_experiment(std::move(plan.job), std::move(plan.data));
  try_foreign_model(experiment);
  return experiment;
}

// Takes the words that are no options of the job out of `words`, and says how many ranks they want.
int take_ranks(std::vector<std::string>& words, int launched) {
  std::erase(words, "--plan");
  return asked_ranks(words, launched);
}

void show(const std::vector<std::string>& arguments, int launched, Communicator& alone) {
  std::vector<std::string> words = arguments;
  const int asked = take_ranks(words, launched);
  const ProcessMemory at_start = memory_now();
  Experiment e = make(Job::parse(words), alone);
  set_arithmetic(e.job);
  const int64_t reading_peak = memory_now().peak;
  const Measured m = probe(e, alone);
  const RunEstimate plan(e, m, at_start, reading_peak);
  const int busy_ranks = plan.busy_ranks(), ranks = asked > 0 ? asked : busy_ranks;
  const bool exact = e.job.get<std::string>("sum") == "exact";

  const auto line = [&](const std::string& name, const std::string& text) {
    std::cout << std::left << std::setw(14) << name << text << "\n";
  };
  const auto value = [&](const std::string& key) { return e.job.get<std::string>(key); };
  line("job", message(value("algorithm"), ", ", value("dataset"), ", ", value("model"), ": ",
                      e.network->layout().count(), " parameters, ", plan.rounds(), " rounds of ",
                      plan.cohort(), " of ", e.partition.clients(), " clients"));
  line("groups", message(plan.groups(), " a round, of ", value("group-size") == "1" ? "" : "up to ",
                         counted(e.job.get<int64_t>("group-size"), "client"),
                         ": so many hosts can have something to do"));
  line("ranks", message(ranks, ranks == 1   ? " (server and host in one)"
                               : ranks == 2 ? ": 1 server, 1 host"
                                            : message(": 1 server, ", ranks - 1, " hosts")));
  if (ranks - 1 > plan.groups() && e.job.get<int64_t>("group-size") > 1) {
    line("", message("--group-size ", std::max<int64_t>(1, plan.cohort() / (ranks - 1)),
                     " would give every host something to do"));
  }

  std::cout << "\nWhat hosts are dealt in the first round\n";
  const std::map<int64_t, RunEstimate::Load> loads = plan.first_deal(ranks);
  if (loads.size() <= 16) {
    for (const auto& [rank, load] : loads) {
      line(message("  rank ", rank),
           message(counted(load.clients, "client"), " in ", counted(load.groups, "group"), ", ",
                   counted(load.steps, "step")));
    }
  } else {
    const auto range = [&](const std::string& what, int64_t RunEstimate::Load::*member) {
      const auto [low, high] = std::minmax_element(
          loads.begin(), loads.end(),
          [&](const auto& a, const auto& b) { return a.second.*member < b.second.*member; });
      return message(low->second.*member, " to ", high->second.*member, " ", what);
    };
    line("  each", message(range("clients", &RunEstimate::Load::clients), ", ",
                           range("groups", &RunEstimate::Load::groups), ", ",
                           range("steps", &RunEstimate::Load::steps)));
  }

  std::cout << "\nBytes a round, as /rounds counts them\n";
  const std::string each = " to each of " + counted(plan.rows(), "client");
  const bool alike = m.mean_traffic.down == m.traffic.down && m.mean_traffic.up == m.traffic.up;
  const std::string mean = alike ? "" : ", on the average";
  line("  down",
       message(m.mean_traffic.down * plan.rows(), " (", m.mean_traffic.down, each, mean, ")"));
  line("  up",
       message(m.mean_traffic.up * plan.rows(), " (", m.mean_traffic.up, " by each", mean, ")"));
  line("  MPI", message(m.sum, " in one sum of ", exact ? "64-bit integers" : "float32", " and ",
                        m.weights + m.shared,
                        " in the broadcast, between machines; shared memory within one"));

  std::cout
      << "\nMemory, MiB: worked out, but for training, evaluation and the program, which were "
         "measured\n";
  const auto table = [&](const std::string& who, const RunEstimate::Need& need) {
    line("  " + who, message(mib(need.all()), " in all"));
    TextTable parts({{.right = true, .least = 12}, {}});
    for (const auto& [name, bytes] : need.parts) parts.add({mib(bytes), name});
    std::cout << parts.text();
  };
  table("rank 0", plan.server_need(ranks));
  if (ranks > 1) table("a host", plan.host_need(ranks));
  const int64_t node = plan.node_need(ranks);
  line("  one machine", message(mib(node), " for all ranks, what they share counted once"));

  const int64_t states = plan.clients_with_state() * (plan.state() + 8);
  std::cout << "\n";
  line("checkpoint", message(mib(plan.checkpoint_server() + states), " MiB: server ",
                             mib(plan.checkpoint_server()), ", states of ",
                             plan.clients_with_state(), " clients ", mib(states)));

  std::cout
      << "\nTime, a prediction for ranks with a core each, as fast as this one: a client takes "
      << fixed(1e3 * m.start, 2) << " ms and " << fixed(1e3 * m.step, 3)
      << " ms a step,\nthe server " << fixed(1e3 * m.update, 2) << " ms a round and "
      << fixed(m.evaluation, 2) << " s to evaluate (" << plan.evaluations()
      << " times); messages between machines are not in it\n";
  if (value("device") == "cuda" && e.device.is_cpu())
    std::cout << "This machine has no CUDA device: times and memory are those of its processor\n";
  TextTable times({{.right = true, .least = 10},
                   {.right = true, .least = 10},
                   {.right = true, .least = 11},
                   {.right = true, .least = 9},
                   {}});
  times.add({"ranks", "s a round", "hosts busy", "in all"});
  std::set<int> shown = {1, busy_ranks, ranks};
  for (int64_t hosts = 1; hosts <= 2 * plan.groups() && hosts <= 4096; hosts *= 2)
    shown.insert(static_cast<int>(hosts) + 1);
  for (const int k : shown) {
    const RunEstimate::Pace pace = plan.pace(k);
    std::string remarks = pace.waiting ? "as long as evaluation" : "";
    const auto remark = [&](const std::string& text) {
      remarks += (remarks.empty() ? "" : "  ") + text;
    };
    if (k == ranks) remark("<- planned");
    if (k == busy_ranks) remark("<- the most that are kept busy");
    times.add({message(k), fixed(pace.round, 3), fixed(100 * pace.busy, 0) + " %",
               duration_text(plan.total_seconds(k)), remarks});
  }
  std::cout << times.text();
  const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  const double here = plan.pace(ranks).work / static_cast<double>(std::max<int64_t>(1, cores));
  if (ranks > cores && here > plan.pace(ranks).round) {
    std::cout << "On this machine " << ranks << " ranks share " << counted(cores, "core")
              << ": a round takes at least " << fixed(here, 3) << " s here\n";
  }
  std::cout << "\nA batch script for Slurm (from its first line on: fl_sim --plan ... | sed -n "
               "'/^#!/,$p' > job.sh)\n\n"
            << batch_script(e.job, words, ranks, node, plan.total_seconds(ranks)) << std::flush;
}

}  // namespace

void check_plan(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  take_ranks(words, 1);
  Job::parse(words);
}

void plan_run(const std::vector<std::string>& arguments, Communicator& comm) {
  const std::unique_ptr<Communicator> alone = Communicator::among(comm, {0});
  if (comm.rank() == 0) show(arguments, comm.size(), *alone);
  comm.meet();
}

}  // namespace fl_sim
