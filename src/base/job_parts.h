// What a job is made of: the plug-ins that its values name, the keys that these and the engine
// read, and the values that follow. For job.cpp.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/registry.h"

namespace fl_sim {

using Values = std::map<std::string, std::string>;

// A plug-in that a job names, and the key that names it: "algorithm", or "pwfl.inner" for one
// within another.
struct Part {
  std::string kind, name, key;
};

// The plug-ins that a job with these values is made of, each before those within it. Throws Error
// for unknown ones.
class Parts {
 public:
  explicit Parts(const Values& values);

  const std::vector<Part>& list() const { return list_; }

  bool contains(const std::string& kind, const std::string& name) const;

  // Whether a plug-in of that kind reads an engine's key with Option::read_by.
  bool read(const std::string& kind, const std::string& key) const;

  // Of engine keys; a plug-in's own go over those of the plug-ins within it, and over those of the
  // ones that are named behind it.
  Values defaults() const;

  // What the job says of a kind: "algorithm is pwfl, pwfl.inner is fedavg".
  std::string text(const std::string& kind) const;

  // The keys that name plug-ins of a kind, whether or not they name one: {"transforms",
  // "transform"} for "transforms = none".
  const std::map<std::string, std::string>& keys() const { return keys_; }

 private:
  void add(const Values& values, const std::string& key, const std::string& kind,
           const Option& option, const std::vector<std::string>& outer);

  std::vector<Part> list_;
  std::map<std::string, std::string> keys_;  // key → kind
};

// The names that the value of such a key lists: "clip, gaussian", or "none". Arguments are part of
// them. Throws Error if one is there twice, or none at all.
std::vector<std::string> plugin_names(const std::string& key, const std::string& value);

// The kind of plug-in that an engine's key names; empty if it names none.
std::string kind_of(const std::string& key);

// What a job file says. complete: a results file's, in which every default is written out.
struct JobFile {
  Values values = {};
  bool complete = false;
};

// Puts defaults under what was given, and refuses what nobody would read. Throws Error.
Values resolve(const Values& command_line, const JobFile& file);

// The keys and values of a job's text as they stand there, known or not. Throws Error if it is no
// INI.
Values values_in_text(const std::string& ini);

// What a plug-in declares of keys: its options' names, defaults and conditions, its defaults for
// the engine's keys, and which of these it reads. Throws Error, naming the plug-in, if that cannot
// be.
void check_declared(const std::string& kind, const std::string& name, const PluginInfo& info);

// What is said of such a key. `used`: plug-ins that the job names, whose keys are likelier than
// those of others.
std::string unknown_key(const std::string& key, const std::string& where,
                        const std::set<std::string>& used);

}  // namespace fl_sim
