// `fl_sim compare FILE...`: results files side by side, seeds summed up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

// Prints the comparison that the arguments behind "compare" ask for; returns the exit code.
int run_compare(const std::vector<std::string>& arguments);

// A paired comparison of n differences: Student's t statistic of their mean, and the two-sided
// probability of one as large by chance. NaN for n < 2; t is infinite, and p 0, for equal
// differences that are not 0.
struct PairedTest {
  int64_t n = 0;
  double mean = 0, t = 0, p = 1;
};
PairedTest paired_test(const std::vector<double>& differences);

// Where the best value so far first reaches the target: positions are 1, 2, ..., values between
// them on straight lines; NaN if it never does. McMahan et al. 2017, section 3, measure so.
double first_crossing(const std::vector<double>& positions, const std::vector<double>& values,
                      double target);

}  // namespace fl_sim
