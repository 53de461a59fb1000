#include "process/launcher.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/check.h"

namespace fl_sim {
namespace {

constexpr std::array<const char*, 6> kLaunchers = {"mpirun",  "mpiexec", "orterun",
                                                   "prterun", "orted",   "prted"};

// Whether the process ends within so many tenths of a second.
bool ends(pid_t process, int tenths) {
  for (int i = 0; i < tenths; ++i) {
    if (kill(process, 0) != 0) return true;
    usleep(100'000);
  }
  return false;
}

}  // namespace

void end_launcher_after(int seconds) {
  const pid_t launcher = getppid();
  std::string name;
  std::getline(std::ifstream(message("/proc/", launcher, "/comm")), name);
  if (std::find(kLaunchers.begin(), kLaunchers.end(), name) == kLaunchers.end()) return;
  // A daemon may serve other runs, too (prte and prun); mpirun's own are named so.
  const char* space = std::getenv("PMIX_NAMESPACE");
  if (name == "prted" && (space == nullptr || !std::string(space).starts_with("prterun"))) return;
  const long files = std::min(sysconf(_SC_OPEN_MAX), 65536L);
  if (fork() != 0) return;
  // Only async-signal-safe calls from here on: the process had threads.
  setsid();
  for (int file = 0; file < files; ++file) close(file);  // launchers wait for the ends of pipes
  if (!ends(launcher, 10 * seconds)) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace fl_sim
