#include "process/communicator.h"

#include <mpi.h>
#if defined(OPEN_MPI)
#include <mpi-ext.h>
#endif
#include <sys/statvfs.h>
#include <torch/cuda.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "process/launcher.h"
#include "process/mpi_files.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

#if defined(OMPI_HAVE_MPI_EXT_FTMPI) && OMPI_HAVE_MPI_EXT_FTMPI
#define FL_SIM_ULFM 1
#endif

bool losses_allowed = false;
std::vector<MPI_Comm> all_comms;  // of this process that can be waited in
int losses = 0;                   // times that ranks were lost
int survivor = 0;                 // this rank, among those that are left

void check_mpi(int code, const char* what) {
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

int count_of(int64_t n) {
  FL_CHECK(n >= 0 && n <= INT_MAX, "a message of ", n, " elements is too large for MPI");
  return static_cast<int>(n);
}

constexpr int64_t kChunk = int64_t{1} << 27;  // elements in one collective, so that counts fit int

MPI_Datatype mpi_type(torch::ScalarType type) {
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

char* bytes_of(const torch::Tensor& tensor) { return static_cast<char*>(tensor.data_ptr()); }

// Whether the machine's shared memory has room for so many bytes more.
bool has_room(size_t bytes) {
  struct statvfs space {};
  return statvfs("/dev/shm", &space) == 0 &&
         space.f_bavail * space.f_frsize > bytes + bytes / 16 + (16 << 20);
}

// Sleeps a little longer each time, from 20 to 200 microseconds: that is reached after 10 ms.
class BackOff {
 public:
  void pause() {
    std::this_thread::sleep_for(std::chrono::microseconds(pause_));
    pause_ = std::min(pause_ + 2, 200);
  }

 private:
  int pause_ = 20;
};

void wait(MPI_Request& request, const std::function<void()>& look = {}) {
  BackOff back_off;
  for (int done = 0;;) {
    if (look) look();
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done) return;
    back_off.pause();
  }
}

}  // namespace

struct Communicator::Impl {
  MPI_Comm world = MPI_COMM_NULL, node = MPI_COMM_NULL;
  MPI_Comm firsts = MPI_COMM_NULL;  // the first ranks of all nodes; null on others
  MPI_Request arrival = MPI_REQUEST_NULL;
  bool networked = false;  // the ranks are on several machines
  std::vector<MPI_Win> windows;
  struct Send {
    MPI_Request request;
    torch::Tensor keep_alive;
  };
  std::vector<Send> sends;
  struct Posted {
    MPI_Request request;
    std::unique_ptr<std::string> bytes;
  };
  std::vector<Posted> posted;

  // Memory that the ranks of this machine share, a part for each rank.
  struct Shared {
    MPI_Win window = MPI_WIN_NULL;
    std::vector<char*> parts;
  };
  Shared models;  // for broadcasts: two halves, used in turn, of the first rank's part
  int64_t half = 0, turns = 0;  // bytes of a half; broadcasts so far
  Shared sums;                  // what summing_buffer() gave

