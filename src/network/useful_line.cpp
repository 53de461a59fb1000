#include "network/useful_line.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

namespace fl_sim {
namespace {

bool has_word(const std::string& line) {
  return std::any_of(line.begin(), line.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0; });
}

// "RuntimeError: ...", "torch.jit.Error: ...", "builtins.ValueError: ...".
bool names_an_error(const std::string& line) {
  const std::string name = line.substr(0, line.find(':'));
  const bool one_word = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_';
  });
  return one_word && name.size() < line.size() &&
         (name.ends_with("Error") || name.ends_with("Exception"));
}

bool is_frame(const std::string& line) {
  return line.starts_with("The following operation failed in the TorchScript interpreter") ||
         line.starts_with("Traceback") || line.starts_with("Exception raised from");
}

}  // namespace

std::string useful_line(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const size_t begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
    if (begin != std::string::npos && has_word(line))
      lines.push_back(line.substr(begin, end + 1 - begin));
  }
  // A trace has the reason at its end, with the rest of a long one behind it.
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (!names_an_error(*line)) continue;
    if (line->starts_with("builtins.")) line->erase(0, line->find('.') + 1);
    const bool bare = !has_word(line->substr(line->find(':')));
    return bare && line != lines.rbegin() ? *line + " " + *(line - 1) : *line;
  }
  const bool is_trace = std::any_of(lines.begin(), lines.end(), is_frame);
  if (is_trace && !is_frame(lines.back())) return lines.back();
  const auto first = std::find_if_not(lines.begin(), lines.end(), is_frame);
  return first != lines.end() ? *first : "it gives no reason";
}

std::string useful_line(const std::exception& error) {
  const auto* from_torch = dynamic_cast<const c10::Error*>(&error);
  return useful_line(from_torch != nullptr ? from_torch->what_without_backtrace() : error.what());
}

}  // namespace fl_sim
