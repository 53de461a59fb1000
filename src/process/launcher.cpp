#include "process/launcher.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "process/mpi_dialect.h"

namespace fl_sim {
namespace {

// Whether the process ends within so many tenths of a second.
bool ends(pid_t process, int tenths) {
  for (int i = 0; i < tenths; ++i) {
    if (kill(process, 0) != 0) return true;
    usleep(100'000);
  }
  return false;
}

// The program's place, if it can be run; `name` may be a path or a word to look up in the PATH.
std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::string program = folder + "/" + name;
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return {};
}

// How many tasks Slurm has for a job or a step of one: a job's shell, where they are still to be
// started, has that variable, too.
std::string slurm_tasks() {
  for (const char* variable : {"SLURM_NTASKS", "SLURM_NPROCS"}) {
    if (const char* tasks = std::getenv(variable)) return message(variable, "=", tasks);
  }
  return {};
}

bool ignored = false;  // see ignore_launcher()

// What the launcher calls this process; null without a launcher.
const char* launched_rank() {
  if (ignored) return nullptr;
  // Of Open MPI, PMIx, MPICH and its kin (also under Slurm), MVAPICH, Cray's PALS and ALPS, IBM's
  // JSM, Flux, Slurm, and of one machine's processes. The launcher of ranks goes before the batch
  // system that may have started it.
  for (const char* variable :
       {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID",
        "ALPS_APP_PE", "JSM_NAMESPACE_RANK", "FLUX_TASK_RANK", "SLURM_PROCID", "MPI_LOCALRANKID"}) {
    if (const char* rank = std::getenv(variable)) return rank;
  }
  return nullptr;
}

}  // namespace

bool launched_as_root() {
  const char* rank = launched_rank();
  return rank == nullptr || std::strcmp(rank, "0") == 0;
}

void ignore_launcher() { ignored = true; }
bool launcher_ignored() { return ignored; }

std::string launched_by() {
  if (ignored) return {};
  for (const char* variable :
       {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_SIZE",
        "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"}) {
    if (const char* size = std::getenv(variable)) return message(variable, "=", size);
  }
  return std::getenv("SLURM_STEP_ID") != nullptr ? slurm_tasks() : std::string();
}

std::string unused_tasks() {
  const bool asks = !ignored && launched_by().empty() && std::getenv("SLURM_PROCID") != nullptr;
  const std::string tasks = asks ? slurm_tasks() : std::string();
  return tasks.ends_with("=1") ? std::string() : tasks;
}

int launched_ranks() {
  const std::string by = launched_by();
  return by.empty() ? 0 : std::atoi(by.c_str() + by.find('=') + 1);
}

std::pair<int, int> launched_here() {
  for (const auto& [size, rank] :
       {std::pair{"OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
        std::pair{"MPI_LOCALNRANKS", "MPI_LOCALRANKID"}}) {
    const char* all = std::getenv(size);
    const char* own = std::getenv(rank);
    if (!ignored && all != nullptr && own != nullptr) return {std::atoi(all), std::atoi(own)};
  }
  return {1, 0};
}

bool launched_alone() {
  const int ranks = launched_ranks();
  return ranks > 0 ? ranks == 1 : launched_rank() == nullptr;
}

std::string find_launcher() {
  if (const char* name = std::getenv("FL_SIM_MPIRUN"); name != nullptr && *name != '\0')
    return find_program(name);
  for (const char* name : dialect::launchers()) {
    if (std::string program = find_program(name); !program.empty()) return program;
  }
  return {};
}

std::vector<std::string> environment_to_launch(const std::vector<std::string>& own) {
  std::vector<std::string> variables;
  for (const std::string& variable : own) {
    const auto starts = [&](const char* prefix) { return variable.starts_with(prefix); };
    if (!starts("PMIX_") && !starts("PMI_") && !starts("OMPI_COMM_") && !starts("PRTE_LAUNCHED"))
      variables.push_back(variable);
  }
  const auto add = [&](const std::string& name, const char* value) {
    const bool known = std::any_of(variables.begin(), variables.end(), [&](const std::string& one) {
      return one.starts_with(name + "=");
    });
    if (!known) variables.push_back(name + "=" + value);
  };
  for (const auto& [name, value] : dialect::few_ranks_anywhere()) add(name, value);
  add("HOME", "/tmp");
  return variables;
}

void end_launcher_after(int seconds) {
  const pid_t launcher = getppid();
  std::string name;
  std::getline(std::ifstream(message("/proc/", launcher, "/comm")), name);
  if (!dialect::is_own_launcher(name)) return;
  const long files = std::min(sysconf(_SC_OPEN_MAX), 65536L);
  if (fork() != 0) return;
  // Only async-signal-safe calls from here on: the process had threads.
  setsid();
  for (int file = 0; file < files; ++file) close(file);  // launchers wait for the ends of pipes
  if (!ends(launcher, 10 * seconds)) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace fl_sim
