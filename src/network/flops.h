// What a network's forward pass computes.
#pragma once

#include <cstdint>
#include <vector>

#include "network/network.h"

namespace fl_sim {

// Floating-point operations of one sample's forward pass in its products and convolutions, two for
// each multiplication with its addition; functions of single elements are left out. 0: it has none
// that can be seen.
double forward_flops(const Network& network, const std::vector<int64_t>& input_shape);

}  // namespace fl_sim
