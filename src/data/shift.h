// Clients in hidden groups whose data differ: what clustered and personalised algorithms are for.
//
//   labels     in group g a label c means (c + g) mod classes: no model is right for two groups.
//              Sattler et al., "Clustered federated learning", arXiv:1910.01991 (permuted labels).
//   rotation   group g's images are turned by g · 90 degrees, counter-clockwise. Ghosh et al., "An
//              efficient framework for clustered federated learning", NeurIPS 2020 (Rotated MNIST).
//   intensity  group 0 as is; 1 inverted, max - x; 2 half the contrast around mid-grey; 3 gamma 2,
//              max · (x / max)². Feature shift in the sense of Li et al., "FedBN", ICLR 2021.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/job.h"
#include "data/dataset.h"
#include "data/partitioner.h"

namespace fl_sim {

// The group of each client: groups of equal size, up to one, by the stream (seed, "shift"). Empty
// if the job's shift.kind is none.
std::vector<int64_t> shift_groups(const Job& job, int64_t clients);

// Throws Error if the job's shift does not fit the data or the number of clients.
void check_shift(const Job& job, const Dataset& data, int64_t clients);

// Changes the training samples in place, in all lists of a client alike; types stay. The central
// test set stays as it is.
void apply_shift(const Job& job, const std::vector<int64_t>& groups,
                 std::initializer_list<const Partition*> lists, Dataset& data);

}  // namespace fl_sim
