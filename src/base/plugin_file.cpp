#include "base/plugin_file.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>

#include "base/check.h"
#include "base/checksum.h"
#include "base/job_parts.h"
#include "base/registry.h"

namespace fl_sim {
namespace {

// A stamp stands between this and a closing brace.
constexpr const char* kStampBegin = "fl_sim-plugin-stamp{";

std::vector<PluginFile>& loaded() {
  static std::vector<PluginFile> files;
  return files;
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const int error = std::filesystem::is_directory(path) ? EISDIR : file ? 0 : errno;
  FL_CHECK(error == 0, "plug-in ", path, " cannot be read (", std::strerror(error),
           "); --plugin takes a shared object, such as ./libmine.so");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// What the file says it was built with; empty if it says nothing.
std::string stamp_of(const std::string& bytes) {
  const size_t begin = bytes.find(kStampBegin);
  if (begin == std::string::npos) return "";
  const size_t first = begin + std::strlen(kStampBegin), end = bytes.find('}', first);
  const size_t zero = bytes.find('\0', first);
  return end < zero ? bytes.substr(first, end - first) : "";
}

int trial_report = -1;  // where a trial says what is thrown

// Loads the file in a process of its own, whose end is no harm: after what its initialisers throw,
// the dynamic linker is of no more use. Throws Error if they throw, or end the program.
void try_out(const std::string& path) {
  std::array<int, 2> ends = {};
  FL_CHECK(pipe2(ends.data(), O_CLOEXEC) == 0, "no pipe (", std::strerror(errno), ")");
  const pid_t child = fork();
  FL_CHECK(child >= 0, "no process to try ", path, " in (", std::strerror(errno), ")");
  if (child == 0) {
    trial_report = ends[1];
    const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    std::set_terminate([] {
      try {
        throw;
      } catch (const std::exception& error) {
        [[maybe_unused]] const ssize_t said =
            write(trial_report, error.what(), std::strlen(error.what()));
      } catch (...) {
      }
      _exit(1);
    });
    // Declared to throw nothing; but what initialisers throw comes through it, or ends the program.
    void* (*const volatile load)(const char*, int) = dlopen;
    try {
      load(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // if it cannot: the parent learns that itself
    } catch (...) {
      std::terminate();
    }
    _exit(0);
  }
  close(ends[1]);
  std::string what;
  std::array<char, 256> part;
  for (ssize_t n = 0; (n = read(ends[0], part.data(), part.size())) > 0;)
    what.append(part.data(), static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  FL_CHECK(what.empty(), "plug-in ", path, " throws while it is loaded: ", what);
  FL_CHECK(!WIFSIGNALED(status), "plug-in ", path, " crashes while it is loaded (",
           strsignal(WTERMSIG(status)), ")");
  FL_CHECK(WEXITSTATUS(status) == 0, "plug-in ", path, " ends the program while it is loaded");
}

// Throws Error if a plug-in of the file declares keys that cannot be.
void check_keys(const std::string& path) {
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      if (info.file != path) continue;
      try {
        check_declared(kind, name, info);
      } catch (const Error& error) {
        throw Error(message("plug-in ", path, ": ", error.what()));
      }
    }
  }
}

}  // namespace

PluginFile load_plugin_file(const std::string& path, const std::string& stamp, bool on_trial) {
  const std::string whole = std::filesystem::absolute(path).lexically_normal().string();
  FL_CHECK(whole.find_first_of(",#\n\r") == std::string::npos, "plug-in ", whole,
           " has a character in its name that a job cannot hold (a comma, '#' or a line break)");
  const auto known = std::find_if(loaded().begin(), loaded().end(), [&](const PluginFile& file) {
    std::error_code gone;  // the dynamic linker knows a file that it has loaded by any of its names
    return file.path == whole || std::filesystem::equivalent(file.path, whole, gone);
  });
  if (known != loaded().end()) return *known;

  const std::string bytes = read_bytes(whole), found = stamp_of(bytes);
  FL_CHECK(!found.empty(), "plug-in ", whole, " is none of fl_sim's: it has no stamp of what it ",
           "was built with (fl_sim_add_plugin of fl_sim's CMake package gives it one)");
  FL_CHECK(found == stamp, "plug-in ", whole,
           " is for another build of fl_sim (build it anew against this one):\n  it is for  ",
           found, "\n  this is    ", stamp);
  Checksum checksum;
  checksum.add(std::as_bytes(std::span(bytes)));

  if (on_trial) try_out(whole);
  const size_t before = count_plugins();
  register_as_from(whole);
  FL_CHECK(dlopen(whole.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr, "plug-in ", whole,
           " cannot be loaded (", dlerror(), ")");
  register_as_from("");
  const std::vector<std::string> problems = take_registration_problems();
  FL_CHECK(problems.empty(), "plug-in ", whole, ": ", problems.front());
  check_keys(whole);
  FL_CHECK(count_plugins() > before, "plug-in ", whole,
           " registers nothing (FL_REGISTER at the end of its source does)");
  loaded().push_back({whole, checksum.text()});
  return loaded().back();
}

const std::vector<PluginFile>& plugin_files() { return loaded(); }

}  // namespace fl_sim
