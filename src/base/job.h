// A job: what to simulate. The command line goes over the job file, the file over the defaults.
//
// A job file is INI; a section is a prefix, so "[local] lr = 0.05" is "--local.lr 0.05". It is
// UTF-8, or UTF-16 as some editors save it. A results file is a job too. A key that nobody would
// read is an error. After parsing every value is there, is of its type and within its range; what
// is "auto" is resolved later by set(), so that the job in the results file says what was run.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/engine_options.h"

namespace fl_sim {

class Job {
 public:
  Job() = default;

  // What the command line and the job file named on it say. Throws Error.
  static Job parse(const std::vector<std::string>& arguments);

  // The job that `ini` describes, all checks included. Throws Error.
  static Job from_text(const std::string& ini);

  // The value of a key that the job's plug-ins or the engine declare. T: int64_t, double, bool,
  // std::string.
  template <class T>
  T get(const std::string& key) const;

  // The plug-ins that a key lists (Option::several), in their order; none for "none". What stands
  // behind a colon is part of them.
  std::vector<std::string> names(const std::string& key) const;

  // The key "seed", as random streams want it.
  uint64_t seed() const;

  // Replaces a value: how "auto" is resolved.
  void set(const std::string& key, const std::string& value);

  // The whole job as INI, in a fixed order; from_text() reads it back.
  std::string text() const;

  const std::map<std::string, std::string>& values() const { return values_; }

  // What whoever wrote the command line should know, a line each.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  explicit Job(std::map<std::string, std::string> values) : values_(std::move(values)) {}
  const std::string& raw(const std::string& key) const;

  std::map<std::string, std::string> values_;
  std::vector<std::string> notes_;
};

// What a job file says of a key, without a look at the rest; nothing if it does not say it, or
// cannot be read, of which Job::parse() says why.
std::optional<std::string> job_file_value(const std::string& path, const std::string& key);

}  // namespace fl_sim
