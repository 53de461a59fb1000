// What the sources of this room that speak MPI share. Nobody else includes it, and only it
// includes <mpi.h>.
#pragma once

#include <mpi.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace fl_sim {

// What the communicators of a session share.
struct MpiState {
  bool yields = false;  // ranks that wait in blocking calls let others have the processor
  bool losses_allowed = false;
  std::vector<MPI_Comm> waited_in;  // this process's own, in which a rank may wait for others
  int losses = 0;                   // times that ranks were lost
  int survivor = 0;                 // this rank, among those that are left

  // Throws unless `code` is success: Error, or RankLost where losses are allowed.
  void check(int code, const char* what) const;
};

// The ranks of a communicator, those of them on this machine, and how they wait for one another.
struct MpiRanks {
  // Takes over `all`. Collective.
  MpiRanks(MpiState& its_session, MPI_Comm its_ranks);
  ~MpiRanks();  // Collective, unless has_failed().
  MpiRanks(const MpiRanks&) = delete;
  MpiRanks& operator=(const MpiRanks&) = delete;

  MpiState& session;
  MPI_Comm all = MPI_COMM_NULL, node = MPI_COMM_NULL;
  MPI_Comm firsts = MPI_COMM_NULL;  // the first ranks of all nodes; null on others
  int rank = 0, size = 1, node_rank = 0, node_size = 1, nodes = 1;
  int losses;                  // that had happened when it was made
  std::function<void()> look;  // what a rank does at every look while it waits; may be empty

  // After an error or a loss the others do not come to what is collective at the end.
  bool has_failed() const;

  void check(int code, const char* what) const { session.check(code, what); }

  // Sleeps in between.
  void wait(MPI_Request& request) const;

  // Between machines collectives are non-blocking, and this waits for their ends: others hear
  // meanwhile that this rank lives, which on a slow or cut network may take long. Within one
  // machine blocking ones are faster, where the MPI does not spin in them.
  bool may_block() const { return nodes == 1 && session.yields; }
  void finish(MPI_Request& request) const;

  // From rank 0 of `among` to all of them.
  void broadcast(void* data, int count, MPI_Datatype type, MPI_Comm among,
                 bool on_host = true) const;
};

namespace mpi {

constexpr int64_t kChunk = int64_t{1} << 27;  // elements in one collective, so that counts fit int

int count_of(int64_t n);  // throws Error if it is too large for MPI
MPI_Datatype type_of(torch::ScalarType type);
char* data_of(const torch::Tensor& tensor);

// Calls work(first, count) for all of n elements, as many at a time as one message may have.
template <class Work>
void in_chunks(int64_t n, const Work& work) {
  for (int64_t first = 0; first < n; first += kChunk)
    work(first, count_of(std::min(kChunk, n - first)));
}

// Sleeps a little longer each time, from 20 to 200 microseconds: that is reached after 10 ms.
class BackOff {
 public:
  void pause();

 private:
  int pause_ = 20;
};

}  // namespace mpi
}  // namespace fl_sim
