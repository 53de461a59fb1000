// The options of the engine itself: every key of a job that no plug-in declares.
#pragma once

#include <vector>

#include "base/registry.h"

namespace fl_sim {

// In the order in which --help shows them.
const std::vector<Option>& engine_options();

// Every key that a job may have: the engine's, then "plug-in.option" of each plug-in.
std::vector<Option> all_options();

}  // namespace fl_sim
