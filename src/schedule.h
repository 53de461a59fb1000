// Which clients train together, and on which rank.
//
// Groups follow from the cohort alone, so results do not depend on the number of ranks; the deal to
// ranks follows the predicted time and where client state lies.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

namespace fl_sim {

struct PlannedGroup {
  std::vector<int64_t> ids;  // most steps first, then by id
  int64_t cost = 0;          // predicted time: steps of all its clients
  int64_t rank = 0;
};

// A client's state that has to travel before the round.
struct StateMove {
  int64_t client, from, to;
};

// One round, as rank 0 decides it and everyone learns it.
struct RoundPlan {
  bool stop = false;  // there is no such round: the run is over
  std::vector<int64_t> cohort;
  std::vector<PlannedGroup> groups;
  std::vector<StateMove> moves;

  std::string encode() const;
  static RoundPlan decode(const std::string& bytes);
};

// Cuts the cohort into groups of `group_size`, sorted by (steps descending, id).
std::vector<PlannedGroup> make_groups(const std::vector<int64_t>& cohort, int64_t group_size,
                                      const std::function<int64_t(int64_t client)>& steps);

// Deals groups to the hosting ranks, longest first, each to the least loaded one; a rank that holds
// the state of most of a group's clients gets it if that makes the rank at most a tenth of an even
// share later. Where clients' state lies is in `holders`, and is updated; returns the moves.
std::vector<StateMove> deal(std::vector<PlannedGroup>& groups, const std::vector<int64_t>& hosts,
                            std::unordered_map<int64_t, int64_t>* holders, bool random);

}  // namespace fl_sim
