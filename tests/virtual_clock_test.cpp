// Virtual time of synchronous rounds: what tasks cost, whose updates count, and when rounds end.
#include "engine/virtual_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <set>

#include "any_job.h"
#include "engine/planner.h"
#include "quadratics.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Keep = ClosingRule::Keep;
using End = TimedTask::End;

// Tasks of these clients, 0, 1, ..., that finish so many seconds after 100 s; negative: it is lost,
// which is known then.
std::vector<TimedTask> tasks_of(const std::vector<double>& seconds) {
  std::vector<TimedTask> tasks;
  for (const double s : seconds) {
    tasks.push_back({.client = std::ssize(tasks), .finish = micros(100 + std::abs(s))});
    tasks.back().lost = s < 0;
  }
  return tasks;
}

struct Closed {
  double seconds;  // since the round's start
  bool counts;
  std::vector<int64_t> kept = {}, late = {}, not_needed = {};
};

Closed closed(ClosingRule rule, const std::vector<double>& seconds) {
  std::vector<TimedTask> tasks = tasks_of(seconds);
  const RoundEnd end = close_round(rule, micros(100), tasks);
  Closed c{.seconds = seconds_of(end.at) - 100, .counts = end.counts};
  for (const TimedTask& task : tasks) {
    if (task.end == End::kKept) c.kept.push_back(task.client);
    if (task.end == End::kLate) c.late.push_back(task.client);
    if (task.end == End::kNotNeeded) c.not_needed.push_back(task.client);
    EXPECT_EQ(task.lost, task.end == End::kLost);
  }
  return c;
}

// Ten of thirteen, by hand: equal times in the order of the draw.
TEST(CloseRound, TheFastestCount) {
  const Closed c =
      closed({.keep = Keep::kFastest, .wanted = 10}, {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9});
  EXPECT_THAT(c.kept, ElementsAre(0, 1, 2, 3, 4, 6, 7, 8, 9, 10));
  EXPECT_THAT(c.not_needed, ElementsAre(5, 11, 12));
  EXPECT_EQ(c.seconds, 6);
  EXPECT_TRUE(c.counts);
}

TEST(CloseRound, WhereTooFewComeTheFastestAreWaitedForAsLongAsTheyMayCome) {
  const ClosingRule rule{.keep = Keep::kFastest, .wanted = 3};
  // The second one is lost, which the server does not know before 7 s, or at once.
  EXPECT_EQ(closed(rule, {2, -7, 3}).seconds, 7);
  ClosingRule knows = rule;
  knows.wait_lost = false;
  EXPECT_EQ(closed(knows, {2, -7, 3}).seconds, 3);
  // With a deadline until then, and no longer.
  ClosingRule deadline = rule;
  deadline.deadline = micros(5);
  EXPECT_EQ(closed(deadline, {2, -7, 3}).seconds, 5);
  EXPECT_EQ(closed(deadline, {2, 4, 3, 1}).seconds, 3);
  const Closed late = closed(deadline, {2, 8, 3});
  EXPECT_EQ(late.seconds, 5);
  EXPECT_THAT(late.late, ElementsAre(1));
  EXPECT_THAT(late.kept, ElementsAre(0, 2));
}

TEST(CloseRound, ADeadlineEndsTheRoundUnlessAllHaveArrived) {
  ClosingRule rule{.keep = Keep::kDeadline, .wanted = 3, .deadline = micros(5)};
  EXPECT_EQ(closed(rule, {1, 2, 4}).seconds, 4);
  const Closed late = closed(rule, {1, 6, 5});  // at the deadline is in time
  EXPECT_EQ(late.seconds, 5);
  EXPECT_THAT(late.kept, ElementsAre(0, 2));
  EXPECT_THAT(late.late, ElementsAre(1));
  EXPECT_EQ(closed(rule, {1, -2, 4}).seconds, 5);  // a silent client may still come
  rule.wait_lost = false;
  EXPECT_EQ(closed(rule, {1, -2, 4}).seconds, 4);
  EXPECT_EQ(closed(rule, {1, 6, -2}).seconds, 5);
}

