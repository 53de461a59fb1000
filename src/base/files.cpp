#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

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

void make_file(const std::string& path, const WriteFile& write) {
  try {
    write(path);
    sync(path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    throw;
  }
}

void replace_file(const std::string& path, const WriteFile& write, const std::string& suffix,
                  const std::string& remedy) {
  const std::string temporary = path + suffix;
  make_file(temporary, write);
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  FL_CHECK(!error, path, " cannot be written (", error.message(), ")", remedy);
}

std::error_code try_file(const std::string& path) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return {errno, std::generic_category()};
  close(descriptor);
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  return {};
}

}  // namespace fl_sim
