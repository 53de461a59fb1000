// Clients by tiers of speed, and rules of papers that are made of them, as functions of numbers, so
// that tests can look at them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace fl_sim {

// Which of `tiers` tiers of equal size each of the clients is in (ascending ids), the fastest
// first: 0, 1, ... by id, -1 for those that are none of them. Of two that take equally long the
// first one is the faster.
std::vector<int64_t> tiers_by_time(const std::vector<int64_t>& clients, int64_t tiers,
                                   const std::function<double(int64_t client)>& seconds);

// FedAT's weights of M tiers' models, T_(M+1-j) / T of tier j = 1, ..., M, from how many rounds
// each tier has ended, T_j, at least one of them all together: the more a tier has, the more the
// one counts that is as many places from the other end. `of_trained`: as if there were only those
// tiers that have ended one.
std::vector<double> fedat_weights(const std::vector<int64_t>& rounds, bool of_trained = false);

}  // namespace fl_sim
