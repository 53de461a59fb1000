// Figures that sum up numbers.
#pragma once

#include <cstdint>
#include <vector>

namespace fl_sim {

// Of sorted values, at least one, linear between them (numpy's default).
double percentile(const std::vector<double>& sorted, double share);

// The smallest of sorted values that at least this share of them does not exceed; 0 of none.
double nearest_rank(const std::vector<double>& sorted, double share);

// How evenly counts are spread, (sum x)^2 / (N sum x^2): 1 where all are the same, 1/N where only
// one is not 0; 0 of nothing. Jain, Chiu and Hawe, DEC TR-301, 1984.
double jain_index(const std::vector<int64_t>& counts);

}  // namespace fl_sim
