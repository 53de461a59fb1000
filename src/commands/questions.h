// What fl_sim answers without running anything: --help, --version, --list [KIND], --explain NAME,
// --explain algorithms (the second half of algorithms/README.md), --plan partition.
#pragma once

#include <string>
#include <vector>

namespace fl_sim {

// Whether one of them is asked.
bool is_question(const std::vector<std::string>& arguments);

// Answers it on standard output. Returns false, printing nothing, if none is asked. Throws Error
// for unknown names, and for what is wrong with a job that is planned.
bool answer_question(const std::vector<std::string>& arguments);

}  // namespace fl_sim
