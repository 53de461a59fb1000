// Numbers and words as people read them.
#pragma once

#include <cstddef>
#include <string>

namespace fl_sim {

// With so many digits behind the point: fixed(0.8125, 2) is "0.81".
std::string fixed(double value, int digits);

// Columns that UTF-8 text takes on a terminal, one a code point.
size_t width_of(const std::string& text);

}  // namespace fl_sim
