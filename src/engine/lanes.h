// Which ranks train which lane of a run, see Algorithm::lanes().
#pragma once

#include <cstdint>
#include <vector>

namespace fl_sim {

// The hosts of one of `lanes` lanes, ascending: all hosts are shared out among the lanes, or, if
// there are fewer, the lanes among the hosts. A run of one rank has itself for a host.
inline std::vector<int> lane_hosts(int64_t lane, int64_t lanes, int ranks) {
  if (ranks == 1) return {0};
  const int64_t hosts = ranks - 1;
  std::vector<int> result;
  for (int64_t host = 0; host < hosts; ++host) {
    if (hosts >= lanes ? host % lanes == lane : lane % hosts == host)
      result.push_back(static_cast<int>(host + 1));
  }
  return result;
}

}  // namespace fl_sim