TEST(CloseRound, AllAreWaitedForAndTheLost) {
  EXPECT_EQ(closed({.keep = Keep::kAll, .wanted = 3}, {1, 6, 4}).seconds, 6);
  EXPECT_EQ(closed({.keep = Keep::kAll, .wanted = 3}, {1, -9, 4}).seconds, 9);
  EXPECT_EQ(closed({.keep = Keep::kAll, .wanted = 3, .wait_lost = false}, {1, -9, 4}).seconds, 4);
  EXPECT_EQ(closed({.keep = Keep::kAll, .wanted = 3}, {}).seconds, 0);
}

// Time goes on where nobody comes: until the last loss is known.
TEST(CloseRound, NobodyComes) {
  EXPECT_EQ(closed({.keep = Keep::kAll, .wanted = 2, .wait_lost = false}, {-3, -5}).seconds, 5);
  EXPECT_EQ(
      closed({.keep = Keep::kDeadline, .wanted = 2, .deadline = micros(4), .wait_lost = false},
             {-3, -5})
          .seconds,
      4);
}

// 0.55 of 100 is a little more than 55 in double precision.
TEST(CloseRound, AQuorumIsCountedInClients) {
  std::vector<double> seconds(55, 1);
  const ClosingRule rule{.keep = Keep::kAll, .wanted = 100, .quorum = 0.55};
  EXPECT_TRUE(closed(rule, seconds).counts);
  seconds.pop_back();
  EXPECT_FALSE(closed(rule, seconds).counts);
}

// Below the quorum time passes, and nobody counts; on it they do.
TEST(CloseRound, WithoutAQuorumNobodyCounts) {
  ClosingRule rule{.keep = Keep::kDeadline, .wanted = 5, .deadline = micros(5), .quorum = 0.8};
  const Closed enough = closed(rule, {1, 2, 3, 4, 9});
  EXPECT_TRUE(enough.counts);
  EXPECT_THAT(enough.kept, ElementsAre(0, 1, 2, 3));
  const Closed few = closed(rule, {1, 2, 3, 8, 9});
  EXPECT_FALSE(few.counts);
  EXPECT_TRUE(few.kept.empty());
  EXPECT_EQ(few.seconds, 5);
  EXPECT_THAT(few.not_needed, ElementsAre(0, 1, 2));
  EXPECT_THAT(few.late, ElementsAre(3, 4));
}

std::vector<Micros> durations_of(const std::vector<double>& seconds) {
  std::vector<Micros> durations;
  for (const double time : seconds) durations.push_back(micros(time));
  return durations;
}

// Through for the time: 1/2, 2/3, 3/4, 4/9, and of equal rates the first.
TEST(Deadlines, ThePeakIsWhereMostAreThroughForTheTime) {
  EXPECT_EQ(peak_of(durations_of({2, 3, 4, 9})), micros(4));
  EXPECT_EQ(peak_of(durations_of({2, 4, 6, 60})), micros(2));
  EXPECT_EQ(peak_of(durations_of({5, 5, 5, 6})), micros(6));
  EXPECT_EQ(peak_of({}), 0);
}

TEST(Deadlines, FourInFiveAreThrough) {
  EXPECT_EQ(four_fifths_of(durations_of({1, 2, 3, 4, 5})), micros(4));
  EXPECT_EQ(four_fifths_of(durations_of({1, 2, 3, 4, 5, 6})), micros(5));
  EXPECT_EQ(four_fifths_of(durations_of({7})), micros(7));
  EXPECT_EQ(four_fifths_of({}), 0);
}

// An experiment whose clients 0 to N - 1 hold `samples` each, for its clock alone.
Experiment timed(const std::string& lines, int64_t clients, int64_t samples) {
  Problem problem = example_problem();
  Experiment e = experiment_of(problem, "fedavg", lines, 1);
  std::vector<int64_t> offsets, indices(static_cast<size_t>(clients * samples), 0);
  for (int64_t k = 0; k <= clients; ++k) offsets.push_back(k * samples);
  e.partition = Partition(std::move(offsets), std::move(indices));
  e.devices =
      make<Devices>(split_name(e.job.get<std::string>("devices")).first, {e.job, "", clients});
  return e;
}

std::vector<int64_t> first_clients(int64_t n) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

