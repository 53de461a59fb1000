#include "base/files.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"

namespace fl_sim {
namespace {

// The folder that a path's first part, `~` or `~user`, stands for.
std::string home_of(const std::string& key, const std::string& path, const std::string& tilde) {
  if (tilde == "~") {
    const char* home = std::getenv("HOME");
    if (home != nullptr && *home != '\0') return home;
  }
  const passwd* user = tilde == "~" ? getpwuid(geteuid()) : getpwnam(tilde.substr(1).c_str());
  FL_CHECK(user != nullptr, key, " is '", path, "', but there is no ",
           tilde == "~"
               ? std::string("home folder (HOME is not set)")
               : message("user '", tilde.substr(1), "' (./", tilde, " is a file of that name)"));
  return user->pw_dir;
}

}  // namespace

std::string expanded_path(const std::string& key, const std::string& path) {
  std::string rest = path, whole;
  if (path.starts_with('~')) {
    const size_t slash = std::min(path.find('/'), path.size());
    whole = home_of(key, path, path.substr(0, slash));
    rest = path.substr(slash);
  }
  const auto in_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  for (size_t i = 0; i < rest.size();) {
    if (rest[i] != '$') {
      whole += rest[i++];
      continue;
    }
    const bool braces = rest.compare(i, 2, "${") == 0;
    const size_t first = i + (braces ? 2 : 1);
    size_t last = first;
    while (last < rest.size() && in_name(rest[last])) ++last;
    const bool digit = first < last && std::isdigit(static_cast<unsigned char>(rest[first]));
    const bool closed = !braces || (last < rest.size() && rest[last] == '}');
    if (first == last || digit || !closed) {
      whole += rest[i++];
      continue;
    }
    const std::string name = rest.substr(first, last - first);
    const char* value = std::getenv(name.c_str());
    FL_CHECK(value != nullptr && *value != '\0', key, " is '", path,
             "', but the environment has no ", name, " (export it, or write the path out)");
    whole += value;
    i = last + (braces ? 1 : 0);
  }
  return whole;
}

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
