// What the words of a command line ask for: a question, a command, a plan or a run.
#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/registry.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/compare.h"
#include "commands/export.h"
#include "commands/plugins.h"
#include "commands/questions.h"
#include "commands/run.h"
#include "commands/run_plan.h"
#include "commands/selftest/selftest.h"
#include "commands/words.h"
#include "process/communicator.h"
#include "process/failure.h"
#include "process/interruption.h"
#include "process/launcher.h"
#include "process/watchdog.h"

namespace fl_sim {
namespace {

constexpr double kStartSeconds = 600;  // that MPI may take to start

// `rank` -1: it is not known yet.
void report(int rank, const std::string& what) {
  tell((rank >= 0 ? message("rank ", rank, ": ") : "") + what);
}

// MPI and all ranks, from start() on.
struct Ranks {
  std::optional<MpiSession> mpi;
  std::optional<Communicator> comm;  // outlives what a run makes: its end is collective

  void start() {
    // Other ranks may have died before they could be missed.
    Watchdog::get().enter("starting MPI");
    Watchdog::get().start(kStartSeconds, [](const std::string& what) {
      report(-1, what + " on " + host_name());
      std::_Exit(1);
    });
    mpi.emplace();
    comm.emplace(*mpi);
    Watchdog::get().stop();
  }
};

// The end of a program that has not started MPI: LibTorch would take a tenth of a second to put
// itself away.
[[noreturn]] void end_at_once(int code) {
  std::cout.flush();
  std::_Exit(code);
}

// A run, or the plan of one. Rank 0 looks at the job before MPI starts; where it is wrong, MPI is
// still what ends the other ranks, who wait there.
int run_job(const std::vector<std::string>& arguments) {
  const bool plans = std::count(arguments.begin(), arguments.end(), "--plan") > 0;
  Ranks ranks;
  Start start;
  bool prepared = false;
  int rank = -1;
  std::string left;
  try {
    if (launched_as_root()) {
      rank = 0;
      load_plugins(arguments);
      if (plans) {
        check_plan(arguments);
      } else {
        start = prepare_run(arguments);
      }
      if (start.complete && launched_alone()) end_at_once(0);
    }
    prepared = true;
    rank = -1;
    if (!plans) Interruption::get().listen();
    ranks.start();
    rank = ranks.comm->rank();
    at::set_num_threads(1);
    if (!plans) return run(std::move(start), *ranks.comm, left);
    plan_run(arguments, *ranks.comm);
    return 0;
  } catch (const RankGone& error) {
    report(rank, rank == 0 ? "the run ends" + left : error.what());  // rank 0 has said it already
  } catch (const FailedElsewhere& error) {
    report(error.gone ? 0 : error.rank, (error.gone ? "the run ends" : error.what()) + left);
  } catch (...) {
    report(rank, text_of_error() + left);
  }
  if (!prepared && launched_alone()) end_at_once(1);
  try {
    if (!prepared) ranks.start();
  } catch (...) {
    report(rank, text_of_error());
  }
  if (ranks.comm && ranks.comm->size() > 1) ranks.comm->abort(1);
  return 1;
}

// `words`: those behind the command's name.
int command(const std::string& name, const std::vector<std::string>& words) {
  if (launched_as_root() || name == "selftest") load_plugins(words);
  const std::vector<std::string> own = without_plugins(words);
  if (name == "selftest") return run_selftest(own);
  return name == "export" ? run_export(own) : run_compare(own);
}

// Whether the job says that this process is a run of its own.
bool means_alone(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  std::optional<std::string> said;
  const std::vector<std::string> jobs = take_options(words, "--job");
  if (!jobs.empty()) said = job_file_value(jobs.back(), "alone");
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with("--alone=")) said = words[i].substr(8);
    if (words[i] != "--alone") continue;
    const bool bare = i + 1 == words.size() || words[i + 1].starts_with("--");
    said = bare ? "true" : words[i + 1];
  }
  return said && (*said == "true" || *said == "1" || *said == "yes" || *said == "on");
}

int answer(const std::vector<std::string>& arguments) {
  const std::string first = arguments.empty() ? "" : arguments[0];
  const bool commands = first == "selftest" || first == "compare" || first == "export";
  try {
    const std::vector<std::string> problems = take_registration_problems();
    FL_CHECK(problems.empty(), problems.front());
    if (!commands && means_alone(arguments)) ignore_launcher();
    if (commands) return command(first, {arguments.begin() + 1, arguments.end()});
    if (is_question(arguments)) {
      if (launched_as_root()) {
        load_plugins(arguments);
        answer_question(arguments);
      }
      end_at_once(0);
    }
  } catch (...) {
    report(-1, text_of_error());
    if (commands) return 1;
    end_at_once(1);
  }
  return run_job(arguments);
}

}  // namespace
}  // namespace fl_sim

// What main() calls; its name is all that main() knows of this library.
extern "C" [[gnu::visibility("default")]] int fl_sim_main(int argc, char** argv) {
  // Collectives and layers allocate and free large buffers all the time: keep the pages.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  fl_sim::tell_of_hdf5_crashes();
  return fl_sim::answer({argv + 1, argv + argc});
}