Timetable round_of(const VirtualClock& clock, int64_t round, int64_t clients,
                   const Traffic& traffic = {}) {
  return clock.round(
      round, 0, first_clients(clients), [](int64_t) { return int64_t{0}; }, {}, traffic);
}

// 3 q c, with the real samples of short batches; each phase rounded once.
TEST(VirtualClock, ATaskTakesItsPhases) {
  const Experiment e = timed(
      "devices = uniform\ndevices.seconds-per-sample = 0.01\ndevices.down-bps = 8e6\n"
      "devices.up-bps = 2e6\nclock.latency = 0.5\nlocal.epochs = 2\nlocal.batch-size = 10",
      1, 25);
  const VirtualClock clock(e);
  const Timetable table = round_of(clock, 1, 1, {.down = 1000000, .up = 500000});
  const TimedTask& task = table.tasks.at(0);
  EXPECT_EQ(task.samples, 50);
  EXPECT_EQ(task.down, micros(1.5));
  EXPECT_EQ(task.compute, micros(3 * 50 * 0.01));
  EXPECT_EQ(task.up, micros(2.5));
  EXPECT_EQ(table.end, micros(1.5 + 1.5 + 2.5));
  // In steps: five batches of an epoch of 25 samples are 10, 10, 5, 10, 10.
  const Experiment steps = timed(
      "devices = uniform\ndevices.seconds-per-sample = 0.01\nlocal.steps = 5\n"
      "local.batch-size = 10",
      1, 25);
  EXPECT_EQ(round_of(VirtualClock(steps), 1, 1).tasks.at(0).samples, 45);
  // A model whose pass costs 2.5 of those that the seconds are for.
  const Experiment heavy = timed(
      "devices = uniform\ndevices.seconds-per-sample = 0.01\nclock.kappa = 2.5\n"
      "local.batch-size = 10",
      1, 25);
  EXPECT_EQ(round_of(VirtualClock(heavy), 1, 1).tasks.at(0).compute, micros(2.5 * 3 * 25 * 0.01));
}

// FedScale's own figures for its device 432802: 20 steps of 20, whatever the client holds, and
// 1,663,370 floats each way.
TEST(VirtualClock, CountsAsFedScaleDoes) {
  const std::string lines =
      "devices = uniform\ndevices.seconds-per-sample = 0.162\ndevices.down-bps = 5648109.619\n"
      "devices.up-bps = 5648109.619\nlocal.steps = 20\nlocal.batch-size = 20\nclock.rule = ";
  const Traffic traffic{.down = 4 * 1663370, .up = 4 * 1663370};
  for (const auto& [rule, holds, compute, transfer] :
       {std::tuple{"fedscale", 7, 194.4, 18.41}, std::tuple{"plain", 7, 0.486 * 140, 18.85},
        std::tuple{"plain", 400, 194.4, 18.85}}) {
    const Experiment e = timed(lines + rule, 1, holds);
    const Timetable table = round_of(VirtualClock(e), 1, 1, traffic);
    EXPECT_NEAR(seconds_of(table.tasks[0].compute), compute, 1e-6) << rule << " " << holds;
    EXPECT_NEAR(seconds_of(table.tasks[0].down + table.tasks[0].up), transfer, 0.005) << rule;
  }
}

// D 60, transfers of 18.848 s, steps of 5, 1.5, 2.5 and 50 s, 20 of them planned: less work once is
// no less the next time.
TEST(VirtualClock, ADeadlineLetsClientsDoAPart) {
  for (const auto& [step, most] :
       {std::pair{5.0, 8}, std::pair{1.5, 0}, std::pair{2.5, 16}, std::pair{50.0, -1}}) {
    const Experiment e = timed(
        message("devices = uniform\ndevices.seconds-per-sample = ", step / 3,
                "\ndevices.down-bps = 0\ndevices.up-bps = 0\nclock.latency = 9.424\nlocal.steps = "
                "20\nlocal.batch-size = 1\nclock.keep = deadline\nclock.deadline = 60\nclock.late "
                "= partial"),
        1, 1);
    const TimedTask task = round_of(VirtualClock(e), 1, 1).tasks.at(0);
    if (most < 0) {
      EXPECT_EQ(task.end, End::kLate) << step;
      continue;
    }
    EXPECT_EQ(task.limit, most) << step;
    EXPECT_EQ(task.end, End::kKept) << step;
    EXPECT_EQ(task.samples, most > 0 ? most : 20) << step;
  }
}

