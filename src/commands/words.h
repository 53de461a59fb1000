// Words of the command line that are no keys of a job.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace fl_sim {

// Takes `--key value` or `--key=value` out of the words.
std::optional<std::string> take_option(std::vector<std::string>& words, const std::string& key);

}  // namespace fl_sim
