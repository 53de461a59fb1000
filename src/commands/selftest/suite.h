// The conformance suite: what `fl_sim selftest` runs, and tests/conformance_test.cpp the same.
//
// A check holds an algorithm to something that does not come from this engine: its paper's rule
// computed in plain doubles, a known optimum, an algorithm that it must equal. To add one, write
// into the file of the algorithm's family (global.cpp, fairness.cpp, parallel.cpp,
// personal_layers.cpp, baselines.cpp; engine.cpp is for the round loop itself):
//
//   // Against the rule after 1, 2 and 3 rounds (what a wrong state does in round 2 shows in round
//   // 3), in groups of three clients, and in float32: the checks "closed form" and "float32".
//   FL_CLOSED_FORM("fedprox", "local momentum", Local{.momentum = 0.5}, "fedprox.mu = 2",
//                  fedprox, 2);  // fedprox(problem, local, rounds, 2): of rules.h, or your own
//
//   // Any other statement.
//   FL_SELFTEST("fedprox", "equals", "mu 0 is FedAvg, bit for bit", [] {
//     const Problem problem = example_problem();
//     const std::string lines = Local{.momentum = 0.5}.lines();
//     return compare(solve(problem, "fedprox", lines + "fedprox.mu = 0", 2),
//                    solve(problem, "fedavg", lines, 2), 0);
//   });
//
// problem.h has the problems (quadratics, and classifiers for algorithms that need labels),
// experiments.h what runs them: solve() returns the trained weights, run() also the server's
// tensors, run_recorded() the rounds' and clients' records as well.
//
// "ranks" and "save/load" need nothing: they run the small job that PluginInfo::example of every
// registered algorithm describes.
//
// A check is worth what it catches: tests/mutations holds wrong versions of every algorithm, each
// of which the selftest has to notice. Add a line for each mistake that you can think of (see
// tests/mutations/run).
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace fl_sim::selftest {

// How far something is from what it should be; not a number is too far.
struct Result {
  double deviation = 0;
  double tolerance = 0;
  std::string note = {};  // what else helps to understand a failure

  bool passed() const { return deviation <= tolerance; }
};

struct Check {
  std::string algorithm;  // or "engine"
  std::string property;   // of properties()
  std::string text;       // what it shows, one line
  std::function<Result()> run;
};

// The columns of the table:
//   closed form   up to three rounds against the rule in doubles, alone and in stacks of clients
//   fixed point   long runs to where they are known to end
//   equals        settings in which one algorithm is another, or a run something simpler
//   mistakes      what implementations of the field got wrong
//   float32       the closed forms in the type that jobs compute in, to 1e-4 of the change
//   ranks         the same checksum for 1, 2 and 3 ranks
//   save/load     a run that is saved, and resumed by another, ends with the same bits
const std::vector<std::string>& properties();

// Those that were added.
const std::vector<Check>& checks();

// What check.run() says; an exception is a failure with its message.
Result run_check(const Check& check);

// Called before main(). Those of `add_checks` are asked for once, when all plug-ins are registered.
bool add_check(Check check);
bool add_checks(std::vector<Check> (*make)());

// `passed` or not, with a reason.
Result require(bool passed, const std::string& note);

// The worst of several: the first that fails, or else the one nearest to its tolerance.
Result all_of(const std::vector<Result>& results);

}  // namespace fl_sim::selftest

#define FL_SELFTEST_NAME(prefix, number) prefix##number
#define FL_SELFTEST_UNIQUE(number) FL_SELFTEST_NAME(selftest_, number)
#define FL_SELFTEST(...)                                               \
  [[maybe_unused]] static const bool FL_SELFTEST_UNIQUE(__COUNTER__) = \
      ::fl_sim::selftest::add_check({__VA_ARGS__})
#define FL_CLOSED_FORM(...)                                            \
  [[maybe_unused]] static const bool FL_SELFTEST_UNIQUE(__COUNTER__) = \
      ::fl_sim::selftest::add_closed_form(__VA_ARGS__)
