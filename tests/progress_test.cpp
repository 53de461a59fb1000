#include "commands/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace fl_sim {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

RoundRecord example() {
  RoundRecord round;
  round.round = 7;
  round.seconds = 4.2;
  round.train_loss = 0.8123;
  round.test_loss = 0.7012;
  round.test_accuracy = 0.7431;
  round.cohort = 10;
  round.samples = 21882;
  return round;
}

// What `action` prints on stdout and on stderr.
template <class Action>
std::pair<std::string, std::string> printed_by(const Action& action) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  action();
  std::string out = testing::internal::GetCapturedStdout();
  return {std::move(out), testing::internal::GetCapturedStderr()};
}

TEST(Progress, DurationsAreHoursMinutesSeconds) {
  EXPECT_EQ(duration_text(0), "0:00:00");
  EXPECT_EQ(duration_text(59.6), "0:01:00");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(360000), "100:00:00");
  EXPECT_EQ(duration_text(-1), "0:00:00");
  EXPECT_EQ(duration_text(kNotMeasured), "0:00:00");
}

TEST(Progress, ARoundIsOneLine) {
  EXPECT_EQ(
      round_line(example(), 25),
      "round  7/25  train loss 0.8123  test loss 0.7012  accuracy 0.7431  5210 samples/s  4.2 s");
}

TEST(Progress, WhatWasNotMeasuredIsLeftOut) {
  RoundRecord round = example();
  round.test_loss = round.test_accuracy = kNotMeasured;
  EXPECT_EQ(round_line(round, 25), "round  7/25  train loss 0.8123  5210 samples/s  4.2 s");
  round.train_loss = kNotMeasured;
  round.seconds = 0;
  EXPECT_EQ(round_line(round, 25), "round  7/25  0.0 s");
}

// Of the classes the worst, whose samples the test set has.
TEST(Progress, ARoundTellsTheMetricsThatWereAskedFor) {
  RoundRecord round = example();
  round.metrics = {.balanced_accuracy = 0.7,
                   .area_under_curve = 0.9,
                   .perplexity = 2.5,
                   .class_accuracy = {0.75, kNotMeasured, 0.25}};
  EXPECT_THAT(round_line(round, 25),
              HasSubstr("  accuracy 0.7431  balanced 0.7000  auc 0.9000  perplexity 2.500  worst "
                        "class 0.2500  5210 samples/s"));
}

TEST(Progress, FailedClientsAreTold) {
  RoundRecord round = example();
  round.failed = 2;
  round.diverged = 2;
  EXPECT_THAT(round_line(round, 25), EndsWith("of 10: 2 diverged"));
  round.failed = 5;
  round.stragglers = 1;
  round.lost = 1;
  round.set_aside = 1;
  round.partial = 3;
  EXPECT_THAT(round_line(round, 25),
              EndsWith("of 10: 2 diverged, 1 late, 1 lost, 1 set aside, 3 in part"));
}

TEST(Progress, AWideBarShowsEverything) {
  EXPECT_EQ(bar_line(example(), 14, 83, 200),
            "[###############               ]  "
            "round  7/14  train loss 0.8123  accuracy 0.7431  5210 samples/s  0:01:23 left");
}

TEST(Progress, TheBarIsFullAfterTheLastRound) {
  EXPECT_THAT(bar_line(example(), 7, 0, 200),
              StartsWith("[" + std::string(30, '#') + "]  round 7/7"));
}

TEST(Progress, ABarNeverWrapsAndAlwaysTellsTheRound) {
  for (int columns = 0; columns < 130; ++columns) {
    const std::string line = bar_line(example(), 25, 83, columns);
    EXPECT_LT(line.size(), static_cast<size_t>(std::max(columns, 1))) << columns << " columns";
    EXPECT_THAT(line, HasSubstr(columns > 12 ? "round  7/25" : "")) << columns << " columns";
  }
}

TEST(Progress, OnANarrowTerminalTheSpeedGivesWayFirst) {
  const std::string line = bar_line(example(), 25, 83, 80);
  EXPECT_THAT(line, AllOf(HasSubstr("accuracy 0.7431"), HasSubstr("0:01:23 left"),
                          Not(HasSubstr("samples/s"))));
}

TEST(Progress, AwayFromATerminalThereIsNoControlCharacter) {
  const auto [out, err] = printed_by([] {
    Progress progress(false, false, LogLevel::kInfo, 25);
    progress.round(example());
    progress.note("a message");
    progress.finish();
  });
  EXPECT_EQ(out, round_line(example(), 25) + "\na message\n");
  EXPECT_EQ(err, "");
}

TEST(Progress, AMessageStandsAboveTheBar) {
  const auto [out, err] = printed_by([] {
    Progress progress(false, true, LogLevel::kInfo, 25);
    progress.round(example());
    progress.note("a message");
    progress.finish();
  });
  const std::string bar = out.substr(0, out.find("\r\x1b[K", 1));
  EXPECT_THAT(bar, AllOf(StartsWith("\r\x1b[K["), HasSubstr("round  7/25")));
  EXPECT_EQ(out, bar + "\r\x1b[Ka message\n" + bar.substr(4) + "\n");
  EXPECT_EQ(err, "");
}

TEST(Progress, TheBarKeepsTheLatestAccuracy) {
  const auto [out, err] = printed_by([] {
    Progress progress(false, true, LogLevel::kInfo, 25);
    progress.round(example());
    RoundRecord next = example();
    next.round = 8;
    next.test_accuracy = kNotMeasured;
    progress.round(next);
  });
  EXPECT_THAT(out.substr(out.rfind('\r')),
              AllOf(HasSubstr("round  8/25"), HasSubstr("accuracy 0.7431")));
}

TEST(Progress, QuietShowsWarningsAndErrorsOnly) {
  for (const bool terminal : {false, true}) {
    const auto [out, err] = printed_by([&] {
      Progress progress(true, terminal, LogLevel::kDebug, 25);
      progress.round(example());
      progress.note("a message");
      progress.note("careful", LogLevel::kWarning);
      progress.note("broken", LogLevel::kError);
      progress.finish();
    });
    EXPECT_EQ(out, "");
    EXPECT_EQ(err, "fl_sim: warning: careful\nfl_sim: broken\n");
  }
}

TEST(Progress, LevelsIncludeThoseBefore) {
  const auto shown = [](LogLevel level) {
    const auto [out, err] = printed_by([&] {
      Progress progress(false, false, level, 25);
      progress.note("D", LogLevel::kDebug);
      progress.note("I", LogLevel::kInfo);
      progress.note("W", LogLevel::kWarning);
      progress.note("E", LogLevel::kError);
    });
    return out + err;
  };
  EXPECT_EQ(shown(LogLevel::kDebug), "D\nI\nfl_sim: warning: W\nfl_sim: E\n");
  EXPECT_EQ(shown(LogLevel::kInfo), "I\nfl_sim: warning: W\nfl_sim: E\n");
  EXPECT_EQ(shown(LogLevel::kWarning), "fl_sim: warning: W\nfl_sim: E\n");
  EXPECT_EQ(shown(LogLevel::kError), "fl_sim: E\n");
}

TEST(Progress, LevelsHaveNames) {
  EXPECT_EQ(parse_log_level("warning"), LogLevel::kWarning);
  EXPECT_EQ(parse_log_level("debug"), LogLevel::kDebug);
  EXPECT_THROW(parse_log_level("loud"), Error);
}

TEST(Progress, AFileIsNoTerminal) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(terminal_columns(), 0);
  testing::internal::GetCapturedStdout();
}

}  // namespace
}  // namespace fl_sim
