#include "commands/selftest/suite.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "base/registry.h"

namespace fl_sim::selftest {
namespace {

std::vector<Check>& added() {
  static std::vector<Check> all;
  return all;
}

std::vector<std::vector<Check> (*)()>& makers() {
  static std::vector<std::vector<Check> (*)()> all;
  return all;
}

// 1 and more is too far.
double badness(const Result& result) {
  if (!result.passed()) return HUGE_VAL;
  return result.tolerance > 0 ? result.deviation / result.tolerance : 0;
}

Result error_result(const std::string& what) {
  return {.deviation = std::numeric_limits<double>::quiet_NaN(), .note = what};
}

}  // namespace

const std::vector<std::string>& properties() {
  static const std::vector<std::string> all = {"closed form", "fixed point", "equals",   "mistakes",
                                               "float32",     "ranks",       "save/load"};
  return all;
}

const std::vector<Check>& checks() {
  static const std::vector<Check> all = [] {
    std::vector<Check> result = added();
    for (const auto make : makers()) {
      for (Check& check : make()) result.push_back(std::move(check));
    }
    return result;
  }();
  return all;
}

bool add_check(Check check) {
  if (std::find(properties().begin(), properties().end(), check.property) == properties().end()) {
    std::fprintf(stderr, "fl_sim: the selftest of %s has an unknown property '%s' (choose %s)\n",
                 check.algorithm.c_str(), check.property.c_str(), list_of(properties()).c_str());
    std::exit(1);
  }
  added().push_back(std::move(check));
  return true;
}

bool add_checks(std::vector<Check> (*make)()) {
  makers().push_back(make);
  return true;
}

Result run_check(const Check& check) {
  try {
    return check.run();
  } catch (const c10::Error& error) {
    return error_result(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return error_result(error.what());
  }
}

Result require(bool passed, const std::string& note) {
  return {.deviation = passed ? 0.0 : 1.0, .tolerance = 0, .note = note};
}

Result all_of(const std::vector<Result>& results) {
  Result worst;
  for (const Result& result : results) {
    if (!result.passed()) return result;
    if (badness(result) > badness(worst)) worst = result;
  }
  return worst;
}

}  // namespace fl_sim::selftest
