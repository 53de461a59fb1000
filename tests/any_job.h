// Jobs and errors for tests.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/check.h"
#include "base/job.h"
#include "base/registry.h"
#include "commands/selftest/experiments.h"

namespace fl_sim {

using selftest::any_job;

// What the Error says that `action` throws; a failed test if it throws none.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

}  // namespace fl_sim

// The statement throws an Error whose message contains `part`.
#define EXPECT_ERROR(statement, part)                                            \
  do {                                                                           \
    const std::string what = ::fl_sim::error_of([&] { (void)(statement); });     \
    EXPECT_NE(what.find(part), std::string::npos) << "the message is: " << what; \
  } while (false)
