// Predicted times: what the model finds out about clients and hosts, and what it does not believe.
#include "engine/time_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace fl_sim {
namespace {

ClientRecord record(int64_t rank, int64_t steps, double seconds) {
  ClientRecord record;
  record.rank = rank;
  record.steps = steps;
  record.seconds = seconds;
  return record;
}

double speed_of(const TimeModel& model, int64_t rank) {
  for (const HostSpeed& host : model.hosts()) {
    if (host.rank == rank) return host.speed;
  }
  return 0;
}

// Before the first round a client takes its steps, and all hosts are alike.
TEST(TimeModel, BeginsWithSteps) {
  const TimeModel model({1, 2});
  EXPECT_EQ(model.seconds(7), 7);
  EXPECT_EQ(speed_of(model, 1), 1);
  EXPECT_EQ(speed_of(model, 2), 1);
}

// The makespan is that of the host that is through last; nothing is known before a round.
TEST(TimeModel, MakespanOfADeal) {
  TimeModel model({1, 2});
  const std::vector<PlannedGroup> groups = {{.ids = {0}, .seconds = 2, .rank = 1},
                                            {.ids = {1}, .seconds = 3, .rank = 2},
                                            {.ids = {2}, .seconds = 2, .rank = 1}};
  EXPECT_EQ(model.makespan(groups), 0);
  model.learn({record(1, 1, 1), record(2, 1, 1)});
  EXPECT_NEAR(model.makespan(groups), 4, 1e-12);
}

// Clients that take 0.3 s to start and 0.1 s a step are known after a round, also those of other
// lengths.
TEST(TimeModel, FindsTheLine) {
  TimeModel model({1});
  model.learn({record(1, 1, 0.4), record(1, 3, 0.6), record(1, 10, 1.3)});
  EXPECT_NEAR(model.seconds(0), 0.3, 1e-12);
  EXPECT_NEAR(model.seconds(5), 0.8, 1e-12);
  EXPECT_NEAR(model.seconds(200), 20.3, 1e-10);
}

// One length alone says nothing about the start.
TEST(TimeModel, OneLengthMeansProportion) {
  TimeModel model({1});
  model.learn({record(1, 4, 2), record(1, 4, 2)});
  EXPECT_NEAR(model.seconds(4), 2, 1e-12);
  EXPECT_NEAR(model.seconds(8), 4, 1e-12);
  // And clients without a step have nothing but a start.
  TimeModel empty({1});
  empty.learn({record(1, 0, 0.1), record(1, 0, 0.3)});
  EXPECT_NEAR(empty.seconds(0), 0.2, 1e-12);
  EXPECT_NEAR(empty.seconds(9), 0.2, 1e-12);
}

// Times are positive and longer clients never cheaper, whatever was measured.
TEST(TimeModel, IsNeverNegativeNorFalling) {
  TimeModel late({1}), falling({1});
  late.learn({record(1, 5, 1), record(1, 10, 4)});  // the line would start at -2
  EXPECT_EQ(late.seconds(0), 0);
  EXPECT_GT(late.seconds(1), 0);
  falling.learn({record(1, 1, 4), record(1, 2, 3)});
  EXPECT_GT(falling.seconds(0), 0);
  EXPECT_EQ(falling.seconds(1), falling.seconds(100));
}

// Hosts of speed 2/3 and 4/3: known after two rounds.
TEST(TimeModel, FindsTheSpeeds) {
  TimeModel model({1, 2});
  std::vector<ClientRecord> records;
  for (int64_t steps = 1; steps <= 8; ++steps) {
    records.push_back(record(1, steps, 0.3 * static_cast<double>(steps)));
    records.push_back(record(2, steps, 0.15 * static_cast<double>(steps)));
  }
  model.learn(records);
  EXPECT_GT(speed_of(model, 2), speed_of(model, 1));
  model.learn(records);
  EXPECT_NEAR(speed_of(model, 2) / speed_of(model, 1), 2, 0.1);
  for (int round = 0; round < 20; ++round) model.learn(records);
  EXPECT_NEAR(speed_of(model, 1), 2.0 / 3, 1e-9);
  EXPECT_NEAR(speed_of(model, 2), 4.0 / 3, 1e-9);
  // Seconds are those on a host of speed 1, between the two.
  EXPECT_NEAR(model.seconds(6) / speed_of(model, 1), 1.8, 0.02);
  EXPECT_NEAR(model.seconds(6) / speed_of(model, 2), 0.9, 0.01);
}

// A host that was dealt nothing is soon taken for an average one again, so that it is tried.
TEST(TimeModel, ForgetsAHostThatGetsNothing) {
  TimeModel model({1, 2});
  for (int round = 0; round < 2; ++round) model.learn({record(1, 10, 1), record(2, 10, 3)});
  EXPECT_LT(speed_of(model, 2), 0.6);
  for (int round = 0; round < 3; ++round) model.learn({record(1, 10, 1)});
  EXPECT_GT(speed_of(model, 2), 0.6);
}

// A client a thousand times as long as all others moves the line by its clipped share only, and a
// single bad round not the speeds, be it the first one.
TEST(TimeModel, DoesNotBelieveOutliers) {
  std::vector<ClientRecord> records;
  for (int i = 0; i < 50; ++i) {
    records.push_back(record(1, 10, 1));
    records.push_back(record(2, 10, 1));
  }
  std::vector<ClientRecord> bad = records;
  bad[0].seconds = 1000;
  for (int bad_round = 0; bad_round < 8; ++bad_round) {
    TimeModel model({1, 2});
    for (int round = 0; round < 8; ++round) {
      model.learn(round == bad_round ? bad : records);
      EXPECT_NEAR(model.seconds(10), 1, 0.03 + 1e-12);  // 99 of 1 and one of 4
      EXPECT_NEAR(speed_of(model, 1), 1, 0.02) << bad_round << " " << round;
    }
  }
}

// But a host that is held up in most rounds is slow, although most of its clients are not: one in
// fifty takes as long as the other 49 together, and so the host twice as long as the other one.
TEST(TimeModel, BelievesHostsThatAreOftenHeldUp) {
  TimeModel model({1, 2});
  std::vector<ClientRecord> records;
  for (int i = 0; i < 50; ++i) {
    records.push_back(record(1, 1, i == 25 ? 51 : 1));
    records.push_back(record(2, 1, 1));
  }
  for (int round = 0; round < 10; ++round) model.learn(records);
  EXPECT_NEAR(speed_of(model, 2) / speed_of(model, 1), 2, 0.1);
}

// Hosts that differ by less than what noise makes of equal ones are dealt alike.
TEST(TimeModel, TakesSmallDifferencesForNoise) {
  TimeModel model({1, 2});
  for (int round = 0; round < 5; ++round) model.learn({record(1, 10, 1), record(2, 10, 1.06)});
  EXPECT_EQ(speed_of(model, 1), 1);
  EXPECT_EQ(speed_of(model, 2), 1);
}

// Times that change are followed: a fifth is forgotten a round.
TEST(TimeModel, FollowsWhatChanges) {
  TimeModel model({1});
  model.learn({record(1, 10, 1)});
  for (int round = 0; round < 20; ++round) model.learn({record(1, 10, 2)});
  EXPECT_NEAR(model.seconds(10), 2, 0.02);
}

// Measured times that vary by a third leave speeds of equal hosts within some percent of 1.
TEST(TimeModel, IsNotMisledByNoise) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<double> noise(0.67, 1.33);
  TimeModel model({1, 2, 3, 4});
  for (int round = 0; round < 30; ++round) {
    std::vector<ClientRecord> records;
    for (int64_t i = 0; i < 80; ++i) {
      const int64_t steps = 1 + i / 4;
      records.push_back(
          record(1 + i % 4, steps, 0.01 * static_cast<double>(steps) * noise(generator)));
    }
    model.learn(records);
    for (const HostSpeed& host : model.hosts()) EXPECT_NEAR(host.speed, 1, 0.15);
  }
  for (const HostSpeed& host : model.hosts()) EXPECT_NEAR(host.speed, 1, 0.06);
  EXPECT_NEAR(model.seconds(20), 0.2, 0.01);
}

// A round in which nobody took part teaches nothing.
TEST(TimeModel, NothingFromNothing) {
  TimeModel model({1});
  model.learn({});
  EXPECT_EQ(model.seconds(3), 3);
}

}  // namespace
}  // namespace fl_sim
