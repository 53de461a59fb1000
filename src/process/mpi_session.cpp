#include "process/mpi_session.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "base/check.h"
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

}  // namespace

MpiSession::MpiSession() : state_(new MpiState) {
  MpiFiles::get().begin();
  state_->yields = dialect::yield_when_idle();  // more ranks than cores is common here
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
  if (const int ranks = launched_ranks(); size == 1 && ranks > 1) {
    if (!launched_as_root()) std::exit(1);  // one message is enough
    const std::string own = find_launcher();
    throw Error(message("the ", ranks, " ranks that were started do not know of one another (this ",
                        "fl_sim is built with ", mpi_library_version(), ", and the launcher is ",
                        "another MPI's): start them with ", own.empty() ? "its mpirun" : own));
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
