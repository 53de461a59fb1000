// Errors that end a run on all ranks, and how rank 0, which has the results, learns of them.
#pragma once

#include <string>

#include "base/check.h"

namespace fl_sim {

// Of what is being thrown, in words for the user.
std::string text_of_error();

// Thrown on rank 0: the error of another rank, or the death of one that another has noticed.
struct FailedElsewhere : Error {
  FailedElsewhere(int its_rank, const std::string& what, bool of_another)
      : Error(what), rank(its_rank), gone(of_another) {}
  int rank;
  bool gone;  // it is a death
};

// Thrown where a rank of this machine is missed, see Roll. Rank 0 says so before it does anything
// else, since its launcher may leave it a second: whoever catches this there has only to end.
struct RankGone : Error {
  RankGone(int its_rank, const std::string& what) : Error(what), rank(its_rank) {}
  int rank;
};

}  // namespace fl_sim
