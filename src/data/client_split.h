// Each client's samples split again: to train with, to tune with, to test with.
#pragma once

#include <cstdint>
#include <span>

#include "base/option_set.h"
#include "data/partitioner.h"

namespace fl_sim {

struct ClientSplit {
  Partition train, validation, test;  // validation and test are Partition() if nobody has any
};

// What clients keep back.
struct HeldBack {
  double test_fraction = 0, validation_fraction = 0;
  static const OptionSet<HeldBack> kOptions;
};

// Of n samples a client keeps round(n · test_fraction) for testing and round(n ·
// validation_fraction) for validation, but at least one for training; it gives up validation
// samples first. Each part has every label in proportion, up to one sample (largest remainders,
// ties at random). A pure function of its arguments: client k draws from the stream (seed,
// "client-split", 0, k). `labels` [samples]. Throws Error unless both fractions are at least 0 and
// sum to less than 1.
ClientSplit split_clients(const Partition& partition, std::span<const int64_t> labels,
                          double test_fraction, double validation_fraction, uint64_t seed);

// Each client's own samples of the test set: those of the users whose training samples it holds.
// `owners` and `test_owners` as Dataset has them. Partition() if there are none, or if a user's
// training samples lie with several clients.
Partition own_test_samples(const Partition& partition, std::span<const int64_t> owners,
                           std::span<const int64_t> test_owners);

}  // namespace fl_sim
