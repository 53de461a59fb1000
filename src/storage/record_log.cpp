#include "storage/record_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace fl_sim {
namespace {

// A file that is gone as soon as it is closed, be it by the end of the process.
int open_nameless(const std::string& folder) {
  const int file = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0) return file;
  // Some file systems cannot make one without a name.
  std::string name = folder + "/rows.XXXXXX";
  const int named = mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) unlink(name.c_str());
  return named;
}

}  // namespace

SpillFile::~SpillFile() {
  if (file_ >= 0) close(file_);
}

void SpillFile::append(std::span<const std::byte> bytes) {
  if (file_ < 0) file_ = open_nameless(folder_);
  FL_CHECK(file_ >= 0, "rows of the results cannot be kept in ", folder_, " (",
           std::strerror(errno), ")");
  while (!bytes.empty()) {
    const ssize_t n = pwrite(file_, bytes.data(), bytes.size(), size_);
    if (n < 0 && errno == EINTR) continue;
    FL_CHECK(n > 0, "rows of the results cannot be kept in ", folder_, " (",
             std::strerror(n < 0 ? errno : ENOSPC), "); make room, or choose another --output");
    size_ += n;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void SpillFile::read(int64_t first, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = pread(file_, bytes.data(), bytes.size(), first);
    if (n < 0 && errno == EINTR) continue;
    FL_CHECK(n > 0, "rows of the results that were kept in ", folder_, " cannot be read (",
             n < 0 ? std::strerror(errno) : "too few of them", ")");
    first += n;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

}  // namespace fl_sim
