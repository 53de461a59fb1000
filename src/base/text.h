// Numbers and words as people read them.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <system_error>
#include <vector>

namespace fl_sim {

// With so many digits behind the point: fixed(0.8125, 2) is "0.81".
std::string fixed(double value, int digits);

// Says "fl_sim: TEXT", a line on standard error, in one piece: Open MPI 5's launcher sends the
// first piece of what comes in several to standard output now and then.
void tell(const std::string& text);

// Columns that UTF-8 text takes on a terminal, one a code point.
size_t width_of(const std::string& text);

// Whether all of the text is a number, which then is `value`.
template <class Number>
bool read_number(const std::string& text, Number& value) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc() && stop == end;
}

// The text of a file that `path` names, as UTF-8 with \n for line ends: without the mark that some
// editors put at its beginning, out of UTF-16, and out of lines that end in \r alone. Throws Error
// if it is neither.
std::string plain_text(std::string bytes, const std::string& path);

// "a, b" is {"a", "b"}: what stands between commas, less blanks; "none" is {}.
std::vector<std::string> split_list(const std::string& text);

}  // namespace fl_sim
