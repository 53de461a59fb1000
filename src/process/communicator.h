// Ranks and what passes between them. Only communicator.cpp includes <mpi.h>.
//
// Nobody spins: before each collective the ranks meet in a non-blocking barrier that they poll with
// sleeps in between, so that a waiting rank leaves its core to the others; the collective itself
// then is a short blocking call.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"

namespace fl_sim {

// Where a rank's time goes. Seconds.
struct RankClock {
  double wait = 0, communicate = 0;
};

// How the tensors of a device reach MPI.
struct GpuComm {
  bool direct = false;
  std::string reason;  // for the run's header
};

// Thrown by a communicator's operations where one of its ranks may have died, after allow_losses().
struct RankLost : Error {
  using Error::Error;
};

class Communicator {
 public:
  // All ranks of the run; MPI must have been started (MpiSession).
  Communicator();
  // Some of another communicator's ranks, ascending; all of that one's ranks call it together. Null
  // on those that are not among them.
  static std::unique_ptr<Communicator> among(Communicator& all, const std::vector<int>& ranks);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int node_rank() const { return node_rank_; }  // among the ranks of this machine
  int node_size() const { return node_size_; }
  int nodes() const { return nodes_; }

  // Decides how tensors of `device` travel from now on. `mode` is gpu-comm's auto, host or direct.
  // Throws Error if direct is asked for and MPI cannot.
  GpuComm choose_gpu_comm(const std::string& mode, torch::Device device);

  // Waits until every rank is here. Meanwhile calls `work` while it returns true (it did something
  // and has more), with a poll in between, and sleeps otherwise: without looking up much for the
  // better part of the time that the others are expected to need.
  void meet(const std::function<bool()>& work = {}, double expected_seconds = 0);

  // The same in two halves, for rank 0 of several communicators: says that it has arrived; and
  // waits until everyone has in one of them, whose place in the list it returns. The time counts as
  // this communicator's.
  void arrive();
  size_t wait_for_any(std::span<Communicator* const> arrived,
                      const std::function<bool()>& work = {}, double expected_seconds = 0);

  // Collectives; every rank calls them in the same order, with the same sizes. Tensors may be on a
  // device. Large ones on the CPU cross between machines by MPI and within one through memory that
  // its ranks share, where there is room.
  void broadcast(torch::Tensor& tensor);    // from rank 0 into everyone's
  void broadcast(std::string& bytes);       // from rank 0
  void sum_to_root(torch::Tensor& tensor);  // rank 0's becomes the sum, int64 or float32
  std::vector<std::string> gather(const std::string& bytes);  // to rank 0, by rank; empty elsewhere

  // The same with records, which travel as the bytes that they are in memory.
  template <class Record>
  void broadcast(Record& record);  // from rank 0
  template <class Record>
  void broadcast(std::vector<Record>& records);  // from rank 0, which knows how many
  template <class Record>
  std::vector<Record> gather_records(const std::vector<Record>& own);  // to rank 0, rank by rank

  // Point to point. Sends complete in finish_sends().
  void send(torch::Tensor tensor, int to);
  void receive(torch::Tensor& tensor, int from);
  void finish_sends();

  // Short messages beside all that: post() does not wait, and poll() gives one that has come, with
  // its sender.
  void post(const std::string& bytes, int to);
  std::optional<std::pair<int, std::string>> poll();

  // What a rank that waits in meet() or wait_for_any() does at every look.
  void on_look(std::function<void()> work) { look_ = std::move(work); }

  // A copy of rank 0's-on-this-node tensor that all ranks of a node share in memory. `tensor`
  // counts on the node's first rank only, and must be on the CPU. `shared` tells whether it was
  // possible: where the node's shared memory is too small, or `allowed` is false on its first rank,
  // each rank gets a copy of its own.
  torch::Tensor share_on_node(const torch::Tensor& tensor, bool allowed, bool& shared);

  // Every rank together: zeros [n] of this rank's own, on the CPU, for which sum_to_root() is
  // fastest: in shared memory, where there is room. They live as long as the communicator.
  torch::Tensor summing_buffer(int64_t n, torch::ScalarType type);

  // Brings rank 0's tensor [n] of int64 to the first rank of each node, for share_on_node().
  void broadcast_to_nodes(torch::Tensor& tensor);

  RankClock& clock() { return clock_; }

  // Ends every rank, with exit code `code`.
  [[noreturn]] void abort(int code);

  // From here on a rank's death does not end the others: their operations throw RankLost. Every
  // rank together. Throws Error if this MPI cannot (ULFM: User-Level Failure Mitigation).
  static void allow_losses();

  // After RankLost, all that live together: a communicator among them, in the same order, that
  // lives as long as this one. Throws Error if rank 0 is not among them, or if nobody is missing:
  // `why` is what was thrown. Other communicators of before are of no use then.
  struct Survivors {
    Communicator* comm;
    std::vector<int> lost;  // as they were numbered when the run started
  };
  Survivors survivors(const std::string& why);

 private:
  void broadcast_bytes(void* data, size_t size);
  void sum_on_node(const torch::Tensor& tensor);
  bool broadcast_on_node(torch::Tensor& tensor);

  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
  int rank_ = 0, size_ = 1, node_rank_ = 0, node_size_ = 1, nodes_ = 1;
  bool direct_ = false;
  int losses_ = 0;  // that had happened when it was made
  std::unique_ptr<Communicator> next_;
  std::function<void()> look_;
  RankClock clock_;
};

template <class Record>
void Communicator::broadcast(Record& record) {
  static_assert(std::is_trivially_copyable_v<Record> && !std::is_pointer_v<Record>);
  broadcast_bytes(&record, sizeof record);
}

template <class Record>
void Communicator::broadcast(std::vector<Record>& records) {
  static_assert(std::is_trivially_copyable_v<Record> && !std::is_pointer_v<Record>);
  auto n = static_cast<int64_t>(records.size());
  broadcast(n);
  records.resize(static_cast<size_t>(n));
  broadcast_bytes(records.data(), records.size() * sizeof(Record));
}

template <class Record>
std::vector<Record> Communicator::gather_records(const std::vector<Record>& own) {
  static_assert(std::is_trivially_copyable_v<Record> && !std::is_pointer_v<Record>);
  const std::vector<std::string> parts =
      gather({reinterpret_cast<const char*>(own.data()), own.size() * sizeof(Record)});
  std::vector<Record> all;
  for (const std::string& part : parts) {
    const size_t before = all.size();
    all.resize(before + part.size() / sizeof(Record));
    if (!part.empty()) std::memcpy(all.data() + before, part.data(), part.size());
  }
  return all;
}

// MPI from construction to destruction. Without mpirun the run has one rank. After the loss of a
// rank the destructor leaves MPI as it is, which might wait for it.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

std::string mpi_library_version();  // "Open MPI v4.1.4"

// Whether this process is rank 0, as its launcher's environment says; true without a launcher. For
// before MPI starts.
bool launched_as_root();

}  // namespace fl_sim
