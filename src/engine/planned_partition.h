// Who holds what in a job: the first part of an experiment, which can be had alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/job.h"
#include "data/client_split.h"
#include "data/dataset.h"
#include "data/partitioner.h"

namespace fl_sim {

// Before clients keep samples back: nothing else is built.
struct PlannedPartition {
  Job job;  // clients made definite
  Dataset data;
  std::vector<int64_t> labels;  // [training samples] as partitioners see them
  Partition partition;
  std::vector<std::string> notes;  // what a user should know, a line each
};

// Reads the data and splits them, on one rank. Throws Error.
PlannedPartition make_partition_of(Job job);

// The data set that the job names, checked, its samples contiguous. Throws Error.
Dataset read_dataset(const Job& job);

// The clients' lists, less what they keep back; saved where the job says so. After
// resolve_clients(). Throws Error.
ClientSplit split_data(const Job& job, const Dataset& data);

// Nothing, or that the data name clients which the partitioner does not look at.
std::vector<std::string> note_unused_clients(const Job& job, const Dataset& data);

}  // namespace fl_sim
