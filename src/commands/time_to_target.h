// Time to accuracy: how far runs have come when their model first reaches a target, counted in
// rounds, virtual seconds, clients' work or bytes.
//
// A run that never does took longer than it lasted, and that is all that is known of it: so what
// is said of several runs may be a lower bound, too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/hdf5_file.h"

namespace fl_sim {

// What is counted.
struct Axis {
  const char* word;     // of --by
  const char* heading;  // of a table's column
  const char* title;    // of a picture's axis
  double unit;          // what the heading counts in
  const char* format;
};
// Throws Error for another word.
const Axis& axis_called(const std::string& word);

// By rounds of a results file, what has passed at the end of each since the run's start. Throws
// Error if the file does not say.
std::vector<double> passed_by_round(const Hdf5File& file, const std::string& path,
                                    const Axis& axis);

struct Length {
  double value = 0;
  bool reached = true;  // false: it is more than `value`
  bool operator==(const Length&) const = default;
};

// Where the first of the values stands that is at least the target; otherwise more than where the
// last one stands. There must be one.
Length length_to(const std::vector<double>& positions, const std::vector<double>& values,
                 double target);

// Of several, at least one: the one in the middle, or halfway between two.
Length median_of(std::vector<Length> lengths);
Length least_of(const std::vector<Length>& lengths);
Length most_of(const std::vector<Length>& lengths);

// Means of `window` values in a row: window - 1 fewer than there are.
std::vector<double> smoothed(const std::vector<double>& values, int64_t window);

// "12.5", ">100.0"
std::string length_text(const Length& length, const Axis& axis);
// With the range of several behind their median: "12.5 (10.0 to >100.0)".
std::string lengths_text(const std::vector<Length>& lengths, const Axis& axis);
// How many times as fast the second one is: "2.00", "<0.80" where it is not through; "-" where
// nothing is known.
std::string speed_up_text(const Length& first, const Length& second);

}  // namespace fl_sim
