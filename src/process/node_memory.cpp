#include "process/node_memory.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "process/mpi_files.h"
#include "process/mpi_internal.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

// Whether the machine's shared memory has room for so many bytes more.
bool has_room(size_t bytes) {
  struct statvfs space {};
  return statvfs("/dev/shm", &space) == 0 &&
         space.f_bavail * space.f_frsize > bytes + bytes / 16 + (16 << 20);
}

}  // namespace

struct NodeMemory::Impl {
  explicit Impl(MpiRanks& its_ranks) : ranks(its_ranks) {}

  MpiRanks& ranks;
  std::vector<MPI_Win> windows, locked;

  // Memory with a part for each rank of the machine.
  struct Parts {
    MPI_Win window = MPI_WIN_NULL;
    std::vector<char*> data;
  };
  Parts models;  // for broadcasts: two halves, used in turn, of the first rank's part
  int64_t half = 0, turns = 0;  // bytes of a half; broadcasts so far
  Parts sums;                   // what summing_buffer() gave

  // A window on the node's shared memory with so many bytes of this rank's own.
  void* allocate(int64_t bytes, MPI_Win& window) {
    void* data = nullptr;
    if (ranks.node_rank == 0) MpiFiles::get().open();  // who makes the file
    ranks.check(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, ranks.node, &data, &window),
                "MPI_Win_allocate_shared");
    if (ranks.node_rank == 0) MpiFiles::get().close();
    windows.push_back(window);
    return data;
  }

  // `bytes` of this rank's own. On all machines or on none: without parts if one has no room in its
  // shared memory, or if none has two ranks.
  Parts share(int64_t bytes) {
    int largest = 1;
    ranks.check(MPI_Allreduce(&ranks.node_size, &largest, 1, MPI_INT, MPI_MAX, ranks.all),
                "MPI_Allreduce");
    if (largest == 1) return {};
    int64_t all = bytes;
    ranks.check(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT64_T, MPI_SUM, ranks.node),
                "MPI_Allreduce");
    int room =
        ranks.node_rank != 0 || (!TestHooks::get().no_window && has_room(static_cast<size_t>(all)));
    ranks.check(MPI_Allreduce(MPI_IN_PLACE, &room, 1, MPI_INT, MPI_MIN, ranks.all),
                "MPI_Allreduce");
    if (room == 0) return {};
    Parts parts;
    void* data = allocate(bytes, parts.window);
    ranks.check(MPI_Win_lock_all(MPI_MODE_NOCHECK, parts.window), "MPI_Win_lock_all");
    for (int i = 0; i < ranks.node_size; ++i) {
      MPI_Aint length = 0;
      int unit = 0;
      ranks.check(MPI_Win_shared_query(parts.window, i, &length, &unit, &data),
                  "MPI_Win_shared_query");
      parts.data.push_back(static_cast<char*>(data));
    }
    locked.push_back(parts.window);
    // What was promised is taken at once, before another run finds the same room.
    std::memset(own_part(parts), 0, static_cast<size_t>(bytes));
    return parts;
  }

  char* own_part(const Parts& parts) const {
    return parts.data[static_cast<size_t>(ranks.node_rank)];
  }

  // What any rank of the machine has written is there for all of them to read.
  void settle(const Parts& parts) const {
    MPI_Win_sync(parts.window);
    if (!ranks.may_block()) {  // between machines the node's first rank may still be receiving
      MPI_Request request;
      ranks.check(MPI_Ibarrier(ranks.node, &request), "MPI_Ibarrier");
      ranks.finish(request);
    } else {
      ranks.check(MPI_Barrier(ranks.node), "MPI_Barrier");
    }
    MPI_Win_sync(parts.window);
  }

  // Each rank adds up a slice of all parts.
  template <class T>
  void add_slice(int64_t n) const {
    const int64_t slice = (n + ranks.node_size - 1) / ranks.node_size;
    const int64_t first = std::min(n, slice * ranks.node_rank), last = std::min(n, first + slice);
    T* total = reinterpret_cast<T*>(sums.data[0]);
    for (size_t rank = 1; rank < sums.data.size(); ++rank) {
      const T* part = reinterpret_cast<const T*>(sums.data[rank]);
      for (int64_t i = first; i < last; ++i) total[i] += part[i];
    }
  }
};

NodeMemory::NodeMemory(MpiRanks& ranks) : impl_(new Impl(ranks)) {}

NodeMemory::~NodeMemory() {
  if (impl_->ranks.has_failed()) return;
  for (MPI_Win& window : impl_->locked) MPI_Win_unlock_all(window);
  for (MPI_Win& window : impl_->windows) MPI_Win_free(&window);
}

