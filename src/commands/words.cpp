#include "commands/words.h"

#include "base/check.h"

namespace fl_sim {

std::optional<std::string> take_option(std::vector<std::string>& words, const std::string& key) {
  std::optional<std::string> value;
  for (auto word = words.begin(); word != words.end();) {
    const bool whole = *word == key;
    if (!whole && !word->starts_with(key + "=")) {
      ++word;
      continue;
    }
    FL_CHECK(!value, key, " is said twice (keep one)");
    FL_CHECK(!whole || word + 1 != words.end(), key, " needs a value");
    value = whole ? *(word + 1) : word->substr(key.size() + 1);
    word = words.erase(word, word + (whole ? 2 : 1));
  }
  return value;
}

}  // namespace fl_sim