// An epoch takes client k so many seconds.
class EpochsTake final : public Devices {
 public:
  EpochsTake(const Job& job, std::vector<double> seconds)
      : Devices(Setup{job, "", 1}), seconds_(std::move(seconds)) {}
  int64_t rows() const override { return 1; }
  Device device(int64_t) const override { return {}; }
  Device in_task(const Device& device, int64_t, int64_t) const override { return device; }
  double extra_seconds(int64_t client, int64_t, int64_t epochs) const override {
    return static_cast<double>(epochs) * seconds_[static_cast<size_t>(client)];
  }

 private:
  std::vector<double> seconds_;
};

// TimelyFL: transfers take 2 s, an epoch 1, 2, 4, 6 and 30 s, so that three in five can do one in 6
// s. In that time the first one could do four of them, of three that there are, the second one two;
// the last two are late with one.
TEST(Deadlines, TimelyLetsEverybodyDoAsManyEpochsAsFit) {
  Experiment e = timed(
      "devices = uniform\nclock.latency = 1\nlocal.epochs = 3\nclock.keep = deadline\n"
      "clock.late = partial\nclock.deadline-rule = timely\nclock.deadline-share = 0.6",
      5, 1);
  e.devices = std::make_unique<EpochsTake>(e.job, std::vector<double>{1, 2, 4, 6, 30});
  const Timetable table = round_of(VirtualClock(e), 1, 5);
  EXPECT_EQ(seconds_of(table.end), 6);
  std::vector<int64_t> samples, limits;
  std::vector<End> ends;
  for (const TimedTask& task : table.tasks) {
    samples.push_back(task.samples);
    limits.push_back(task.limit);
    ends.push_back(task.end);
  }
  EXPECT_THAT(samples, ElementsAre(3, 2, 1, 1, 1));
  EXPECT_THAT(limits, ElementsAre(0, 2, 1, 1, 1));
  EXPECT_THAT(ends, ElementsAre(End::kKept, End::kKept, End::kKept, End::kLate, End::kLate));
}

TEST(Deadlines, AShareIsThrough) {
  EXPECT_EQ(share_of(durations_of({1, 2, 3, 4, 5}), 0.6), micros(3));
  EXPECT_EQ(share_of(durations_of({1, 2, 3, 4, 5}), 0.61), micros(4));
  EXPECT_EQ(share_of(durations_of({1, 2, 3}), 1e-9), micros(1));
  EXPECT_EQ(share_of(durations_of({1, 2, 3}), 1), micros(3));
  EXPECT_EQ(share_of({}, 0.5), 0);
}

// A cohort of four has a quarter of the server's link each: its deadline knows that, too. 1 Mbit
// each way at a quarter of 4 Mbit/s takes 2 s.
TEST(Deadlines, KnowTheServersLink) {
  for (const std::string rule :
       {"smartpc", "fedbalancer", "timely\nclock.late = partial\nlocal.epochs = 1"}) {
    const Experiment e = timed(
        "devices = uniform\ndevices.seconds-per-sample = 0\n"
        "clock.server-bps = 4e6\nclock.keep = deadline\n"
        "clock.deadline-rule = " +
            rule,
        4, 1);
    const Timetable table = round_of(VirtualClock(e), 1, 4, Traffic{.down = 125000, .up = 125000});
    EXPECT_EQ(seconds_of(table.end), 2) << rule;
    for (const TimedTask& task : table.tasks) EXPECT_EQ(task.end, End::kKept) << rule;
  }
}

