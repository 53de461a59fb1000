#include "commands/plugins.h"

#include <torch/version.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <sstream>

#include "base/check.h"
#include "base/files.h"
#include "base/plugin_file.h"
#include "base/registry.h"
#include "base/version.h"
#include "commands/words.h"

namespace fl_sim {
namespace {

constexpr const char* kNoFile = "none";

// What a plug-in has to be built with, as packaging/plugin_stamp.cpp puts it into one.
std::string build_stamp() {
  return message("fl_sim ", version(), ", headers ", headers(), ", LibTorch ", TORCH_VERSION,
                 ", compiler ", __VERSION__);
}

// "a.so,b.so" → a.so, b.so
std::vector<std::string> files_in(const std::string& list) {
  std::vector<std::string> files;
  std::istringstream in(list);
  for (std::string file; std::getline(in, file, ',');) {
    const size_t first = file.find_first_not_of(' '), last = file.find_last_not_of(' ');
    FL_CHECK(first != std::string::npos, "plugin is '", list, "', where a file has no name");
    files.push_back(expanded_path("plugin", file.substr(first, last - first + 1)));
  }
  if (files == std::vector<std::string>{kNoFile}) return {};
  return files;
}

// Trackers change nothing of a run: one may be mended, or taken along, where a run goes on.
bool has_only_trackers(const PluginFile& file) {
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      if (info.file == file.path && kind != "tracker") return false;
    }
  }
  return true;
}

// Of what is loaded, with commas between them.
std::string joined(std::string PluginFile::*member,
                   const std::function<bool(const PluginFile&)>& left_out = {}) {
  std::string all;
  for (const PluginFile& file : plugin_files()) {
    if (!left_out || !left_out(file)) all += (all.empty() ? "" : ",") + file.*member;
  }
  return all.empty() ? kNoFile : all;
}

}  // namespace

void load_plugins(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments, lists = take_options(words, "--plugin");
  if (lists.empty()) {
    const std::vector<std::string> jobs = take_options(words, "--job");  // the last one counts
    const auto list = jobs.empty() ? std::nullopt : job_file_value(jobs.back(), "plugin");
    if (list) lists.push_back(*list);
  }
  for (const std::string& list : lists) {
    for (const std::string& file : files_in(list)) load_plugin_file(file, build_stamp(), true);
  }
}

std::vector<std::string> without_plugins(std::vector<std::string> arguments) {
  take_options(arguments, "--plugin");
  return arguments;
}

void name_plugins(Job& job, const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  const bool chosen = !take_options(words, "--plugin").empty();
  const bool said = !take_options(words, "--plugin-hash").empty();
  const auto wanted = job.get<std::string>("plugin-hash");
  const std::string files = joined(&PluginFile::path),
                    hashes = joined(&PluginFile::hash, has_only_trackers);
  // A results file's job wants what it was run with, but not of other files.
  const bool wants = wanted != kNoFile && (said || !chosen);
  FL_CHECK(!wants || wanted == hashes, "plug-in ", files, " is not what the job was run with: its ",
           "hash is ", hashes, ", plugin-hash is ", wanted,
           " (bring that file back, or say --plugin ", files, " to take it as it is now)");
  job.set("plugin", files);
  job.set("plugin-hash", hashes);
}

void share_plugins(Communicator& comm) {
  std::string lines = plugin_lines();
  comm.meet();
  comm.broadcast(lines);
  if (lines.empty()) return;
  std::string problem;
  try {
    std::istringstream in(lines);
    for (std::string line; comm.rank() != 0 && std::getline(in, line);) {
      const size_t end = line.rfind(' ');
      const std::string path = line.substr(0, end), hash = line.substr(end + 1);
      const PluginFile file = load_plugin_file(path, build_stamp(), false);
      FL_CHECK(file.hash == hash, "plug-in ", path, " is another file than rank 0's: its hash is ",
               file.hash, ", rank 0's ", hash);
    }
  } catch (const std::exception& error) {
    problem = error.what();
  }
  if (!problem.empty()) problem = message("rank ", comm.rank(), " on ", host_name(), ": ", problem);
  std::string all;
  comm.meet();
  for (const std::string& one : comm.gather(problem)) {
    if (!one.empty()) all += (all.empty() ? "" : "\n  ") + one;
  }
  FL_CHECK(all.empty(), all);
}

std::string plugin_lines() {
  std::string lines;
  for (const PluginFile& file : plugin_files()) {
    lines += message(lines.empty() ? "" : "\n", file.path, " ", file.hash);
  }
  return lines;
}

}  // namespace fl_sim