torch::Tensor NodeMemory::share(const torch::Tensor& tensor, bool allowed, bool& shared) {
  const MpiRanks& ranks = impl_->ranks;
  // What it is: type, dimensions and sizes, as the node's first rank knows them, and whether a
  // window has room.
  struct {
    int64_t type = 0, dimensions = 0, sizes[8] = {}, room = 0;
  } shape;
  if (ranks.node_rank == 0) {
    FL_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.dim() <= 8,
             "only contiguous host tensors can be shared on a node");
    shape.type = static_cast<int64_t>(tensor.scalar_type());
    shape.dimensions = tensor.dim();
    std::copy(tensor.sizes().begin(), tensor.sizes().end(), shape.sizes);
    shape.room = allowed && has_room(tensor.nbytes()) ? 1 : 0;
  }
  ranks.check(MPI_Bcast(&shape, sizeof shape, MPI_BYTE, 0, ranks.node), "MPI_Bcast");
  shared = true;
  if (ranks.node_size == 1) return tensor;
  const auto type = static_cast<torch::ScalarType>(shape.type);
  const std::vector<int64_t> sizes(shape.sizes, shape.sizes + shape.dimensions);
  shared = shape.room != 0;
  torch::Tensor result;
  if (shared) {
    const int64_t bytes =
        c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(type));
    MPI_Win window;
    void* data = impl_->allocate(ranks.node_rank == 0 ? bytes : 0, window);
    MPI_Aint size = 0;
    int unit = 0;
    ranks.check(MPI_Win_shared_query(window, 0, &size, &unit, &data), "MPI_Win_shared_query");
    result = torch::from_blob(data, sizes, torch::dtype(type));
    if (ranks.node_rank == 0) result.copy_(tensor);
    MPI_Win_fence(0, window);
  } else {
    result = ranks.node_rank == 0 ? tensor : torch::empty(sizes, torch::dtype(type));
    const auto element = static_cast<int64_t>(result.element_size());
    mpi::in_chunks(result.numel(), [&](int64_t first, int count) {
      ranks.check(MPI_Bcast(mpi::data_of(result) + first * element, count, mpi::type_of(type), 0,
                            ranks.node),
                  "MPI_Bcast");
    });
  }
  return result;
}

torch::Tensor NodeMemory::summing_buffer(int64_t n, torch::ScalarType type) {
  impl_->sums = impl_->share(n * static_cast<int64_t>(c10::elementSize(type)));
  if (impl_->sums.data.empty()) return torch::zeros({n}, torch::dtype(type));
  return torch::from_blob(impl_->own_part(impl_->sums), {n}, torch::dtype(type)).zero_();
}

std::vector<char*> NodeMemory::slots(int64_t bytes) { return impl_->share(bytes).data; }

// The two halves take turns: who writes one has met everyone since the others read it.
bool NodeMemory::broadcast(torch::Tensor& tensor) {
  constexpr int64_t kLarge = 1 << 16;
  const MpiRanks& ranks = impl_->ranks;
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  if (ranks.nodes == ranks.size || bytes < kLarge) return false;
  if (impl_->half < bytes) {  // larger than all before: the first one, in what there is so far
    impl_->half = (bytes + 63) / 64 * 64;
    impl_->models = impl_->share(ranks.node_rank == 0 ? 2 * impl_->half : 0);
  }
  if (impl_->models.data.empty()) return false;
  char* half = impl_->models.data[0] + impl_->turns++ % 2 * impl_->half;
  if (ranks.rank == 0) std::memcpy(half, tensor.data_ptr(), static_cast<size_t>(bytes));
  if (ranks.firsts != MPI_COMM_NULL && ranks.nodes > 1) {
    mpi::in_chunks(bytes, [&](int64_t first, int count) {
      ranks.broadcast(half + first, count, MPI_BYTE, ranks.firsts);
    });
  }
  impl_->settle(impl_->models);
  if (ranks.rank != 0) std::memcpy(tensor.data_ptr(), half, static_cast<size_t>(bytes));
  return true;
}

bool NodeMemory::add_up(const torch::Tensor& tensor) {
  if (impl_->sums.data.empty() || mpi::data_of(tensor) != impl_->own_part(impl_->sums))
    return false;
  impl_->settle(impl_->sums);
  if (tensor.scalar_type() == torch::kInt64) {
    impl_->add_slice<int64_t>(tensor.numel());
  } else {
    impl_->add_slice<float>(tensor.numel());
  }
  impl_->settle(impl_->sums);
  return true;
}

}  // namespace fl_sim
