#include "base/text.h"

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string_view>

#include "base/check.h"

namespace fl_sim {

void tell(const std::string& text) {
  const std::string line = "fl_sim: " + text + "\n";
  std::cerr.flush();
  std::cerr.write(line.data(), std::ssize(line));
}

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

namespace {

void append_utf8(std::string& text, uint32_t code) {
  const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

// Of UTF-16 without its mark. A text of Latin letters has a zero in every other byte.
std::string from_utf16(const std::string& bytes, bool big, const std::string& path) {
  const auto unit = [&](size_t i) {
    const auto high = static_cast<unsigned char>(bytes[i + (big ? 0 : 1)]);
    const auto low = static_cast<unsigned char>(bytes[i + (big ? 1 : 0)]);
    return static_cast<uint32_t>(high << 8 | low);
  };
  FL_CHECK(bytes.size() % 2 == 0, path, " is UTF-16, but its last character is cut off (save it ",
           "anew, as UTF-8)");
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    uint32_t code = unit(i);
    if (code >= 0xD800 && code < 0xE000) {  // the first half of a pair
      const uint32_t second = i + 2 < bytes.size() ? unit(i + 2) : 0;
      FL_CHECK(code < 0xDC00 && second >= 0xDC00 && second < 0xE000, path, " is UTF-16, but byte ",
               i, " begins half a character (save it anew, as UTF-8)");
      code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00);
      i += 2;
    }
    append_utf8(text, code);
  }
  return text;
}

}  // namespace

std::string plain_text(std::string bytes, const std::string& path) {
  using std::literals::operator""sv;
  FL_CHECK(!bytes.starts_with("\xFF\xFE\0\0"sv) && !bytes.starts_with("\0\0\xFE\xFF"sv), path,
           " is UTF-32 (save it as UTF-8)");
  if (bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF")) {
    bytes = from_utf16(bytes.substr(2), bytes[0] == '\xFE', path);
  } else if (bytes.size() > 1 && (bytes[0] == '\0') != (bytes[1] == '\0')) {
    bytes = from_utf16(bytes, bytes[0] == '\0', path);
  }
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool begins_line = text.empty() || text.back() == '\n';
    if (begins_line && bytes.compare(i, 3, "\xEF\xBB\xBF") == 0) {  // also where files were joined
      i += 2;
    } else if (bytes[i] != '\r') {
      text += bytes[i];
    } else if (i + 1 == bytes.size() || bytes[i + 1] != '\n') {
      text += '\n';
    }
  }
  return text;
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
