#include "process/mpi_state.h"

#include <string>

#include "base/check.h"

namespace fl_sim {

void MpiState::check(int code, const char* what) const {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  const std::string why =
      message(what, " failed: ", std::string(text, static_cast<size_t>(length)));
  // A collective that others have left may fail with any code: survivors() finds out.
  if (losses_allowed) throw RankLost(why);
  throw Error(why);
}

}  // namespace fl_sim
