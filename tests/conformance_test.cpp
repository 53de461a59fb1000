// What `fl_sim selftest` checks, one test a check. What takes several ranks is the test
// selftest.ranks, which is the program itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "base/check.h"
#include "base/registry.h"
#include "commands/selftest/suite.h"

namespace fl_sim::selftest {
// Shown by GoogleTest.
void PrintTo(const Check& check, std::ostream* out);
void PrintTo(const Check& check, std::ostream* out) { *out << check.text; }

namespace {

std::vector<Check> checks_in_this_process() {
  std::vector<Check> result = checks();
  std::erase_if(result, [](const Check& check) { return check.property == "ranks"; });
  return result;
}

class Selftest : public testing::TestWithParam<Check> {};

// Proves what the check's text says.
TEST_P(Selftest, Passes) {
  const Check& check = GetParam();
  const Result result = run_check(check);
  EXPECT_TRUE(result.passed()) << check.algorithm << ": " << check.text << "\ndeviation "
                               << result.deviation << ", at most " << result.tolerance << "\n"
                               << result.note;
}

// "fedavg_closed_form_2"
std::string test_name(const testing::TestParamInfo<Check>& info) {
  static std::map<std::string, int> numbers;
  std::string name = message(info.param.algorithm, "_", info.param.property);
  name = message(name, "_", ++numbers[name]);
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Conformance, Selftest, testing::ValuesIn(checks_in_this_process()),
                         test_name);

// Proves that no algorithm is without its rule and without something that it must end at or equal.
TEST(Conformance, EveryAlgorithmIsHeldToItsRule) {
  std::map<std::string, std::set<std::string>> covered;
  for (const Check& check : checks()) covered[check.algorithm].insert(check.property);
  for (const auto& [name, info] : catalog()["algorithm"]) {
    EXPECT_TRUE(covered[name].contains("closed form"))
        << name
        << " has no check of the property 'closed form' (see src/commands/selftest/suite.h)";
    EXPECT_TRUE(covered[name].contains("equals") || covered[name].contains("fixed point"))
        << name << " has no check of the property 'equals' or 'fixed point'";
  }
}

// Proves that no check is lost behind a name that nothing has.
TEST(Conformance, EveryCheckNamesAnAlgorithm) {
  for (const Check& check : checks()) {
    EXPECT_TRUE(check.algorithm == "engine" || catalog()["algorithm"].contains(check.algorithm))
        << check.algorithm << ": " << check.text;
  }
}

}  // namespace
}  // namespace fl_sim::selftest
