// Words of the command line that are no keys of a job.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace fl_sim {

// Takes each `--key value` and `--key=value` out of the words: the values. Throws Error if one is
// missing.
std::vector<std::string> take_options(std::vector<std::string>& words, const std::string& key);

// The same for what may be said once.
std::optional<std::string> take_option(std::vector<std::string>& words, const std::string& key);

}  // namespace fl_sim
