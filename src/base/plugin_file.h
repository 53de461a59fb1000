// Plug-ins from outside of the program: shared objects with plug-ins of any kind, which --plugin
// and the job's key `plugin` name.
//
// One is loaded only if it was built with this very fl_sim, LibTorch and compiler. Its stamp says
// so (packaging/plugin_stamp.cpp), and is read before any of its code runs.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

struct PluginFile {
  std::string path;  // absolute
  std::string hash;  // Checksum of its bytes
};

// Loads one; one that is loaded already stays as it is. `stamp`: what it must have been built with.
// on_trial: in a process of its own first, which MPI had better not see. Throws Error, naming the
// file, if it is no plug-in, or not one for this program.
PluginFile load_plugin_file(const std::string& path, const std::string& stamp, bool on_trial);

// All that are loaded, in the order in which they were named.
const std::vector<PluginFile>& plugin_files();

}  // namespace fl_sim
