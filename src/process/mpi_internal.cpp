#include "process/mpi_internal.h"

#include <chrono>
#include <climits>
#include <exception>
#include <string>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "process/rank_lost.h"
#include "process/test_hooks.h"

namespace fl_sim {

void MpiState::check(int code, const char* what) const {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  const std::string why =
      message(what, " failed: ", std::string(text, static_cast<size_t>(length)));
  // A collective that others have left may fail with any code: survivors() finds out.
  if (losses_allowed) throw RankLost(why);
  throw Error(why);
}

MpiRanks::MpiRanks(MpiState& its_session, MPI_Comm its_ranks)
    : session(its_session), all(its_ranks), losses(its_session.losses) {
  const auto join = [this](MPI_Comm comm) {
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    session.waited_in.push_back(comm);
  };
  join(all);
  MPI_Comm_rank(all, &rank);
  MPI_Comm_size(all, &size);
  check(MPI_Comm_split_type(all, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  if (const int64_t machines = TestHooks::get().machines; machines > 1) {
    MPI_Comm whole = node;
    check(MPI_Comm_split(whole, rank % static_cast<int>(machines), rank, &node), "MPI_Comm_split");
    MPI_Comm_free(&whole);
  }
  join(node);
  MPI_Comm_rank(node, &node_rank);
  MPI_Comm_size(node, &node_size);
  const int first = node_rank == 0 ? 1 : 0;
  check(MPI_Comm_split(all, first == 1 ? 0 : MPI_UNDEFINED, rank, &firsts), "MPI_Comm_split");
  if (firsts != MPI_COMM_NULL) join(firsts);
  check(MPI_Allreduce(&first, &nodes, 1, MPI_INT, MPI_SUM, all), "MPI_Allreduce");
}

MpiRanks::~MpiRanks() {
  if (has_failed()) return;
  for (MPI_Comm* comm : {&firsts, &node, &all}) {
    std::erase(session.waited_in, *comm);
    if (*comm != MPI_COMM_NULL) MPI_Comm_free(comm);
  }
}

bool MpiRanks::has_failed() const {
  return std::uncaught_exceptions() > 0 || losses != session.losses;
}

void MpiRanks::wait(MPI_Request& request) const {
  mpi::BackOff back_off;
  for (int done = 0;;) {
    if (look) look();
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) return;
    back_off.pause();
  }
}

void MpiRanks::finish(MPI_Request& request) const {
  constexpr auto kBetween = std::chrono::milliseconds(20);
  auto next = Clock::now() + kBetween;
  for (int done = 0, i = 1;; ++i) {
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) return;
    std::this_thread::yield();
    if (i % 64 != 0 || Clock::now() < next) continue;
    if (look) look();
    next = Clock::now() + kBetween;
  }
}

void MpiRanks::broadcast(void* data, int count, MPI_Datatype type, MPI_Comm among,
                         bool on_host) const {
  // Non-blocking collectives may crash on a device's memory (Open MPI's issues 9845 and 12045).
  if (!on_host || may_block()) {
    check(MPI_Bcast(data, count, type, 0, among), "MPI_Bcast");
    return;
  }
  MPI_Request request;
  check(MPI_Ibcast(data, count, type, 0, among, &request), "MPI_Ibcast");
  finish(request);
}

namespace mpi {

int count_of(int64_t n) {
  FL_CHECK(n >= 0 && n <= INT_MAX, "a message of ", n, " elements is too large for MPI");
  return static_cast<int>(n);
}

MPI_Datatype type_of(torch::ScalarType type) {
  switch (type) {
    case torch::kInt64:
      return MPI_INT64_T;
    case torch::kFloat32:
      return MPI_FLOAT;
    case torch::kFloat64:
      return MPI_DOUBLE;
    case torch::kUInt8:
      return MPI_UINT8_T;
    default:
      throw Error(message("tensors of type ", c10::toString(type), " cannot travel"));
  }
}

char* data_of(const torch::Tensor& tensor) { return static_cast<char*>(tensor.data_ptr()); }

void BackOff::pause() {
  std::this_thread::sleep_for(std::chrono::microseconds(pause_));
  pause_ = std::min(pause_ + 2, 200);
}

}  // namespace mpi
}  // namespace fl_sim
