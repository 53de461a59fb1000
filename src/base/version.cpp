#include "base/version.h"

#include <fl_sim_revision.h>
#include <unistd.h>

#include <ctime>

namespace fl_sim {

std::string version() { return FL_SIM_VERSION " (" FL_SIM_REVISION ")"; }

std::string headers() { return FL_SIM_HEADERS; }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

}  // namespace fl_sim
