#include "process/rank_survival.h"

#include <utility>

#include "process/communicator.h"
#include "process/mpi_dialect.h"
#include "process/mpi_internal.h"

namespace fl_sim {

void allow_losses(Communicator& comm) {
  FL_CHECK(dialect::knows_losses(), "on-rank-loss is continue, but ", mpi_library_version(),
           " cannot (Open MPI 5 with ULFM can)");
  FL_CHECK(dialect::reports_losses(),
           "on-rank-loss is continue, but MPI was started without it (mpirun --with-ft ulfm)");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  comm.ranks().session.losses_allowed = true;
}

Survivors survivors(Communicator& comm, const std::string& why) {
  FL_CHECK(dialect::knows_losses(), why);
  const MpiRanks& before = comm.ranks();
  MpiState& session = before.session;
  Survivors left;
  // Again, if somebody dies meanwhile: all agree whether it was possible.
  for (int all = 0; all == 0;) {
    // Whoever still waits for something learns of it, wherever that is.
    for (MPI_Comm one : session.waited_in) dialect::revoke(one);
    session.waited_in.clear();
    ++session.losses;
    MPI_Comm fresh = MPI_COMM_NULL;
    session.check(dialect::shrink(before.all, &fresh), "MPIX_Comm_shrink");
    all = 1;
    try {
      left.comm.reset(new Communicator(std::make_unique<MpiRanks>(session, fresh)));
    } catch (const RankLost&) {
      all = 0;
      dialect::revoke(fresh);
    }
    dialect::agree(fresh, &all);
  }
  left.comm->use(comm.gpu_comm());
  session.survivor = left.comm->rank();

  MPI_Group started, former, now;
  MPI_Comm_group(MPI_COMM_WORLD, &started);
  MPI_Comm_group(before.all, &former);
  MPI_Comm_group(left.comm->ranks().all, &now);
  for (int rank = 0; rank < before.size; ++rank) {
    int here = MPI_UNDEFINED, then = MPI_UNDEFINED;
    MPI_Group_translate_ranks(former, 1, &rank, now, &here);
    MPI_Group_translate_ranks(former, 1, &rank, started, &then);
    if (here == MPI_UNDEFINED) left.lost.push_back(then);
  }
  for (MPI_Group* group : {&started, &former, &now}) MPI_Group_free(group);
  FL_CHECK(!left.lost.empty(), "MPI failed, though no rank is lost: ", why);
  FL_CHECK(left.lost[0] != 0, "rank 0 is lost, which had the global model");
  return left;
}

}  // namespace fl_sim
