// Plug-ins from files, see plugin_file.h: which a command line or its job names, on every rank.
#pragma once

#include <string>
#include <vector>

#include "base/job.h"
#include "process/communicator.h"

namespace fl_sim {

// Loads what these words name by --plugin, or the job file among them by its key, on this rank.
// Before anything that knows plug-ins by name. Throws Error.
void load_plugins(const std::vector<std::string>& arguments);

// Without the words that name plug-ins: for commands that are not jobs.
std::vector<std::string> without_plugins(std::vector<std::string> arguments);

// Writes into the job what is loaded: the files' whole paths, and their hashes. `arguments` as the
// job was parsed from. Throws Error if the job wants other hashes.
void name_plugins(Job& job, const std::vector<std::string>& arguments);

// Loads what rank 0 has loaded on every rank. Collective. Throws Error on rank 0 if some rank has
// not the same file; the others go on.
void share_plugins(Communicator& comm);

// "/path/libmine.so 0123456789abcdef", a line each; empty: no plug-in comes from a file.
std::string plugin_lines();

}  // namespace fl_sim
