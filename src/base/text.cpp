#include "base/text.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace fl_sim {

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> words;
  if (text == "none") return words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) {
    const size_t begin = word.find_first_not_of(" \t\r");
    if (begin == std::string::npos) continue;
    words.push_back(word.substr(begin, word.find_last_not_of(" \t\r") - begin + 1));
  }
  return words;
}

}  // namespace fl_sim
