// What the standard library does not say of files.
#pragma once

#include <functional>
#include <string>
#include <system_error>

namespace fl_sim {

// A path as a shell would spell it out: `~` or `~user` at its beginning, $NAME and ${NAME}
// anywhere. Throws Error, which says whose path it is (`key`), where there is no such user or
// variable.
std::string expanded_path(const std::string& key, const std::string& path);

// Whether an open file is the one that has this name now: it may have been removed and made anew.
bool same_file(int descriptor, const std::string& path);

// Makes a file's bytes, or a directory's names, outlive the machine: what is in memory of the
// kernel only is lost with it. Throws Error.
void sync(const std::string& path);

using WriteFile = std::function<void(const std::string& path)>;

// `write` makes the file `path`, which then is on the disk. Throws what `write` throws, or Error;
// nothing is left then.
void make_file(const std::string& path, const WriteFile& write);

// The same beside what stands at `path`, whose place it takes as a whole: <path><suffix> meanwhile.
// What stood there stays if Error is thrown, which ends with `remedy`.
void replace_file(const std::string& path, const WriteFile& write,
                  const std::string& suffix = ".tmp", const std::string& remedy = "");

// Makes a file at `path`, where none is, and removes it: no other test holds for root, full quotas
// and read-only file systems.
std::error_code try_file(const std::string& path);

}  // namespace fl_sim
