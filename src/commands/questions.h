// What fl_sim answers without running anything: --help, --version, --list [KIND], --explain NAME,
// --explain algorithms (the second half of algorithms/README.md), --plan partition. And the words
// of the command line that are no options of a job.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace fl_sim {

// Takes `--key value` or `--key=value` out of the words.
std::optional<std::string> take_option(std::vector<std::string>& words, const std::string& key);

// Whether one of them is asked.
bool is_question(const std::vector<std::string>& arguments);

// Answers it on standard output. Returns false, printing nothing, if none is asked. Throws Error
// for unknown names, and for what is wrong with a job that is planned.
bool answer_question(const std::vector<std::string>& arguments);

}  // namespace fl_sim
