#include "process/mpi_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/files.h"
#include "process/mpi_dialect.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMemory = "/dev/shm";
constexpr const char* kMark =
    "fl_sim";  // in a session folder: pids of those that use it, a line each

// Ours, a folder, and no link to one.
bool is_own_folder(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid();
}

// The folder, opened and locked; it is made if need be. -1: not to be had.
int lock_folder(const std::string& path) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return -1;
    if (!is_own_folder(path)) {
      if (access(path.c_str(), F_OK) != 0) continue;  // another run's start removed it just now
      return -1;
    }
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) continue;
    // Another run's start may have found it without a lock, and removed it.
    if (flock(descriptor, LOCK_EX) == 0 && same_file(descriptor, path)) return descriptor;
    ::close(descriptor);
  }
  return -1;
}

std::string prefix_of_user() { return message("fl_sim.", geteuid(), "."); }

void remove_dead_folders() {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(kMemory, ignored)) {
    const std::string path = entry.path().string();
    if (!entry.path().filename().string().starts_with(prefix_of_user()) || !is_own_folder(path))
      continue;
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) continue;
    // It may have been removed and made anew since it was opened.
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 && same_file(descriptor, path))
      fs::remove_all(path, ignored);
    ::close(descriptor);
  }
}

// Who had lost its launcher before it marked the session has process 1 for a parent.
bool lives(pid_t launcher) { return launcher > 1 && (kill(launcher, 0) == 0 || errno != ESRCH); }

// Of ranks that are dead, with launchers that are.
bool is_dead_session(const fs::path& folder) {
  const int descriptor = ::open((folder / kMark).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return false;  // it is nobody's, or not an fl_sim's
  bool dead = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
  int launchers = 0;
  std::ifstream lines(folder / kMark);
  for (pid_t launcher = 0; dead && lines >> launcher; ++launchers) dead = !lives(launcher);
  ::close(descriptor);
  return dead && launchers > 0;
}

void remove_dead_sessions(const fs::path& own) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(own.parent_path(), ignored)) {
    if (entry.path() != own && is_own_folder(entry.path().string()) &&
        is_dead_session(entry.path()))
      fs::remove_all(entry.path(), ignored);
  }
}

int mark_session(const std::string& folder) {
  const std::string path = folder + "/" + kMark;
  const int descriptor =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (descriptor < 0) return -1;
  const std::string line = message(getppid(), "\n");
  if (flock(descriptor, LOCK_SH) == 0 &&
      write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size()))
    return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

MpiFiles& MpiFiles::get() {
  static MpiFiles one;
  return one;
}

void MpiFiles::begin() {
  remove_dead_folders();
  if (const std::string session = dialect::session_folder(); is_own_folder(session)) {
    remove_dead_sessions(session);
    session_ = mark_session(session);
  }
  std::string name = message(kMemory, "/", prefix_of_user(), "XXXXXX");
  if (mkdtemp(name.data()) == nullptr) return;
  folder_ = name;
  open();
  if (lock_ >= 0 && dialect::put_memory_files_in(folder_)) return;
  close();
  folder_.clear();
}

void MpiFiles::open() {
  if (!folder_.empty() && lock_ < 0) lock_ = lock_folder(folder_);
}

void MpiFiles::close() {
  if (lock_ < 0) return;
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
  ::close(lock_);
  lock_ = -1;
}

void MpiFiles::hide() {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored))
    names_.push_back(entry.path().string());
  close();
}

void MpiFiles::show() {
  if (names_.empty()) return;
  open();
  for (const std::string& name : names_) std::ofstream(name, std::ios::app);
  names_.clear();
}

void MpiFiles::end() {
  close();
  folder_.clear();
  if (session_ >= 0) ::close(session_);
  session_ = -1;
}

}  // namespace fl_sim
