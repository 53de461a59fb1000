#include "process/mpi_session.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "base/version.h"
#include "process/launcher.h"
#include "process/mpi_dialect.h"
#include "process/mpi_files.h"
#include "process/mpi_internal.h"

namespace fl_sim {
namespace {

// Every rank of a machine has opened the memory of all others there once they have spoken.
void greet_node(const MpiState& state) {
  MPI_Comm node = MPI_COMM_NULL;
  state.check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
              "MPI_Comm_split_type");
  int rank = 0, size = 1;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_size(node, &size);
  for (int step = 1; step < size; ++step) {
    int other = 0;
    state.check(MPI_Sendrecv(&rank, 1, MPI_INT, (rank + step) % size, 0, &other, 1, MPI_INT,
                             (rank + size - step) % size, 0, node, MPI_STATUS_IGNORE),
                "MPI_Sendrecv");
  }
  MPI_Comm_free(&node);
}

// Throws an error that all ranks have. One message is enough: when the first one has said it and
// ends, its launcher ends the others.
[[noreturn]] void fail_as_one(int rank, const std::string& what) {
  if (rank != 0) std::this_thread::sleep_for(std::chrono::seconds(20));
  throw Error(what);
}

// MPI crashes, with a word about neither the reason nor the remedy, where the files by which ranks
// of a machine speak find no room.
void check_memory() {
  const auto [ranks, own] = launched_here();
  const int64_t each = dialect::memory_of_a_rank();
  struct statvfs space {};
  const std::string folder = dialect::memory_folder();
  if (ranks == 1 || each == 0 || statvfs(folder.c_str(), &space) != 0) return;
  const auto free = static_cast<int64_t>(space.f_bavail) * static_cast<int64_t>(space.f_frsize);
  if (free >= ranks * each) return;
  const auto megabytes = [](int64_t bytes) {
    const int64_t tenths = bytes / 100'000;
    return message(static_cast<double>(tenths) / 10, " MB");
  };
  const std::string what =
      message(folder.starts_with("/dev/shm/") ? "/dev/shm" : folder, " on ", host_name(), " has ",
              megabytes(free), " free, and MPI takes up to ", megabytes(ranks * each),
              " there for ", ranks, " ranks");
  const char* remedy =
      " (enlarge it: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm; or see what "
      "fills it)";
  if (free >= each + each / 16) {  // files grow as ranks speak
    if (own == 0) tell(message("warning: ", what, ": it may crash", remedy));
    return;
  }
  MpiFiles::get().end();
  fail_as_one(own, what + remedy);
}

}  // namespace

MpiSession::MpiSession() : state_(new MpiState) {
  MpiFiles::get().begin();
  check_memory();
  state_->yields = dialect::yield_when_idle();  // more ranks than cores is common here
  // What launchers say, before MPI says it of a process that is alone.
  const int ranks = launched_ranks();
  const bool first = launched_as_root();
  const std::string by = launched_by();
  int provided = 0;
  // MPICH takes SIGUSR1 for the news that a rank died, and asks its launcher, of whom a process
  // that has none then waits to hear forever. Here it asks a run to stop.
  struct sigaction ours = {};
  sigaction(SIGUSR1, nullptr, &ours);
  state_->check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided),
                "MPI_Init_thread");
  sigaction(SIGUSR1, &ours, nullptr);
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1 && ranks > 1) {
    if (!first) std::exit(1);  // one message is enough
    const std::string own = find_launcher();
    const bool slurm = by.starts_with("SLURM");
    throw Error(message(
        "the ", ranks, " ranks that were started do not know of one another (", by,
        ", but this process is alone: this fl_sim is built with ", mpi_library_version(),
        slurm ? ", and Slurm has started it without that MPI"
              : ", and the launcher is another MPI's",
        "): start them with ", own.empty() ? "its mpirun" : own,
        slurm ? " within the job, or srun --mpi=pmix (srun --mpi=list shows what there is)" : "",
        "; --alone says that each is meant to be a run of its own"));
  }
  if (size > 1 && launcher_ignored()) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    fail_as_one(rank, message("alone is set, but this is one of ", size, " ranks that know of one ",
                              "another (leave --alone away, or the launcher)"));
  }
  greet_node(*state_);
  MpiFiles::get().hide();
}

MpiSession::~MpiSession() {
  if (state_->losses == 0) {
    MpiFiles::get().show();
    MPI_Finalize();
  }
  MpiFiles::get().end();
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string version(text, static_cast<size_t>(length));
  version.resize(std::min(version.size(), version.find_first_of(",\n")));
  std::replace(version.begin(), version.end(), '\t', ' ');
  return version;
}

}  // namespace fl_sim
