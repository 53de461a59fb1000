// The IDX format of MNIST and its kin (Y. LeCun, http://yann.lecun.com/exdb/mnist/): bytes 0, 0,
// type, number of dimensions; the sizes as big-endian int32; the values, big-endian. Plain or
// compressed with gzip.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "data/dataset.h"

namespace fl_sim {

// The array in an IDX file, in the type it is stored in. Memory grows with what the file holds,
// whatever its header claims. Throws Error, naming the file, unless it is whole and holds exactly
// what the header says.
torch::Tensor read_idx(const std::string& path);

// Inputs [n, 1, height, width] uint8 and labels [n] int64 from a file of images and a file of
// labels, which are `first` to `first` + classes - 1 in the file and 0 to classes - 1 here. Throws
// Error, naming the file, unless they belong together and labels are in that range.
Samples read_idx_samples(const std::string& images, const std::string& labels, int64_t classes,
                         int64_t first = 0);

}  // namespace fl_sim