// The expected length of a round, where the exact sum over order statistics of |N(0, 1)| says
// 1.8807, 1.1071, 2.7470 and 1.1886: within four standard errors of 4,000 rounds.
TEST(VirtualClock, OverCommitmentShortensRoundsAsOrderStatisticsSay) {
  struct Expected {
    int64_t cohort;
    double over, length;
  };
  for (const Expected& x : {Expected{10, 1, 1.8807}, Expected{10, 1.3, 1.1071},
                            Expected{100, 1, 2.7470}, Expected{100, 1.3, 1.1886}}) {
    Experiment e =
        timed(message("devices = halfnormal\nclock.keep = fastest\nclock.over-commit = ", x.over),
              200, 1);
    e.job.set("cohort", std::to_string(x.cohort));
    const VirtualClock clock(e);
    const int64_t drawn = clock.drawn(x.cohort);
    EXPECT_EQ(drawn, std::llround(x.over * static_cast<double>(x.cohort)));
    constexpr int64_t kRounds = 4000;
    double sum = 0, squares = 0;
    for (int64_t round = 1; round <= kRounds; ++round) {
      const double length = seconds_of(round_of(clock, round, drawn).end);
      sum += length;
      squares += length * length;
    }
    const double mean = sum / kRounds;
    const double error = std::sqrt((squares / kRounds - mean * mean) / kRounds);
    EXPECT_NEAR(mean, x.length, 4 * error) << x.cohort << " of " << drawn;
    EXPECT_LT(error, 0.02);
  }
}

// Who is not needed among equals is a matter of chance, not of the id.
TEST(VirtualClock, OfEqualDevicesNobodyIsPreferred) {
  Experiment e = timed("devices = uniform\nclock.keep = fastest\nclock.over-commit = 2", 4, 1);
  e.job.set("cohort", "2");
  const VirtualClock clock(e);
  std::vector<int64_t> kept(4);
  constexpr int64_t kRounds = 4000;
  for (int64_t round = 1; round <= kRounds; ++round) {
    for (const TimedTask& task : round_of(clock, round, 4).tasks)
      kept[static_cast<size_t>(task.client)] += task.end == End::kKept ? 1 : 0;
  }
  // Hypergeometric: half of the rounds each, deviation sqrt(R) / 2.
  for (const int64_t count : kept)
    EXPECT_NEAR(static_cast<double>(count), kRounds / 2.0, 4 * std::sqrt(kRounds) / 2);
}

// The same answers whatever was asked before, and others for another seed.
TEST(VirtualClock, IsAFunctionOfTheJob) {
  const std::string lines = "devices = flash\n";
  const Experiment e = timed(lines, 50, 30);
  const VirtualClock a(e), b(e);
  const auto times = [](const Timetable& table) {
    std::vector<Micros> all;
    for (const TimedTask& task : table.tasks) all.push_back(task.finish);
    return all;
  };
  const Traffic traffic{.down = 800000, .up = 800000};
  const auto first = times(round_of(a, 3, 50, traffic));
  round_of(b, 7, 50, traffic);
  EXPECT_EQ(times(round_of(b, 3, 50, traffic)), first);
  EXPECT_NE(times(round_of(b, 4, 50, traffic)), first);
  const Experiment other = timed(lines + "seed = 1", 50, 30);
  EXPECT_NE(times(round_of(VirtualClock(other), 3, 50, traffic)), first);
}

// What a sampler plans with is charged, to the microsecond; FedScale and FLASH draw anew.
TEST(VirtualClock, ChargesWhatWasPlanned) {
  constexpr int64_t kClients = 20;
  for (const char* lines :
       {"devices = lognormal", "devices = lognormal\ndevices.jitter = 0.5", "devices = flash"}) {
    const Experiment e = timed(lines, kClients, 30);
    const VirtualClock clock(e);
    const Traffic traffic{.down = 800000, .up = 800000};
    std::vector<Micros> planned;
    for (int64_t client = 0; client < kClients; ++client)
      planned.push_back(clock.planned(3, client, traffic).duration());
    const Timetable table = round_of(clock, 3, kClients, traffic);
    for (int64_t client = 0; client < kClients; ++client) {
      EXPECT_EQ(table.task_of(client)->duration(), planned[static_cast<size_t>(client)])
          << lines << ", client " << client;
    }
  }
}

