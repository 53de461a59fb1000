// `fl_sim selftest`: the conformance suite, on the user's own machine and build.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// Runs what `arguments`, those behind the word selftest, ask for and prints the table. Returns the
// program's exit code: 1 if a check failed. Throws Error for arguments that make no sense.
int run_selftest(const std::vector<std::string>& arguments);

}  // namespace fl_sim