  // A window on the node's shared memory with so many bytes of this rank's own.
  void* allocate(int64_t bytes, MPI_Win& window) {
    int rank = 0;
    MPI_Comm_rank(node, &rank);
    void* data = nullptr;
    if (rank == 0) MpiFiles::get().open();  // who makes the file
    check_mpi(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, node, &data, &window),
              "MPI_Win_allocate_shared");
    if (rank == 0) MpiFiles::get().close();
    windows.push_back(window);
    return data;
  }

  // `bytes` of this rank's own. On all machines or on none: without parts if one has no room in its
  // shared memory, or if none has two ranks.
  Shared share(int64_t bytes) {
    int rank = 0, size = 1, largest = 1;
    MPI_Comm_rank(node, &rank);
    MPI_Comm_size(node, &size);
    check_mpi(MPI_Allreduce(&size, &largest, 1, MPI_INT, MPI_MAX, world), "MPI_Allreduce");
    if (largest == 1) return {};
    int64_t all = bytes;
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT64_T, MPI_SUM, node), "MPI_Allreduce");
    int room = rank != 0 || (!TestHooks::get().no_window && has_room(static_cast<size_t>(all)));
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &room, 1, MPI_INT, MPI_MIN, world), "MPI_Allreduce");
    if (room == 0) return {};
    Shared shared;
    void* data = allocate(bytes, shared.window);
    check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, shared.window), "MPI_Win_lock_all");
    for (int i = 0; i < size; ++i) {
      MPI_Aint length = 0;
      int unit = 0;
      check_mpi(MPI_Win_shared_query(shared.window, i, &length, &unit, &data),
                "MPI_Win_shared_query");
      shared.parts.push_back(static_cast<char*>(data));
    }
    locked.push_back(shared.window);
    // What was promised is taken at once, before another run finds the same room.
    std::memset(shared.parts[static_cast<size_t>(rank)], 0, static_cast<size_t>(bytes));
    return shared;
  }
  std::vector<MPI_Win> locked;

  // What any rank of the machine has written is there for all of them to read.
  void settle(const Shared& shared, const std::function<void()>& look) const {
    MPI_Win_sync(shared.window);
    if (networked) {  // the node's first rank may still be receiving
      MPI_Request request;
      check_mpi(MPI_Ibarrier(node, &request), "MPI_Ibarrier");
      finish(request, look);
    } else {
      check_mpi(MPI_Barrier(node), "MPI_Barrier");
    }
    MPI_Win_sync(shared.window);
  }

  // Between machines collectives are non-blocking, and this waits for their ends: others hear
  // meanwhile that this rank lives, which on a slow or cut network may take long. Within one
  // machine blocking ones are faster.
  static void finish(MPI_Request& request, const std::function<void()>& look) {
    constexpr auto kBetween = std::chrono::milliseconds(20);
    auto next = Clock::now() + kBetween;
    for (int done = 0, i = 1;; ++i) {
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done) return;
      std::this_thread::yield();
      if (i % 64 != 0 || Clock::now() < next) continue;
      if (look) look();
      next = Clock::now() + kBetween;
    }
  }

  // From rank 0 of `ranks`. Non-blocking collectives may crash on a device's memory (Open MPI's
  // issues 9845 and 12045).
  void broadcast(void* data, int count, MPI_Datatype type, MPI_Comm ranks,
                 const std::function<void()>& look, bool on_host = true) const {
    if (!on_host || !networked) {
      check_mpi(MPI_Bcast(data, count, type, 0, ranks), "MPI_Bcast");
      return;
    }
    MPI_Request request;
    check_mpi(MPI_Ibcast(data, count, type, 0, ranks, &request), "MPI_Ibcast");
    finish(request, look);
  }

  // To rank 0, which has `counts` from each, at `places`.
  void gather(const void* own, int count, MPI_Datatype type, void* all, const int* counts,
              const int* places, const std::function<void()>& look) const {
    if (!networked) {
      check_mpi(MPI_Gatherv(own, count, type, all, counts, places, type, 0, world), "MPI_Gatherv");
      return;
    }
    MPI_Request request;
    check_mpi(MPI_Igatherv(own, count, type, all, counts, places, type, 0, world, &request),
              "MPI_Igatherv");
    finish(request, look);
  }

  std::vector<torch::Tensor> staging;  // pinned host buffers, reused
  bool always_stage = false;

  // Where MPI can read and write the tensor's bytes.
  torch::Tensor host_buffer(const torch::Tensor& tensor, bool direct) {
    FL_CHECK(tensor.is_contiguous(), "only contiguous tensors can travel");
    if (tensor.is_cuda()) torch::cuda::synchronize(tensor.device().index());
    if (direct || (tensor.is_cpu() && !always_stage)) return tensor;
    for (torch::Tensor& buffer : staging) {
      if (buffer.sizes() == tensor.sizes() && buffer.scalar_type() == tensor.scalar_type())
        return buffer;
    }
    staging.push_back(torch::empty(
        tensor.sizes(), torch::dtype(tensor.scalar_type()).pinned_memory(tensor.is_cuda())));
    return staging.back();
  }
};

Communicator::Communicator()
    : Communicator([] {
        auto impl = std::make_unique<Impl>();
        check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &impl->world), "MPI_Comm_dup");
        return impl;
      }()) {}

