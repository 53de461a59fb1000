// Jobs and errors for tests.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "check.h"
#include "job.h"
#include "registry.h"

namespace fl_sim {

// A job with the lines that a test cares about; everything else a job must say is filled in with
// something valid.
inline Job any_job(const std::string& lines) {
  std::string text = lines + "\n";
  const auto add = [&](const std::string& key, const std::string& value) {
    if (("\n" + text).find("\n" + key + " = ") == std::string::npos)
      text += key + " = " + value + "\n";
  };
  add("dataset", "fcube");
  add("local.batch-size", "10");
  add("local.lr", "0.1");
  for (const auto& [name, info] : catalog()["model"]) {
    bool complete = true;
    for (const Option& option : info.options)
      complete = complete && option.default_value.has_value();
    if (complete) add("model", name);
  }
  return Job::from_text(text);
}

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
