// What the standard library does not say of files.
#pragma once

#include <string>

namespace fl_sim {

// Whether an open file is the one that has this name now: it may have been removed and made anew.
bool same_file(int descriptor, const std::string& path);

// Makes a file's bytes, or a directory's names, outlive the machine: what is in memory of the
// kernel only is lost with it. Throws Error.
void sync(const std::string& path);

}  // namespace fl_sim
