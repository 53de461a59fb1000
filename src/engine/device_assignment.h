// Which client has which of the job's devices.
#pragma once

#include <cstdint>
#include <vector>

#include "base/job.h"
#include "data/dataset.h"
#include "data/partitioner.h"
#include "learning/devices.h"

namespace fl_sim {

// Rows of `devices` by client, as `devices.assign` says; empty: client k has row k, and it begins
// again where there are fewer. `train`: what the partition deals. Throws Error where there is no
// device, or no label to go by.
std::vector<int64_t> assigned_devices(const Job& job, const Devices& devices,
                                      const Partition& partition, const Samples& train);

}  // namespace fl_sim