// Shares of the classes, and the networks' medians, spreads and correlation, within four standard
// errors.
TEST(Devices, FlashHasItsPopulation) {
  constexpr int64_t kDevices = 40000;
  const Experiment e = timed("devices = flash", kDevices, 1);
  std::vector<double> share(3), down, up;
  for (int64_t row = 0; row < kDevices; ++row) {
    const Device device = e.devices->device(row);
    share[static_cast<size_t>(device.kind)] += 1.0 / kDevices;
    down.push_back(std::log(device.down_bps));
    up.push_back(std::log(device.up_bps));
    const double batch[] = {1.642, 0.588, 0.179};
    EXPECT_NEAR(device.seconds_per_sample * 30, batch[device.kind], 1e-12);
  }
  const double expected[] = {0.5315, 0.4640, 0.0045};
  for (size_t i = 0; i < 3; ++i)
    EXPECT_NEAR(share[i], expected[i],
                1e-4 + 4 * std::sqrt(expected[i] * (1 - expected[i]) / kDevices));
  const auto mean = [](const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  };
  const auto covariance = [&](const std::vector<double>& x, const std::vector<double>& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean(x)) * (y[i] - mean(y));
    return sum / static_cast<double>(x.size());
  };
  const double root = std::sqrt(static_cast<double>(kDevices));
  std::vector<double> head_down(down.begin(), down.begin() + 4000),
      head_up(up.begin(), up.begin() + 4000);
  EXPECT_NEAR(mean(down), std::log(8 * 5172e3), 4 * 0.484 / root);
  EXPECT_NEAR(mean(up), std::log(8 * 3103e3), 4 * 0.70 / root);
  const double down_sd = std::sqrt(covariance(head_down, head_down)),
               up_sd = std::sqrt(covariance(head_up, head_up));
  const double head_root = std::sqrt(4000.0);
  EXPECT_NEAR(down_sd, 0.484, 4 * 0.484 / std::sqrt(2.0) / head_root);
  EXPECT_NEAR(up_sd, 0.70, 4 * 0.70 / std::sqrt(2.0) / head_root);
  EXPECT_NEAR(covariance(head_down, head_up) / (down_sd * up_sd), 0.63,
              4 * (1 - 0.63 * 0.63) / head_root);
}

TEST(Devices, SpreadGoesFromSlowestToFastest) {
  const Experiment e = timed("devices = spread\ndevices.seconds-per-sample = 2", 5, 1);
  for (int64_t row = 0; row < 5; ++row)
    EXPECT_NEAR(e.devices->device(row).seconds_per_sample, 2 * (1 - 0.2 * static_cast<double>(row)),
                1e-12);
}

// The median of LN(0, s) is 1 and the standard deviation of its logarithm s; jitter has mean 1.
TEST(Devices, LognormalOnesAndTheirJitter) {
  constexpr int64_t kDevices = 20000;
  const Experiment e = timed("devices = lognormal\ndevices.jitter = 0.5", kDevices, 1);
  double sum = 0, squares = 0, factors = 0;
  for (int64_t row = 0; row < kDevices; ++row) {
    const Device device = e.devices->device(row);
    const double z = std::log(device.seconds_per_sample / 0.0136);
    sum += z;
    squares += z * z;
    factors += e.devices->in_task(device, row, 1).seconds_per_sample / device.seconds_per_sample;
  }
  const double root = std::sqrt(static_cast<double>(kDevices));
  EXPECT_NEAR(sum / kDevices, 0, 4 * 0.6 / root);
  EXPECT_NEAR(std::sqrt(squares / kDevices), 0.6, 4 * 0.6 / std::sqrt(2.0) / root);
  EXPECT_NEAR(factors / kDevices, 1, 4 * std::sqrt(std::exp(0.25) - 1) / root);
}

// P(X > x) = 1/x for x from 1 to 60, and no more than 60.
TEST(Devices, ParetoSecondsOfAnEpoch) {
  constexpr int64_t kDevices = 20000;
  const Experiment e = timed("devices = pareto", kDevices, 1);
  int64_t above = 0;
  for (int64_t client = 0; client < kDevices; ++client) {
    const double seconds = e.devices->extra_seconds(client, 1, 1);
    EXPECT_GE(seconds, 1);
    EXPECT_LE(seconds, 60);
    EXPECT_EQ(seconds, e.devices->extra_seconds(client, 9, 1));
    EXPECT_DOUBLE_EQ(3 * seconds, e.devices->extra_seconds(client, 1, 3));
    above += seconds > 4 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(above) / kDevices, 0.25, 4 * std::sqrt(0.1875 / kDevices));
}

