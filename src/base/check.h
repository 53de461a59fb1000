// Errors that users see: one exception type and one always-on check.
//
// Messages say what, why and what next: "cohort is 50 (must be 1 to 20, the number of clients)".
// Conditions that only a bug of ours can break use assert instead.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fl_sim {

// Something wrong with a job, a file or a machine. Only main catches it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The parts, written one after the other.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace fl_sim

// Throws Error with the parts as its message unless the condition holds.
#define FL_CHECK(condition, ...)                                             \
  do {                                                                       \
    if (!(condition)) throw ::fl_sim::Error(::fl_sim::message(__VA_ARGS__)); \
  } while (false)