std::unique_ptr<Communicator> Communicator::among(Communicator& all,
                                                  const std::vector<int>& ranks) {
  const bool member = std::find(ranks.begin(), ranks.end(), all.rank_) != ranks.end();
  auto impl = std::make_unique<Impl>();
  check_mpi(MPI_Comm_split(all.impl_->world, member ? 0 : MPI_UNDEFINED, all.rank_, &impl->world),
            "MPI_Comm_split");
  if (!member) return nullptr;
  impl->always_stage = all.impl_->always_stage;
  std::unique_ptr<Communicator> result(new Communicator(std::move(impl)));
  result->direct_ = all.direct_;
  return result;
}

Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)), losses_(losses) {
  MPI_Comm_set_errhandler(impl_->world, MPI_ERRORS_RETURN);
  all_comms.push_back(impl_->world);
  MPI_Comm_rank(impl_->world, &rank_);
  MPI_Comm_size(impl_->world, &size_);
  check_mpi(
      MPI_Comm_split_type(impl_->world, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &impl_->node),
      "MPI_Comm_split_type");
  if (const int64_t machines = TestHooks::get().machines; machines > 1) {
    MPI_Comm whole = impl_->node;
    MPI_Comm_split(whole, rank_ % static_cast<int>(machines), rank_, &impl_->node);
    MPI_Comm_free(&whole);
  }
  MPI_Comm_set_errhandler(impl_->node, MPI_ERRORS_RETURN);
  all_comms.push_back(impl_->node);
  MPI_Comm_rank(impl_->node, &node_rank_);
  MPI_Comm_size(impl_->node, &node_size_);
  const int first = node_rank_ == 0 ? 1 : 0;
  check_mpi(MPI_Comm_split(impl_->world, first == 1 ? 0 : MPI_UNDEFINED, rank_, &impl_->firsts),
            "MPI_Comm_split");
  if (impl_->firsts != MPI_COMM_NULL) {
    MPI_Comm_set_errhandler(impl_->firsts, MPI_ERRORS_RETURN);
    all_comms.push_back(impl_->firsts);
  }
  MPI_Allreduce(&first, &nodes_, 1, MPI_INT, MPI_SUM, impl_->world);
  impl_->networked = nodes_ > 1;
}

Communicator::~Communicator() {
  // What follows is collective. After an error the others are not here: abort() ends them.
  if (std::uncaught_exceptions() > 0 || losses_ != losses) return;
  for (Impl::Posted& posted : impl_->posted) wait(posted.request);
  for (MPI_Win& window : impl_->locked) MPI_Win_unlock_all(window);
  for (MPI_Win& window : impl_->windows) MPI_Win_free(&window);
  for (MPI_Comm* comm : {&impl_->firsts, &impl_->node, &impl_->world}) {
    std::erase(all_comms, *comm);
    if (*comm != MPI_COMM_NULL) MPI_Comm_free(comm);
  }
}

GpuComm Communicator::choose_gpu_comm(const std::string& mode, torch::Device device) {
  bool aware = false;
  std::string reason = "MPI was built without CUDA support";
#if defined(MPIX_CUDA_AWARE_SUPPORT) && MPIX_CUDA_AWARE_SUPPORT
  aware = MPIX_Query_cuda_support() == 1;
  reason = aware ? "MPI reads device memory" : "MPI has CUDA support, but it is off at run time";
#endif
  if (device.is_cpu()) {
    impl_->always_stage = mode == "host";
    FL_CHECK(mode != "direct",
             "gpu-comm is direct, but ranks compute on CPUs (choose auto or host)");
    return {.direct = false,
            .reason = mode == "host" ? "host memory, copied as asked for" : "host memory"};
  }
  FL_CHECK(mode != "direct" || aware, "gpu-comm is direct, but ", reason, " (choose auto or host)");
  direct_ = aware && mode != "host";
  if (direct_) return {.direct = true, .reason = "device pointers: " + reason};
  if (mode == "host") reason = "as asked for";
  return {.direct = false, .reason = "staged through pinned host memory: " + reason};
}

