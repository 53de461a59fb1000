// Saved partitions: HDF5 as we write it, and JSON as others do.
//
//   /partition/offsets, /partition/indices   client k holds indices[offsets[k] .. offsets[k + 1])
//   /partition/samples                       a scalar: samples in the training set
//   attributes of /partition                 checksum (of the lists), label_checksum, partitioner,
//                                            options ("dirichlet.alpha = 0.5", a line each), seed
//
// JSON is {"0": [5, 17], "1": [2]} or [[5, 17], [2]].
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/partitioner.h"

namespace fl_sim {

struct SavedPartition {
  Partition partition;
  int64_t samples = -1;  // in the training set that it was made for; -1: the file is JSON
  std::string label_checksum = {};  // of that set; empty: the file is JSON
  // Where it comes from; not in JSON.
  std::string partitioner = {}, options = {}, seed = {};
};

// 16 hexadecimal digits: zlib's crc32, then adler32, of the labels as little-endian int64.
std::string label_checksum(std::span<const int64_t> labels);

// What becomes of clients without a sample: an Error, or the others move up.
enum class EmptyClients { kRefused, kDropped };

// Throws Error, which names the file, unless it holds lists, none of them empty or those dropped,
// which in HDF5 fit their checksum.
SavedPartition read_partition(const std::string& path, EmptyClients empty = EmptyClients::kRefused);

// Throws Error unless the partition, read from `path`, is one of a training set with these labels:
// its lists disjoint and within the set, in HDF5 the set's checksum its own.
void check_saved(const SavedPartition& saved, const std::string& path,
                 std::span<const int64_t> labels);

// Writes it to a temporary file, which then takes the name `path`. What stands there stays if it
// holds the same partition of the same data, and is replaced if `overwrite`; otherwise throws
// Error.
void save_partition(const std::string& path, const SavedPartition& saved, bool overwrite);

}  // namespace fl_sim
