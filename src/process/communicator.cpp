#include "process/communicator.h"

#include <torch/cuda.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "process/launcher.h"
#include "process/leaving.h"
#include "process/mpi_internal.h"

namespace fl_sim {

struct Communicator::Impl {
  explicit Impl(std::unique_ptr<MpiRanks> its_ranks)
      : ranks(std::move(its_ranks)), memory(*ranks), mail(*ranks) {}

  std::unique_ptr<MpiRanks> ranks;
  NodeMemory memory;
  Mailbox mail;
  GpuComm gpu_comm;
  MPI_Request arrival = MPI_REQUEST_NULL;
  struct Send {
    MPI_Request request;
    torch::Tensor keep_alive;
  };
  std::vector<Send> sends;
  std::vector<torch::Tensor> staging;  // pinned host buffers, reused

  // Where MPI can read and write the tensor's bytes.
  torch::Tensor host_buffer(const torch::Tensor& tensor) {
    FL_CHECK(tensor.is_contiguous(), "only contiguous tensors can travel");
    if (tensor.is_cuda()) torch::cuda::synchronize(tensor.device().index());
    if (gpu_comm.direct || (tensor.is_cpu() && !gpu_comm.copies)) return tensor;
    for (torch::Tensor& buffer : staging) {
      if (buffer.sizes() == tensor.sizes() && buffer.scalar_type() == tensor.scalar_type())
        return buffer;
    }
    staging.push_back(torch::empty(
        tensor.sizes(), torch::dtype(tensor.scalar_type()).pinned_memory(tensor.is_cuda())));
    return staging.back();
  }