// The largest clients have the fastest devices; random is a permutation.
TEST(VirtualClock, AssignsDevices) {
  Experiment e = timed("devices = spread\ndevices.assign = speed-by-size", 4, 1);
  e.partition = Partition({0, 5, 6, 9, 11}, std::vector<int64_t>(11, 0));
  const VirtualClock clock(e);
  std::vector<double> seconds;
  for (int64_t client = 0; client < 4; ++client)
    seconds.push_back(clock.device_of(client).seconds_per_sample / 0.0136);
  EXPECT_NEAR(seconds[1], 1, 1e-12);  // of 1 sample: the slowest
  EXPECT_NEAR(seconds[3], 1 - 0.8 / 3, 1e-12);
  EXPECT_NEAR(seconds[2], 1 - 1.6 / 3, 1e-12);
  EXPECT_NEAR(seconds[0], 0.2, 1e-12);
  const Experiment random = timed("devices = spread\ndevices.assign = random", 30, 1);
  const VirtualClock shuffled(random);
  std::set<double> all;
  for (int64_t client = 0; client < 30; ++client)
    all.insert(shuffled.device_of(client).seconds_per_sample);
  EXPECT_EQ(all.size(), 30u);
  EXPECT_NE(shuffled.device_of(0).seconds_per_sample, 0.0136);
}

// On in [on, off), one interval each, seconds.
class Intervals final : public Availability {
 public:
  explicit Intervals(std::vector<std::pair<double, double>> on) : on_(std::move(on)) {}
  bool online(int64_t client, int64_t, Micros time) const override {
    return time >= on(client) && time < off(client);
  }
  Micros next_on(int64_t client, Micros time) const override {
    return time >= off(client) ? kNever : std::max(time, on(client));
  }
  Micros next_off(int64_t client, Micros time) const override {
    return online(client, 0, time) ? off(client) : time;
  }

 private:
  Micros on(int64_t client) const { return micros(on_[static_cast<size_t>(client)].first); }
  Micros off(int64_t client) const { return micros(on_[static_cast<size_t>(client)].second); }
  std::vector<std::pair<double, double>> on_;
};

TEST(VirtualClock, ARoundBeginsWhenEnoughAreThere) {
  Experiment e = timed("devices = uniform\nclock.min-online = 2", 3, 1);
  e.availability = std::make_unique<Intervals>(
      std::vector<std::pair<double, double>>{{0, 10}, {10, 30}, {20, 40}});
  const VirtualClock clock(e);
  // At 10 s the second one comes as the first one goes.
  EXPECT_EQ(clock.begin(0), micros(20));
  EXPECT_EQ(clock.begin(micros(25)), micros(25));
  EXPECT_THAT(error_of([&] { clock.begin(micros(30)); }),
              HasSubstr("has never 2 of the 3 clients that may train online at once after 30 s"));
}

// Oort's repository asks who is online at the round's number.
TEST(VirtualClock, ARoundIsDrawnFromWhoIsThereWhenItBegins) {
  Experiment e = timed("devices = uniform", 4, 1);
  e.availability = std::make_unique<Intervals>(
      std::vector<std::pair<double, double>>{{100, 200}, {300, 400}, {100, 200}, {100, 200}});
  Planner planner(e, 1);
  planner.charge({.down = 1000, .up = 1000});
  planner.next_unanswered(planning_memory(e));
  std::vector<int64_t> drawn;
  for (const TimedTask& task : planner.timetable().tasks) drawn.push_back(task.client);
  EXPECT_THAT(drawn, ElementsAre(0, 2, 3));
  EXPECT_EQ(planner.timetable().start, micros(100));
}

