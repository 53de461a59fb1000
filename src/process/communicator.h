// Ranks and what passes between them.
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

#include "process/gpu_comm.h"
#include "process/mailbox.h"
#include "process/mpi_session.h"
#include "process/node_memory.h"

namespace fl_sim {

struct Survivors;

// Where a rank's time goes. Seconds.
struct RankClock {
  double wait = 0, communicate = 0;
};

// "Collective" in a comment: every rank calls it, all of them in the same order and with the same
// sizes. One communicator belongs to the main thread, but for abort().
class Communicator {
 public:
  // All ranks of the run. Collective.
  explicit Communicator(MpiSession& session);
  // Some of another communicator's ranks, ascending; null on those that are not among them.
  // Collective in `all`.
  static std::unique_ptr<Communicator> among(Communicator& all, const std::vector<int>& ranks);
  ~Communicator();  // Collective, unless an error is on its way, or a rank was lost.
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const;
  int size() const;
  int node_rank() const;  // among the ranks of this machine
  int node_size() const;
  int nodes() const;

  // How tensors travel from now on: the same on every rank.
  void use(const GpuComm& gpu_comm);
  const GpuComm& gpu_comm() const;

  // Waits until every rank is here. Meanwhile calls `work` while it returns true (it did something
  // and has more), with a poll in between, and sleeps otherwise: without looking up much for the
  // better part of the time that the others are expected to need. Collective.
  void meet(const std::function<bool()>& work = {}, double expected_seconds = 0);

  // The same in two halves, for rank 0 of several communicators: says that it has arrived
  // (Collective.); and waits until everyone has in one of them, whose place in the list it returns.
  // The time counts as this communicator's.
  void arrive();
  size_t wait_for_any(std::span<Communicator* const> arrived,
                      const std::function<bool()>& work = {}, double expected_seconds = 0);

  // What a rank that waits does at every look.
  void on_look(std::function<void()> work);

  // Tensors may be on a device. Large ones on the CPU cross between machines by MPI and within one
  // through memory that its ranks share, where there is room. All six Collective.
  void broadcast(torch::Tensor& tensor);    // from rank 0 into everyone's
  void broadcast(std::string& bytes);       // from rank 0
  void sum_to_root(torch::Tensor& tensor);  // rank 0's becomes the sum, int64 or float32
  std::vector<std::string> gather(const std::string& bytes);  // to rank 0, by rank; empty elsewhere
  void broadcast_to_nodes(torch::Tensor& tensor);  // rank 0's [n] of int64, to each node's first

  // The same with records, which travel as the bytes that they are in memory. Collective.
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

  Mailbox& mail();
  NodeMemory& memory();
  void post(const std::string& bytes, int to) { mail().post(bytes, to); }
  std::optional<std::pair<int, std::string>> poll() { return mail().poll(); }
  torch::Tensor summing_buffer(int64_t n, torch::ScalarType type) {
    return memory().summing_buffer(n, type);
  }
  torch::Tensor share_on_node(const torch::Tensor& tensor, bool allowed, bool& shared) {
    return memory().share(tensor, allowed, shared);
  }
  RankClock& clock() { return clock_; }

  // Ends every rank, with exit code `code`. Any thread.
  [[noreturn]] void abort(int code);

  // For this room's own sources.
  explicit Communicator(std::unique_ptr<MpiRanks> ranks);
  MpiRanks& ranks();

 private:
  void broadcast_bytes(void* data, size_t size);

  struct Impl;
  std::unique_ptr<Impl> impl_;
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

}  // namespace fl_sim