  // To rank 0, which has `counts` from each, at `places`.
  void gather(const void* own, int count, MPI_Datatype type, void* all, const int* counts,
              const int* places) const {
    if (ranks->may_block()) {
      ranks->check(MPI_Gatherv(own, count, type, all, counts, places, type, 0, ranks->all),
                   "MPI_Gatherv");
      return;
    }
    MPI_Request request;
    ranks->check(MPI_Igatherv(own, count, type, all, counts, places, type, 0, ranks->all, &request),
                 "MPI_Igatherv");
    ranks->finish(request);
  }
};

Communicator::Communicator(std::unique_ptr<MpiRanks> ranks) : impl_(new Impl(std::move(ranks))) {}

Communicator::Communicator(MpiSession& session)
    : Communicator([&] {
        MPI_Comm all = MPI_COMM_NULL;
        session.state().check(MPI_Comm_dup(MPI_COMM_WORLD, &all), "MPI_Comm_dup");
        return std::make_unique<MpiRanks>(session.state(), all);
      }()) {}

std::unique_ptr<Communicator> Communicator::among(Communicator& all,
                                                  const std::vector<int>& ranks) {
  const bool member = std::find(ranks.begin(), ranks.end(), all.rank()) != ranks.end();
  const MpiRanks& from = all.ranks();
  MPI_Comm some = MPI_COMM_NULL;
  from.check(MPI_Comm_split(from.all, member ? 0 : MPI_UNDEFINED, from.rank, &some),
             "MPI_Comm_split");
  if (!member) return nullptr;
  auto result = std::make_unique<Communicator>(std::make_unique<MpiRanks>(from.session, some));
  result->use(all.gpu_comm());
  return result;
}

Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;

int Communicator::rank() const { return impl_->ranks->rank; }
int Communicator::size() const { return impl_->ranks->size; }
int Communicator::node_rank() const { return impl_->ranks->node_rank; }
int Communicator::node_size() const { return impl_->ranks->node_size; }
int Communicator::nodes() const { return impl_->ranks->nodes; }

void Communicator::use(const GpuComm& gpu_comm) { impl_->gpu_comm = gpu_comm; }
const GpuComm& Communicator::gpu_comm() const { return impl_->gpu_comm; }

Mailbox& Communicator::mail() { return impl_->mail; }
NodeMemory& Communicator::memory() { return impl_->memory; }
MpiRanks& Communicator::ranks() { return *impl_->ranks; }

void Communicator::on_look(std::function<void()> work) { impl_->ranks->look = std::move(work); }

void Communicator::arrive() {
  impl_->ranks->check(MPI_Ibarrier(impl_->ranks->all, &impl_->arrival), "MPI_Ibarrier");
}

void Communicator::meet(const std::function<bool()>& work, double expected_seconds) {
  arrive();
  Communicator* const self = this;
  wait_for_any({&self, 1}, work, expected_seconds);
}

size_t Communicator::wait_for_any(std::span<Communicator* const> arrived,
                                  const std::function<bool()>& work, double expected_seconds) {
  const auto start = Clock::now();
  // On a full machine a rank that polls takes the time of those it waits for.
  const auto soon = start + std::chrono::duration_cast<Clock::duration>(
                                std::chrono::duration<double>(0.75 * expected_seconds));
  constexpr auto kNap = std::chrono::milliseconds(10);
  const MpiRanks& ranks = *impl_->ranks;
  double worked = 0;
  mpi::BackOff back_off;
  bool more = static_cast<bool>(work);
  for (;;) {
    if (ranks.look) ranks.look();
    for (size_t i = 0; i < arrived.size(); ++i) {
      int done = 0;
      ranks.check(MPI_Test(&arrived[i]->impl_->arrival, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done == 0) continue;
      clock_.wait += seconds_since(start) - worked;
      return i;
    }
    if (more) {
      const auto work_start = Clock::now();
      more = work();
      worked += seconds_since(work_start);
    } else if (const auto now = Clock::now(); now < soon) {
      std::this_thread::sleep_until(std::min<Clock::time_point>(soon, now + kNap));
    } else {
      back_off.pause();
    }
  }
}

void Communicator::broadcast(torch::Tensor& tensor) {
  const auto start = Clock::now();
  torch::Tensor buffer = impl_->host_buffer(tensor);
  const bool staged = buffer.data_ptr() != tensor.data_ptr();
  if (staged && rank() == 0) buffer.copy_(tensor);
  const auto size = static_cast<int64_t>(tensor.element_size());
  if (!buffer.is_cpu() || !memory().broadcast(buffer)) {
    mpi::in_chunks(tensor.numel(), [&](int64_t first, int count) {
      impl_->ranks->broadcast(mpi::data_of(buffer) + first * size, count,
                              mpi::type_of(tensor.scalar_type()), impl_->ranks->all,
                              buffer.is_cpu());
    });
  }
  if (staged && rank() != 0) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

void Communicator::broadcast(std::string& bytes) {
  const auto start = Clock::now();
  // The length with the first bytes: for most messages that is all.
  struct {
    int64_t size;
    char bytes[4088];
  } head{};
  const auto in_head = [&] { return std::min(static_cast<size_t>(head.size), sizeof head.bytes); };
  if (rank() == 0) {
    head.size = static_cast<int64_t>(bytes.size());
    std::memcpy(head.bytes, bytes.data(), in_head());
  }
  impl_->ranks->broadcast(&head, sizeof head, MPI_BYTE, impl_->ranks->all);
  bytes.resize(static_cast<size_t>(head.size));
  if (rank() != 0) std::memcpy(bytes.data(), head.bytes, in_head());
  clock_.communicate += seconds_since(start);
  broadcast_bytes(bytes.data() + in_head(), bytes.size() - in_head());
}

void Communicator::broadcast_bytes(void* data, size_t size) {
  const auto start = Clock::now();
  mpi::in_chunks(static_cast<int64_t>(size), [&](int64_t first, int count) {
    impl_->ranks->broadcast(static_cast<char*>(data) + first, count, MPI_BYTE, impl_->ranks->all);
  });
  clock_.communicate += seconds_since(start);
}

void Communicator::broadcast_to_nodes(torch::Tensor& tensor) {
  const MpiRanks& ranks = *impl_->ranks;
  if (ranks.node_rank != 0 || ranks.nodes == 1) return;
  int64_t n = ranks.rank == 0 ? tensor.numel() : 0;
  ranks.check(MPI_Bcast(&n, 1, MPI_INT64_T, 0, ranks.firsts), "MPI_Bcast");
  if (ranks.rank != 0) tensor = torch::empty({n}, torch::kInt64);
  mpi::in_chunks(n, [&](int64_t first, int count) {
    ranks.check(MPI_Bcast(tensor.data_ptr<int64_t>() + first, count, MPI_INT64_T, 0, ranks.firsts),
                "MPI_Bcast");
  });
}

void Communicator::sum_to_root(torch::Tensor& tensor) {
  const MpiRanks& ranks = *impl_->ranks;
  if (ranks.size == 1) return;
  const auto start = Clock::now();
  torch::Tensor buffer = impl_->host_buffer(tensor);
  const bool staged = buffer.data_ptr() != tensor.data_ptr();
  if (staged) buffer.copy_(tensor);
  const auto size = static_cast<int64_t>(tensor.element_size());
  MPI_Comm left = ranks.all;  // that still have something to add
  if (memory().add_up(buffer)) left = ranks.nodes > 1 ? ranks.firsts : MPI_COMM_NULL;
  const auto reduce = [&](int64_t first, int count) {
    char* data = mpi::data_of(buffer) + first * size;
    const MPI_Datatype type = mpi::type_of(tensor.scalar_type());
    const void* own = ranks.rank == 0 ? MPI_IN_PLACE : data;
    void* total = ranks.rank == 0 ? data : nullptr;
    if (!buffer.is_cpu() || ranks.may_block()) {  // as for broadcasts
      ranks.check(MPI_Reduce(own, total, count, type, MPI_SUM, 0, left), "MPI_Reduce");
      return;
    }
    MPI_Request request;
    ranks.check(MPI_Ireduce(own, total, count, type, MPI_SUM, 0, left, &request), "MPI_Ireduce");
    ranks.finish(request);
  };
  if (left != MPI_COMM_NULL) mpi::in_chunks(tensor.numel(), reduce);
  if (staged && ranks.rank == 0) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

std::vector<std::string> Communicator::gather(const std::string& bytes) {
  const auto start = Clock::now();
  const int own = mpi::count_of(static_cast<int64_t>(bytes.size()));
  const auto n = static_cast<size_t>(size());
  std::vector<int> sizes(n), offsets(n), ones(n, 1), places(n);
  std::iota(places.begin(), places.end(), 0);
  impl_->gather(&own, 1, MPI_INT, sizes.data(), ones.data(), places.data());
  std::string all;
  if (rank() == 0) {
    int64_t total = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      offsets[i] = mpi::count_of(total);
      total += sizes[i];
    }
    all.resize(static_cast<size_t>(mpi::count_of(total)));
  }
  impl_->gather(bytes.data(), own, MPI_BYTE, all.data(), sizes.data(), offsets.data());
  std::vector<std::string> parts;
  if (rank() == 0) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      parts.push_back(all.substr(static_cast<size_t>(offsets[i]), static_cast<size_t>(sizes[i])));
    }
  }
  clock_.communicate += seconds_since(start);
  return parts;
}

void Communicator::send(torch::Tensor tensor, int to) {
  const auto start = Clock::now();
  torch::Tensor buffer = tensor.is_cpu() ? tensor.contiguous() : tensor.cpu();
  impl_->sends.push_back({MPI_REQUEST_NULL, buffer});
  impl_->ranks->check(MPI_Isend(buffer.data_ptr(), mpi::count_of(buffer.numel()),
                                mpi::type_of(buffer.scalar_type()), to, 0, impl_->ranks->all,
                                &impl_->sends.back().request),
                      "MPI_Isend");
  clock_.communicate += seconds_since(start);
}

void Communicator::receive(torch::Tensor& tensor, int from) {
  const auto start = Clock::now();
  torch::Tensor buffer = tensor.is_cpu() && tensor.is_contiguous()
                             ? tensor
                             : torch::empty(tensor.sizes(), torch::dtype(tensor.scalar_type()));
  MPI_Request request;
  impl_->ranks->check(
      MPI_Irecv(buffer.data_ptr(), mpi::count_of(buffer.numel()),
                mpi::type_of(buffer.scalar_type()), from, 0, impl_->ranks->all, &request),
      "MPI_Irecv");
  impl_->ranks->wait(request);
  if (buffer.data_ptr() != tensor.data_ptr()) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

void Communicator::finish_sends() {
  const auto start = Clock::now();
  for (Impl::Send& send : impl_->sends) impl_->ranks->wait(send.request);
  impl_->sends.clear();
  clock_.communicate += seconds_since(start);
}

void Communicator::abort(int code) {
  leave_roll();
  // The launcher then shows what was said before it says that the run was aborted.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  // Open MPI 5.0.7 may report success if several ranks of those that are left ask it to.
  if (impl_->ranks->session.survivor > 0) std::this_thread::sleep_for(std::chrono::seconds(3));
  if (nodes() > 1) end_launcher_after(5);  // far more than it needs where the network works
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace fl_sim
