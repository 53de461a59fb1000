// `fl_sim export TRACKER RESULTS... --to FOLDER`: what a tracker would have written of a run, from
// its results file.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// Writes what the arguments behind the word export ask for; returns the exit code. Throws Error.
int run_export(const std::vector<std::string>& arguments);

}  // namespace fl_sim
