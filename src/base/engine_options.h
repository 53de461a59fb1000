// The options of the engine itself: every key of a job that no plug-in declares. Those that several
// rooms read, or that name plug-ins, are declared here; the others beside their readers, see
// base/option_set.h.
#pragma once

#include <string>
#include <vector>

#include "base/registry.h"

namespace fl_sim {

// Adds to them, while the program's static objects are made: what says where files lie, what is
// shown or when to save has Option::changes_results = false. `place`: the order of --help.
void declare_engine_options(int place, std::vector<Option> options);

// In the order in which --help shows them.
const std::vector<Option>& engine_options();

// Every key that a job may have: the engine's, then "plug-in.option" of each plug-in.
std::vector<Option> all_options();

// What a job that goes on may have otherwise: Option::changes_results says no, or
// Option::may_change yes.
bool may_differ(const std::string& key);

}  // namespace fl_sim
