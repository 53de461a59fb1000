// What the tests of partitioners share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "any_job.h"
#include "data/partitioner.h"

namespace fl_sim {

inline constexpr double kErrors = 4.5;  // standard errors; see rng_test.cpp

// `per_class` samples of each class, in an order that tells position and label apart: 0, 1, ...,
// classes - 1, 0, 1, ...
inline std::vector<int64_t> even_labels(int64_t classes, int64_t per_class) {
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < classes * per_class; ++i) labels.push_back(i % classes);
  return labels;
}

// Splits with the partitioner and the options in `lines`; checks what holds for every partition.
inline Partition split(const std::string& name, const std::string& lines,
                       const PartitionRequest& request, uint64_t seed = 0) {
  const Job job = any_job("partitioner = " + name + "\n" + lines);
  Rng rng(seed, "partition");
  Partition partition = make<Partitioner>(name, {job})->split(request, rng);
  check_partition(partition, static_cast<int64_t>(request.labels.size()));
  EXPECT_EQ(partition.clients(), request.clients);
  for (int64_t k = 0; k < partition.clients(); ++k) {
    EXPECT_GT(partition.size(k), 0) << "client " << k;
    const auto list = partition.of(k);
    EXPECT_TRUE(std::is_sorted(list.begin(), list.end())) << "client " << k;
  }
  return partition;
}

inline bool covers(const Partition& partition, const std::vector<int64_t>& labels) {
  return partition.indices.size() == labels.size();  // disjoint lists: checked in split()
}

// Counts [clients][classes].
inline std::vector<std::vector<int64_t>> histogram(const Partition& partition,
                                                   const std::vector<int64_t>& labels,
                                                   int64_t classes) {
  std::vector<std::vector<int64_t>> counts(partition.clients(), std::vector<int64_t>(classes));
  for (int64_t k = 0; k < partition.clients(); ++k) {
    for (const int64_t index : partition.of(k)) ++counts[k][labels[index]];
  }
  return counts;
}

// What the partitioner says of `clients = auto`; -1 if it does not know.
inline int64_t own_clients(const std::string& name, const std::string& lines,
                           const std::vector<int64_t>& owners = {}) {
  const Job job = any_job("partitioner = " + name + "\n" + lines);
  return make<Partitioner>(name, {job})->own_clients(owners).value_or(-1);
}

inline int64_t empty_classes(const std::vector<int64_t>& counts) {
  return std::count(counts.begin(), counts.end(), 0);
}

}  // namespace fl_sim
