#include "storage/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/check.h"
#include "base/files.h"
#include "base/version.h"

namespace fl_sim {
namespace {

constexpr auto kPatience = std::chrono::seconds(5);  // a killed run's last moments

}  // namespace

RunLock::RunLock(const std::string& path, const std::string& remedy) : path_(path + ".lock") {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (descriptor_ < 0) {
    descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    FL_CHECK(descriptor_ >= 0, path_, " cannot be written (", std::strerror(errno), "); ", remedy);
    const bool locked = flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
    const bool busy = !locked && errno == EWOULDBLOCK;
    if (!busy && same_file(descriptor_, path_)) break;
    close(descriptor_);
    descriptor_ = -1;
    if (!busy) continue;  // the one before removed it just now
    if (std::chrono::steady_clock::now() > end) {
      std::string whose;
      std::getline(std::ifstream(path_), whose);
      throw Error(message(path, " is another run's", whose.empty() ? "" : ", " + whose,
                          ": wait for its end, or ", remedy, " (if that machine is lost, remove ",
                          path_, ")"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const std::string text =
      message("process ", getpid(), " on ", host_name(), " since ", utc_now(), "\n");
  // What it says is only for people: a full disk is no reason to stop here.
  if (ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const ssize_t written = write(descriptor_, text.data(), text.size());
  }
}

RunLock::~RunLock() {
  unlink(path_.c_str());  // before others can have it
  close(descriptor_);
}

}  // namespace fl_sim
