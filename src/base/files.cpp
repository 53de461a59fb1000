#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace fl_sim {

bool same_file(int descriptor, const std::string& path) {
  struct stat opened {
  }, named{};
  return fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

void sync(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  FL_CHECK(descriptor >= 0, path, ": cannot be synced (", std::strerror(errno), ")");
  const int result = fsync(descriptor), error = errno;
  close(descriptor);
  // EINVAL: a file system that cannot sync directories.
  FL_CHECK(result == 0 || error == EINVAL, path, ": cannot be synced (", std::strerror(error), ")");
}

}  // namespace fl_sim
