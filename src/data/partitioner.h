// Which client holds which training sample, and the interface of the methods that decide it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/registry.h"
#include "base/rng.h"

namespace fl_sim {

// Disjoint lists of sample indices, one per client, in CSR form. Samples may be left over. A value
// that is cheap to copy: copies look at the same numbers. In Partition() everybody's list is empty,
// whatever the number of clients.
struct Partition {
  std::span<const int64_t> offsets;  // [clients + 1]
  std::span<const int64_t>
      indices;  // client k holds indices[offsets[k] .. offsets[k + 1]), ascending
  std::shared_ptr<const void> owner;  // of what the spans look at; null: somebody who lives longer

  Partition() : Partition({0}, {}) {}
  Partition(std::vector<int64_t> offsets, std::vector<int64_t> indices);

  int64_t clients() const { return std::ssize(offsets) - 1; }
  int64_t size(int64_t client) const {
    if (indices.empty()) return 0;
    return offsets[static_cast<size_t>(client) + 1] - offsets[static_cast<size_t>(client)];
  }
  std::span<const int64_t> of(int64_t client) const {
    if (indices.empty()) return {};
    return indices.subspan(static_cast<size_t>(offsets[static_cast<size_t>(client)]),
                           static_cast<size_t>(size(client)));
  }
};

// The CSR form of one list per client; sorts each list.
Partition make_partition(std::vector<std::vector<int64_t>> lists);

// The CSR form of each sample's holder, 0 to clients - 1: for millions of clients.
Partition partition_by_holder(std::span<const int64_t> holders, int64_t clients);

// Throws Error unless the lists are disjoint and within [0, samples).
void check_partition(const Partition& partition, int64_t samples);

// What a partitioner may look at.
struct PartitionRequest {
  // [n] in [0, classes); of sequences, each one's label at its first position that has one
  std::span<const int64_t> labels;
  int64_t classes = 0;
  int64_t clients = 0;                   // wanted, at least 1
  std::span<const int64_t> owners = {};  // [n] natural client of each sample, or empty
  std::span<const int64_t> coarse = {};  // [n] coarse class of each sample, or empty
  // [n, ...] as stored; a network would see inputs * scale + shift. Undefined in tests of those who
  // do not look.
  torch::Tensor inputs = {};
};

// How a client sees the samples that it holds.
struct ClientView {
  // Standard deviation of normal noise, which is added to what the network sees of a training
  // sample and drawn anew at each access.
  double noise = 0;
  torch::Tensor mask = {};  // [sample shape] float32, 0 for numbers that it does not see, which
                            // become 0; undefined: it sees all
};

// A pure function of the request, the job's options and the stream. Plug-ins live in partitioners/.
class Partitioner {
 public:
  static constexpr const char* kKind = "partitioner";
  struct Setup {
    const Job& job;
  };

  virtual ~Partitioner() = default;

  // Throws Error that says why a request cannot be met and what would work; never loops for ever.
  virtual Partition split(const PartitionRequest& request, Rng& rng) const = 0;

  // How many clients it makes of data with these owners, where it knows: what `clients = auto` is.
  // `owners` as in a PartitionRequest.
  virtual std::optional<int64_t> own_clients(std::span<const int64_t> owners) const {
    (void)owners;
    return {};
  }

  // A sample's shape is `shape`.
  virtual ClientView view(int64_t client, int64_t clients,
                          const std::vector<int64_t>& shape) const {
    (void)client, (void)clients, (void)shape;
    return {};
  }
  // Whether view() ever says anything.
  virtual bool has_views() const { return false; }
};

// How far clients' labels are from the whole training set's: distances between label distributions.
struct Skew {
  static constexpr int64_t kMostCounts = int64_t{1} << 22;

  // [clients, classes] counts, row by row; empty if these are more than kMostCounts
  std::vector<int64_t> histogram;
  std::vector<double> jensen_shannon;  // [clients] distance, base 2: 0 to 1
  std::vector<double> hellinger;       // [clients] 0 to 1
  std::vector<double> earth_mover;  // [clients] total variation form: half the L1 distance, 0 to 1
  int64_t min_size = 0, lower_quartile = 0, median = 0, upper_quartile = 0, max_size = 0;
  double mean_jensen_shannon = 0, max_jensen_shannon = 0;
  double mean_hellinger = 0, max_hellinger = 0;
  double mean_earth_mover = 0, max_earth_mover = 0;
};
Skew measure_skew(const Partition& partition, std::span<const int64_t> labels, int64_t classes);

// As a model's, see storage/results.h, of the int64 offsets followed by the indices.
std::string partition_checksum(const Partition& partition);

}  // namespace fl_sim
