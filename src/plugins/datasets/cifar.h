// The binary files of CIFAR-10 and CIFAR-100: records of one or two label bytes and 3,072 bytes of
// an image of 32 x 32, its red, green and blue plane.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace fl_sim {

// What records look like.
struct CifarLayout {
  int64_t records;         // in each file
  int64_t classes;         // of the last label byte
  int64_t coarse_classes;  // of a first label byte; 0: there is one label byte only
};

struct CifarRecords {
  Samples samples;              // inputs [n, 3, 32, 32] uint8
  std::vector<int64_t> coarse;  // [n]; empty: there are none
};

// The records of some files, in order. Throws Error, naming the file, unless it holds exactly
// `records` records with labels in range.
CifarRecords read_cifar(const std::vector<std::string>& paths, const CifarLayout& layout);

}  // namespace fl_sim
