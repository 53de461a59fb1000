#include "commands/words.h"

#include "base/check.h"

namespace fl_sim {

std::vector<std::string> take_options(std::vector<std::string>& words, const std::string& key) {
  std::vector<std::string> values;
  for (auto word = words.begin(); word != words.end();) {
    const bool whole = *word == key;
    if (!whole && !word->starts_with(key + "=")) {
      ++word;
      continue;
    }
    FL_CHECK(!whole || word + 1 != words.end(), key, " needs a value");
    values.push_back(whole ? *(word + 1) : word->substr(key.size() + 1));
    word = words.erase(word, word + (whole ? 2 : 1));
  }
  return values;
}

std::optional<std::string> take_option(std::vector<std::string>& words, const std::string& key) {
  const std::vector<std::string> values = take_options(words, key);
  FL_CHECK(values.size() < 2, key, " is said twice (keep one)");
  return values.empty() ? std::nullopt : std::optional(values[0]);
}

}  // namespace fl_sim
