// k-means over standardised features: Lloyd's algorithm from k-means++ seeds (Arthur and
// Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "base/rng.h"

namespace fl_sim {

// The cluster, 0 to k - 1, of each of the n samples of `inputs` [n, ...]; n >= k >= 1. Every number
// of a sample is a feature with mean 0 and variance 1 over the samples; one that never changes
// counts nothing. Centres are fitted in at most 20 steps to a random part of the samples, of 2^20
// numbers or at least 20 samples a cluster, then each sample goes to its nearest centre. In double,
// in a fixed order. A cluster may stay empty.
std::vector<int64_t> k_means(const torch::Tensor& inputs, int64_t k, Rng& rng);

}  // namespace fl_sim
