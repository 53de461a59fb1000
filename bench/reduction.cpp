// Does it pay to reduce in pieces? From "a host's last client is trained" to "the server has the
// sum": quantising that client into the buffer and reducing the buffer whole, against quantising
// and reducing piece by piece with blocking calls, and against MPI_Ireduce of each piece while the
// next one is quantised. Milliseconds on rank 0, median of interleaved runs.
//
//   cmake --build build --target bench_reduction
//   mpirun -n 3 build/bench/bench_reduction [RUNS]
#include <ATen/Parallel.h>
#include <malloc.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "engine/exact_sum.h"
#include "measure.h"
#include "process/communicator.h"

namespace {

using namespace fl_sim;

// A sum cut into pieces, and a delta cut alike.
struct Pieces {
  std::vector<WeightedSum> sums;
  std::vector<torch::Tensor> deltas;

  Pieces(const torch::Tensor& delta, int64_t piece) {
    for (int64_t first = 0; first < delta.numel(); first += piece) {
      const int64_t n = std::min(piece, delta.numel() - first);
      sums.emplace_back(std::vector<int64_t>{n}, SumKind::kExact, torch::kCPU);
      deltas.push_back(delta.narrow(0, first, n));
    }
  }
  void quantise(size_t i) { sums[i].add({deltas[i]}, 0.01f); }
};

// The engine's way if there is one piece.
void blocking(Communicator& comm, Pieces& pieces) {
  const bool first_only = pieces.sums.size() == 1;
  if (first_only && comm.rank() != 0) pieces.quantise(0);
  comm.meet();
  for (size_t i = 0; i < pieces.sums.size(); ++i) {
    if (!first_only && comm.rank() != 0) pieces.quantise(i);
    comm.sum_to_root(pieces.sums[i].buffer());
  }
}

void overlapped(Communicator& comm, Pieces& pieces) {
  std::vector<MPI_Request> requests;
  for (size_t i = 0; i < pieces.sums.size(); ++i) {
    if (comm.rank() != 0) pieces.quantise(i);
    torch::Tensor& buffer = pieces.sums[i].buffer();
    int64_t* data = buffer.data_ptr<int64_t>();
    requests.emplace_back();
    MPI_Ireduce(comm.rank() == 0 ? MPI_IN_PLACE : data, comm.rank() == 0 ? data : nullptr,
                static_cast<int>(buffer.numel()), MPI_INT64_T, MPI_SUM, 0, MPI_COMM_WORLD,
                &requests.back());
  }
  for (int done = 0; done == 0;) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

using Way = void (*)(Communicator&, Pieces&);

double timed(Way way, Communicator& comm, Pieces& pieces) {
  comm.meet();
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = MPI_Wtime();
  way(comm, pieces);
  return (MPI_Wtime() - start) * 1e3;
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  MpiSession mpi;
  Communicator comm(mpi);
  at::set_num_threads(1);
  const int runs = argc > 1 ? std::max(1, std::atoi(argv[1])) : 41;
  struct Variant {
    const char* name;
    Way way;
    int64_t kib;
  };
  const std::vector<Variant> variants = {
      {"whole", blocking, 1 << 30},    {"pieces", blocking, 256},
      {"pieces", blocking, 512},       {"pieces", blocking, 1024},
      {"overlapped", overlapped, 256}, {"overlapped", overlapped, 512},
      {"overlapped", overlapped, 1024}};
  for (const int64_t parameters : {200'000, 1'660'000, 11'000'000}) {
    const torch::Tensor delta = torch::rand({parameters});
    std::vector<Pieces> pieces;
    for (const Variant& variant : variants) pieces.emplace_back(delta, variant.kib * 1024 / 8);
    std::vector<std::vector<double>> times(variants.size());
    for (int run = -2; run < runs; ++run) {  // the first two warm up
      for (size_t i = 0; i < variants.size(); ++i) {
        const double time = timed(variants[i].way, comm, pieces[i]);
        if (run >= 0) times[i].push_back(time);
      }
    }
    if (comm.rank() != 0) continue;
    std::vector<double> alone;
    for (int run = 0; run < runs; ++run) {
      const double start = MPI_Wtime();
      pieces[0].quantise(0);
      alone.push_back((MPI_Wtime() - start) * 1e3);
    }
    std::printf("%9lld parameters  quantising alone     %7.2f ms\n",
                static_cast<long long>(parameters), median(alone));
    for (size_t i = 0; i < variants.size(); ++i) {
      std::vector<double> sorted = times[i];
      std::sort(sorted.begin(), sorted.end());
      const std::string size = i == 0 ? "" : std::to_string(variants[i].kib) + " KiB";
      std::printf("%9lld parameters  %-10s %8s  %7.2f ms (lower quartile %.2f), %.2f times whole\n",
                  static_cast<long long>(parameters), variants[i].name, size.c_str(),
                  median(times[i]), sorted[sorted.size() / 4], median(times[i]) / median(times[0]));
    }
    std::fflush(stdout);
  }
}