void Communicator::arrive() {
  check_mpi(MPI_Ibarrier(impl_->world, &impl_->arrival), "MPI_Ibarrier");
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
  double worked = 0;
  BackOff back_off;
  bool more = static_cast<bool>(work);
  for (;;) {
    if (look_) look_();
    for (size_t i = 0; i < arrived.size(); ++i) {
      int done = 0;
      check_mpi(MPI_Test(&arrived[i]->impl_->arrival, &done, MPI_STATUS_IGNORE), "MPI_Test");
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

torch::Tensor Communicator::summing_buffer(int64_t n, torch::ScalarType type) {
  const auto bytes = n * static_cast<int64_t>(c10::elementSize(type));
  impl_->sums = impl_->share(bytes);
  if (impl_->sums.parts.empty()) return torch::zeros({n}, torch::dtype(type));
  char* own = impl_->sums.parts[static_cast<size_t>(node_rank_)];
  return torch::from_blob(own, {n}, torch::dtype(type)).zero_();
}

// Adds up the parts of this machine's ranks in that of its first one; each rank a slice.
void Communicator::sum_on_node(const torch::Tensor& tensor) {
  impl_->settle(impl_->sums, look_);
  const int64_t n = tensor.numel(), slice = (n + node_size_ - 1) / node_size_;
  const int64_t first = std::min(n, slice * node_rank_), last = std::min(n, first + slice);
  const auto add = [&](auto zero) {
    using T = decltype(zero);
    T* total = reinterpret_cast<T*>(impl_->sums.parts[0]);
    for (size_t rank = 1; rank < impl_->sums.parts.size(); ++rank) {
      const T* part = reinterpret_cast<const T*>(impl_->sums.parts[rank]);
      for (int64_t i = first; i < last; ++i) total[i] += part[i];
    }
  };
  if (tensor.scalar_type() == torch::kInt64) {
    add(int64_t{});
  } else {
    add(float{});
  }
  impl_->settle(impl_->sums, look_);
}

// Through the memory that the machine's ranks share. The two halves take turns: who writes one has
// met everyone since the others read it.
bool Communicator::broadcast_on_node(torch::Tensor& tensor) {
  constexpr int64_t kLarge = 1 << 16;
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  if (nodes_ == size_ || bytes < kLarge) return false;
  if (impl_->half < bytes) {  // larger than all before: the first one, in what there is so far
    impl_->half = (bytes + 63) / 64 * 64;
    impl_->models = impl_->share(node_rank_ == 0 ? 2 * impl_->half : 0);
  }
  if (impl_->models.parts.empty()) return false;
  char* half = impl_->models.parts[0] + impl_->turns++ % 2 * impl_->half;
  if (rank_ == 0) std::memcpy(half, tensor.data_ptr(), static_cast<size_t>(bytes));
  if (impl_->firsts != MPI_COMM_NULL && nodes_ > 1) {
    for (int64_t first = 0; first < bytes; first += kChunk) {
      impl_->broadcast(half + first, count_of(std::min(kChunk, bytes - first)), MPI_BYTE,
                       impl_->firsts, look_);
    }
  }
  impl_->settle(impl_->models, look_);
  if (rank_ != 0) std::memcpy(tensor.data_ptr(), half, static_cast<size_t>(bytes));
  return true;
}

void Communicator::broadcast(torch::Tensor& tensor) {
  const auto start = Clock::now();
  torch::Tensor buffer = impl_->host_buffer(tensor, direct_);
  const bool staged = buffer.data_ptr() != tensor.data_ptr();
  if (staged && rank_ == 0) buffer.copy_(tensor);
  const auto size = static_cast<int64_t>(tensor.element_size());
  const bool done = buffer.is_cpu() && broadcast_on_node(buffer);
  for (int64_t first = 0; !done && first < tensor.numel(); first += kChunk) {
    const int64_t n = std::min(kChunk, tensor.numel() - first);
    impl_->broadcast(bytes_of(buffer) + first * size, count_of(n), mpi_type(tensor.scalar_type()),
                     impl_->world, look_, buffer.is_cpu());
  }
  if (staged && rank_ != 0) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

void Communicator::broadcast(std::string& bytes) {
  const auto start = Clock::now();
  // The length with the first bytes: for most messages that is all.
  struct {
    int64_t size;
    char bytes[4088];
  } head{};
  constexpr auto kHead = static_cast<int64_t>(sizeof head.bytes);
  if (rank_ == 0) {
    head.size = static_cast<int64_t>(bytes.size());
    std::memcpy(head.bytes, bytes.data(), std::min(bytes.size(), sizeof head.bytes));
  }
  impl_->broadcast(&head, sizeof head, MPI_BYTE, impl_->world, look_);
  const int64_t size = head.size;
  bytes.resize(static_cast<size_t>(size));
  if (rank_ != 0) {
    std::memcpy(bytes.data(), head.bytes, static_cast<size_t>(std::min(size, kHead)));
  }
  for (int64_t first = kHead; first < size; first += kChunk) {
    const int64_t n = std::min(kChunk, size - first);
    impl_->broadcast(bytes.data() + first, count_of(n), MPI_BYTE, impl_->world, look_);
  }
  clock_.communicate += seconds_since(start);
}

void Communicator::broadcast_bytes(void* data, size_t size) {
  const auto start = Clock::now();
  const auto end = static_cast<int64_t>(size);
  for (int64_t first = 0; first < end; first += kChunk) {
    impl_->broadcast(static_cast<char*>(data) + first, count_of(std::min(kChunk, end - first)),
                     MPI_BYTE, impl_->world, look_);
  }
  clock_.communicate += seconds_since(start);
}

void Communicator::sum_to_root(torch::Tensor& tensor) {
  if (size_ == 1) return;
  const auto start = Clock::now();
  torch::Tensor buffer = impl_->host_buffer(tensor, direct_);
  const bool staged = buffer.data_ptr() != tensor.data_ptr();
  if (staged) buffer.copy_(tensor);
  const auto size = static_cast<int64_t>(tensor.element_size());
  MPI_Comm ranks = impl_->world;  // that still have something to add
  if (!impl_->sums.parts.empty() &&
      bytes_of(buffer) == impl_->sums.parts[static_cast<size_t>(node_rank_)]) {
    sum_on_node(buffer);
    ranks = nodes_ > 1 ? impl_->firsts : MPI_COMM_NULL;
  }
  for (int64_t first = 0; ranks != MPI_COMM_NULL && first < tensor.numel(); first += kChunk) {
    const int count = count_of(std::min(kChunk, tensor.numel() - first));
    char* data = bytes_of(buffer) + first * size;
    const MPI_Datatype type = mpi_type(tensor.scalar_type());
    const void* own = rank_ == 0 ? MPI_IN_PLACE : data;
    void* total = rank_ == 0 ? data : nullptr;
    if (!buffer.is_cpu() || !impl_->networked) {  // as for broadcasts
      check_mpi(MPI_Reduce(own, total, count, type, MPI_SUM, 0, ranks), "MPI_Reduce");
      continue;
    }
    MPI_Request request;
    check_mpi(MPI_Ireduce(own, total, count, type, MPI_SUM, 0, ranks, &request), "MPI_Ireduce");
    impl_->finish(request, look_);
  }
  if (staged && rank_ == 0) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

std::vector<std::string> Communicator::gather(const std::string& bytes) {
  const auto start = Clock::now();
  const int own = count_of(static_cast<int64_t>(bytes.size()));
  const auto n = static_cast<size_t>(size_);
  std::vector<int> sizes(n), offsets(n), ones(n, 1), places(n);
  std::iota(places.begin(), places.end(), 0);
  impl_->gather(&own, 1, MPI_INT, sizes.data(), ones.data(), places.data(), look_);
  std::string all;
  if (rank_ == 0) {
    int64_t total = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      offsets[i] = count_of(total);
      total += sizes[i];
    }
    all.resize(static_cast<size_t>(count_of(total)));
  }
  impl_->gather(bytes.data(), own, MPI_BYTE, all.data(), sizes.data(), offsets.data(), look_);
  std::vector<std::string> parts;
  if (rank_ == 0) {
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
  check_mpi(MPI_Isend(buffer.data_ptr(), count_of(buffer.numel()), mpi_type(buffer.scalar_type()),
                      to, 0, impl_->world, &impl_->sends.back().request),
            "MPI_Isend");
  clock_.communicate += seconds_since(start);
}

void Communicator::receive(torch::Tensor& tensor, int from) {
  const auto start = Clock::now();
  torch::Tensor buffer = tensor.is_cpu() && tensor.is_contiguous()
                             ? tensor
                             : torch::empty(tensor.sizes(), torch::dtype(tensor.scalar_type()));
  MPI_Request request;
  check_mpi(MPI_Irecv(buffer.data_ptr(), count_of(buffer.numel()), mpi_type(buffer.scalar_type()),
                      from, 0, impl_->world, &request),
            "MPI_Irecv");
  wait(request, look_);
  if (buffer.data_ptr() != tensor.data_ptr()) tensor.copy_(buffer);
  clock_.communicate += seconds_since(start);
}

void Communicator::finish_sends() {
  const auto start = Clock::now();
  for (Impl::Send& send : impl_->sends) wait(send.request, look_);
  impl_->sends.clear();
  clock_.communicate += seconds_since(start);
}

namespace {
constexpr int kPostTag = 1;
}  // namespace

void Communicator::post(const std::string& bytes, int to) {
  std::erase_if(impl_->posted, [](Impl::Posted& posted) {
    int done = 0;
    check_mpi(MPI_Test(&posted.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
  Impl::Posted& next = impl_->posted.emplace_back(
      Impl::Posted{MPI_REQUEST_NULL, std::make_unique<std::string>(bytes)});
  check_mpi(MPI_Isend(next.bytes->data(), count_of(std::ssize(*next.bytes)), MPI_BYTE, to, kPostTag,
                      impl_->world, &next.request),
            "MPI_Isend");
}

std::optional<std::pair<int, std::string>> Communicator::poll() {
  int there = 0;
  MPI_Status status;
  check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kPostTag, impl_->world, &there, &status), "MPI_Iprobe");
  if (there == 0) return {};
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  check_mpi(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kPostTag, impl_->world,
                     MPI_STATUS_IGNORE),
            "MPI_Recv");
  return std::pair(status.MPI_SOURCE, std::move(text));
}

torch::Tensor Communicator::share_on_node(const torch::Tensor& tensor, bool allowed, bool& shared) {
  // What it is: type, dimensions and sizes, as the node's first rank knows them, and whether a
  // window has room.
  int64_t shape[12] = {};
  if (node_rank_ == 0) {
    FL_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.dim() <= 8,
             "only contiguous host tensors can be shared on a node");
    shape[0] = static_cast<int64_t>(tensor.scalar_type());
    shape[1] = tensor.dim();
    std::copy(tensor.sizes().begin(), tensor.sizes().end(), shape + 2);
    shape[10] = allowed && has_room(tensor.nbytes()) ? 1 : 0;
  }
  check_mpi(MPI_Bcast(shape, 12, MPI_INT64_T, 0, impl_->node), "MPI_Bcast");
  shared = true;
  if (node_size_ == 1) return tensor;
  const auto type = static_cast<torch::ScalarType>(shape[0]);
  const std::vector<int64_t> sizes(shape + 2, shape + 2 + shape[1]);
  shared = shape[10] != 0;
  torch::Tensor result;
  if (shared) {
    const int64_t bytes =
        c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(type));
    MPI_Win window;
    void* data = impl_->allocate(node_rank_ == 0 ? bytes : 0, window);
    MPI_Aint size = 0;
    int unit = 0;
    check_mpi(MPI_Win_shared_query(window, 0, &size, &unit, &data), "MPI_Win_shared_query");
    result = torch::from_blob(data, sizes, torch::dtype(type));
    if (node_rank_ == 0) result.copy_(tensor);
    MPI_Win_fence(0, window);
  } else {
    result = node_rank_ == 0 ? tensor : torch::empty(sizes, torch::dtype(type));
    const auto element = static_cast<int64_t>(result.element_size());
    for (int64_t first = 0; first < result.numel(); first += kChunk) {
      const int64_t n = std::min(kChunk, result.numel() - first);
      check_mpi(MPI_Bcast(bytes_of(result) + first * element, count_of(n), mpi_type(type), 0,
                          impl_->node),
                "MPI_Bcast");
    }
  }
  return result;
}

void Communicator::broadcast_to_nodes(torch::Tensor& tensor) {
  if (node_rank_ != 0 || nodes_ == 1) return;
  int64_t n = rank_ == 0 ? tensor.numel() : 0;
  check_mpi(MPI_Bcast(&n, 1, MPI_INT64_T, 0, impl_->firsts), "MPI_Bcast");
  if (rank_ != 0) tensor = torch::empty({n}, torch::kInt64);
  for (int64_t first = 0; first < n; first += kChunk) {
    check_mpi(MPI_Bcast(tensor.data_ptr<int64_t>() + first, count_of(std::min(kChunk, n - first)),
                        MPI_INT64_T, 0, impl_->firsts),
              "MPI_Bcast");
  }
}

void Communicator::abort(int code) {
  // The launcher then shows what was said before it says that the run was aborted.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  // Open MPI 5.0.7 may report success if several ranks of those that are left ask it to.
  if (survivor > 0) std::this_thread::sleep_for(std::chrono::seconds(3));
  if (nodes_ > 1) end_launcher_after(5);  // far more than it needs where the network works
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

void Communicator::allow_losses() {
#if FL_SIM_ULFM
  int* enabled = nullptr;
  int there = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPIX_FT, &enabled, &there);
  FL_CHECK(there != 0 && *enabled != 0,
           "on-rank-loss is continue, but MPI was started without it (mpirun --with-ft ulfm)");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  losses_allowed = true;
#else
  throw Error("on-rank-loss is continue, but " + mpi_library_version() +
              " cannot (Open MPI 5 with ULFM can)");
#endif
}

Communicator::Survivors Communicator::survivors(const std::string& why) {
#if FL_SIM_ULFM
  // Whoever still waits for something learns of it, wherever that is.
  for (MPI_Comm comm : all_comms) MPIX_Comm_revoke(comm);
  all_comms.clear();
  ++losses;
  // Again, if somebody dies meanwhile: all agree whether it was possible.
  for (int all = 0; all == 0;) {
    auto impl = std::make_unique<Impl>();
    check_mpi(MPIX_Comm_shrink(impl_->world, &impl->world), "MPIX_Comm_shrink");
    MPI_Comm fresh = impl->world;
    impl->always_stage = impl_->always_stage;
    all = 1;
    try {
      next_.reset(new Communicator(std::move(impl)));
    } catch (const RankLost&) {
      all = 0;
      MPIX_Comm_revoke(fresh);
    }
    MPIX_Comm_agree(fresh, &all);
  }
  next_->direct_ = direct_;
  survivor = next_->rank_;

  Survivors result{.comm = next_.get(), .lost = {}};
  MPI_Group started, before, after;
  MPI_Comm_group(MPI_COMM_WORLD, &started);
  MPI_Comm_group(impl_->world, &before);
  MPI_Comm_group(next_->impl_->world, &after);
  for (int rank = 0; rank < size_; ++rank) {
    int now = MPI_UNDEFINED, then = MPI_UNDEFINED;
    MPI_Group_translate_ranks(before, 1, &rank, after, &now);
    MPI_Group_translate_ranks(before, 1, &rank, started, &then);
    if (now == MPI_UNDEFINED) result.lost.push_back(then);
  }
  for (MPI_Group* group : {&started, &before, &after}) MPI_Group_free(group);
  FL_CHECK(!result.lost.empty(), "MPI failed, though no rank is lost: ", why);
  FL_CHECK(result.lost[0] != 0, "rank 0 is lost, which had the global model");
  return result;
#else
  throw Error(why);
#endif
}

namespace {

// Every rank of a machine has opened the memory of all others there once they have spoken.
void greet_node() {
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  int rank = 0, size = 1;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_size(node, &size);
  for (int step = 1; step < size; ++step) {
    int other = 0;
    check_mpi(MPI_Sendrecv(&rank, 1, MPI_INT, (rank + step) % size, 0, &other, 1, MPI_INT,
                           (rank + size - step) % size, 0, node, MPI_STATUS_IGNORE),
              "MPI_Sendrecv");
  }
  MPI_Comm_free(&node);
}

}  // namespace

MpiSession::MpiSession() {
  MpiFiles::get().begin();
  setenv("OMPI_MCA_mpi_yield_when_idle", "1",
         /*overwrite=*/0);  // more ranks than cores is common here
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  greet_node();
  MpiFiles::get().hide();
}

MpiSession::~MpiSession() {
  if (losses == 0) {
    MpiFiles::get().show();
    MPI_Finalize();
  }
  MpiFiles::get().end();
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

bool launched_as_root() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* rank = std::getenv(variable)) return std::strcmp(rank, "0") == 0;
  }
  return true;
}

}  // namespace fl_sim