// A task of 10 s, for each rule of what an interruption does.
TEST(VirtualClock, WhoGoesOfflineIsLostOrPauses) {
  for (const auto& [rule, ends] :
       {std::pair<std::string, std::vector<double>>{"throughout", {10, -4, 10}},
        {"end", {10, -10, 10}},
        {"pause", {10, -10, 10}}}) {
    Experiment e = timed(
        "devices = uniform\ndevices.seconds-per-sample = 0\ndevices.down-bps = 0\n"
        "devices.up-bps = 0\nclock.latency = 5",
        3, 1);
    e.availability = std::make_unique<Intervals>(
        std::vector<std::pair<double, double>>{{0, 100}, {0, 4}, {0, 10.000001}});
    e.job.set("availability.interruption", rule);
    const Timetable table = round_of(VirtualClock(e), 1, 3);
    for (size_t k = 0; k < 3; ++k) {
      const TimedTask& task = table.tasks[k];
      EXPECT_EQ(task.lost, ends[k] < 0) << rule << " " << k;
      EXPECT_EQ(task.offline, ends[k] < 0) << rule << " " << k;
      EXPECT_NEAR(seconds_of(task.finish), std::abs(ends[k]), 2e-6) << rule << " " << k;
    }
  }
}

// Everybody is off from 4 s to 6 s.
class OffAWhile final : public Availability {
 public:
  bool online(int64_t, int64_t, Micros time) const override {
    return time < micros(4) || time >= micros(6);
  }
  Micros next_on(int64_t, Micros time) const override {
    return online(0, 0, time) ? time : micros(6);
  }
  Micros next_off(int64_t, Micros time) const override {
    return time < micros(4) ? micros(4) : online(0, 0, time) ? kNever : time;
  }
};

// Who is away in between is so although it is back at the end of its 10 s.
TEST(VirtualClock, WhoIsAwayInBetweenIsLostOrPauses) {
  for (const auto& [rule, lost, seconds] :
       {std::tuple{"throughout", true, 4}, {"end", false, 10}, {"pause", false, 12}}) {
    Experiment e = timed(
        "devices = uniform\ndevices.seconds-per-sample = 0\ndevices.down-bps = 0\n"
        "devices.up-bps = 0\nclock.latency = 5",
        1, 1);
    e.availability = std::make_unique<OffAWhile>();
    e.job.set("availability.interruption", rule);
    const TimedTask task = round_of(VirtualClock(e), 1, 1).tasks.at(0);
    EXPECT_EQ(task.lost, lost) << rule;
    EXPECT_EQ(task.finish, micros(seconds)) << rule;
  }
}

// Every population but `none` reads every key of the clock.
TEST(Devices, KeysOfTheClockAreRead) {
  for (const Option& option : engine_options()) {
    if (!option.name.starts_with("clock.") && option.name != "devices.assign" &&
        option.name != "availability.interruption")
      continue;
    EXPECT_EQ(option.read_by, "devices") << option.name;
    EXPECT_EQ(readers("devices", option.name).size() + 1, catalog()["devices"].size())
        << option.name;
  }
}

TEST(VirtualClock, RefusesWhatCannotBe) {
  const auto refused = [](const std::string& lines) {
    const Experiment e = timed(lines, 4, 1);
    return error_of([&] { const VirtualClock clock(e); });
  };
  EXPECT_THAT(refused("devices = uniform\nclock.over-commit = 1.3"),
              HasSubstr("clock.keep is all, so that all that are drawn count"));
  EXPECT_THAT(refused("devices = uniform\nclock.keep = deadline"),
              HasSubstr("clock.deadline is 0"));
  EXPECT_THAT(refused("devices = uniform\nclock.deadline = 5"), HasSubstr("clock.keep is all"));
  EXPECT_THAT(refused("devices = uniform\nclock.late = partial"),
              HasSubstr("clock.late is partial, but clock.deadline is 0"));
  EXPECT_THAT(refused("devices = uniform\nclock.keep = deadline\nclock.deadline-rule = timely"),
              HasSubstr("but clock.late is drop (choose partial)"));
  EXPECT_THAT(refused("devices = uniform\nclock.min-online = 5"), HasSubstr("must be at most 4"));
  EXPECT_THAT(refused("devices = uniform\navailability.probability = 0.5\nclock.min-online = 2"),
              HasSubstr("nobody comes by waiting"));
  EXPECT_THAT(refused("devices = pareto\ndevices.assign = random"), HasSubstr("are all alike"));
  EXPECT_ERROR(any_job("clock.deadline = 5"),
               "clock.deadline is set, but devices is none, which does not read it");
}

}  // namespace
}  // namespace fl_sim
