// Asynchronous runs: who starts from which version of the model, what an update weighs, and what
// comes of it, against event loops and closed forms in double precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <tuple>

#include "commands/selftest/asynchronous.h"
#include "engine/async_rounds.h"
#include "engine/async_timetable.h"
#include "learning/tiers.h"
#include "learning/wrapper.h"
#include "quadratics.h"

namespace fl_sim {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;
using testing::HasSubstr;
AsyncTimetable timetable(const Experiment& e) {
  return AsyncTimetable(e, VirtualClock(e), {}, e.job.get<int64_t>("rounds"));
}

// (client, base, staleness) of what a version is made of.
std::vector<std::tuple<int64_t, int64_t, int64_t>> made_of(const AsyncTimetable& table,
                                                           int64_t version) {
  std::vector<std::tuple<int64_t, int64_t, int64_t>> all;
  for (const int64_t dispatch : table.version(version).due) {
    const AsyncTask& task = table.task(dispatch);
    all.emplace_back(task.time.client, task.base, task.staleness());
  }
  return all;
}

// Durations 2, 3, 5, a buffer of two, everybody starts again at once; by hand.
TEST(AsyncTimetable, WhoArrivesWhen) {
  const Experiment e = experiment_of({}, 7);
  const AsyncTimetable table = timetable(e);
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  const std::vector<std::pair<double, std::vector<Task>>> expected = {
      {3, {{0, 0, 0}, {1, 0, 0}}},  {5, {{0, 0, 1}, {2, 0, 1}}},  {6, {{1, 1, 1}, {0, 1, 1}}},
      {9, {{0, 3, 0}, {1, 3, 0}}},  {10, {{2, 2, 2}, {0, 3, 1}}}, {12, {{1, 4, 1}, {0, 5, 0}}},
      {15, {{0, 6, 0}, {2, 5, 1}}},
  };
  ASSERT_EQ(table.versions(), 7);
  for (int64_t v = 1; v <= 7; ++v) {
    EXPECT_EQ(seconds_of(table.version(v).at), expected[static_cast<size_t>(v - 1)].first) << v;
    EXPECT_EQ(made_of(table, v), expected[static_cast<size_t>(v - 1)].second) << v;
  }
}

TEST(Asynchrony, WeighsStaleness) {
  const auto weights = [](const AsyncOptions& o) {
    std::vector<double> s;
    for (const int64_t t : {0, 1, 3, 8}) s.push_back(staleness_weight(o, t));
    return s;
  };
  EXPECT_THAT(weights({.staleness = "constant"}), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(weights({.staleness = "polynomial", .a = 0.5}),
              ElementsAre(1, DoubleEq(1 / std::sqrt(2.0)), DoubleEq(0.5), DoubleEq(1 / 3.0)));
  EXPECT_THAT(
      weights({.staleness = "exponential"}),
      ElementsAre(1, DoubleEq(std::exp(-2.0)), DoubleEq(std::exp(-4.0)), DoubleEq(std::exp(-9.0))));
  EXPECT_THAT(weights({.staleness = "hinge", .a = 10, .b = 3}),
              ElementsAre(1, 1, 1, 1 / (10.0 * 5 + 1)));
}

// A reference of its own: FedBuff's server, one number, everybody starts again at once.
struct Reference {
  Vector targets;
  std::vector<double> seconds;
  double lr;
  size_t buffer;
  std::function<double(int64_t staleness)> s;

  double run(int64_t versions) const {
    using Event = std::tuple<double, int64_t, int64_t>;  // when, dispatch, client
    std::priority_queue<Event, std::vector<Event>, std::greater<>> queue;
    std::map<int64_t, std::pair<int64_t, double>> base;  // dispatch -> version, model
    double w = 0;
    int64_t version = 0, dispatches = 0;
    const auto start = [&](double now, int64_t client) {
      base[dispatches] = {version, w};
      queue.emplace(now + seconds[static_cast<size_t>(client)], dispatches++, client);
    };
    for (int64_t k = 0; k < std::ssize(seconds); ++k) start(0, k);
    std::vector<std::pair<int64_t, int64_t>> held;  // dispatch, client
    while (version < versions) {
      const double now = std::get<0>(queue.top());
      std::vector<int64_t> again;
      while (std::get<0>(queue.top()) == now && version < versions) {
        const auto [when, dispatch, client] = queue.top();
        queue.pop();
        again.push_back(client);
        held.emplace_back(dispatch, client);
        if (held.size() < buffer) continue;
        double sum = 0;
        for (const auto& [of, k] : held) {
          const auto& [since, from] = base.at(of);
          const double move = lr * (targets[static_cast<size_t>(k)] - from);
          sum += s(version - since) * move / static_cast<double>(buffer);
        }
        w += sum;
        ++version;
        held.clear();
        if (queue.empty()) break;
      }
      std::sort(again.begin(), again.end());
      for (const int64_t client : again) start(now, client);
    }
    return w;
  }
};

TEST(FedBuff, IsTheReferenceForManyVersions) {
  Reference reference{.targets = {0, 1, 4, -3},
                      .seconds = {1, 1.75, 2.5, 4.125},
                      .lr = 0.25,
                      .buffer = 3,
                      .s = [](int64_t t) { return 1 / std::sqrt(1.0 + static_cast<double>(t)); }};
  const Pulls s{.targets = reference.targets,
                .seconds = reference.seconds,
                .lines = "async.buffer = 3",
                .lr = 0.25};
  for (const int64_t versions : {1, 2, 5, 40, 200})
    EXPECT_NEAR(weight_after(s, versions), reference.run(versions), 1e-7) << versions;
  // Whatever trains when: one version in memory, or all.
  Pulls few = s;
  few.lines += "\nasync.keep-versions = 1";
  EXPECT_EQ(weight_after(few, 200), weight_after(s, 200));
}

// As the steps become small, clients count as often as they arrive: sum a_k/t_k over sum 1/t_k =
// 1.0967742 for durations t; with unbiased weights all the same: 5/3.
TEST(Asynchrony, IsBiasedToTheFastUnlessWeightsRepairIt) {
  Pulls s{.lines = "async.buffer = 2\nasync.staleness = constant", .lr = 0.01};
  constexpr int64_t kVersions =
      1550;  // 3,000 s: each client has come at a multiple of 2, 3 and 5 s
  EXPECT_NEAR(weight_after(s, kVersions), 1.0967742, 0.02);
  s.lines += "\nasync.weighting = unbiased";
  EXPECT_NEAR(weight_after(s, kVersions), 1.6666667, 0.03);
}

// A client's weights over a run come to p_k for every version, however stale its updates are.
TEST(Asynchrony, UnbiasedWeightsAreSharesOverShares) {
  for (const std::string staleness : {"constant", "polynomial"}) {
    Pulls s;
    s.lines += "\nasync.weighting = unbiased\nasync.staleness = " + staleness;
    const Experiment e = experiment_of(s, 100);
    const AsyncTimetable table = timetable(e);
    std::map<int64_t, double> sums;
    for (int64_t v = 1; v <= 100; ++v) {
      for (const int64_t dispatch : table.version(v).due)
        sums[table.task(dispatch).time.client] += table.task(dispatch).weight;
    }
    EXPECT_EQ(sums.size(), 3u);
    for (const auto& [client, sum] : sums) EXPECT_NEAR(sum, 100.0 / 3, 1e-9) << client;
  }
}

// Three clients of equal durations, a = (0, 1, 4), all of them in each version.
TEST(FedBuff, WithoutStalenessIsTheMean) {
  for (const auto& [versions, w] :
       {std::pair{1, 5 / 6.0}, std::pair{2, 5 / 4.0}, std::pair{3, 35 / 24.0}}) {
    EXPECT_NEAR(weight_after({.seconds = {1, 1, 1}, .lines = "async.buffer = 3"}, versions), w,
                1e-7);
  }
}

// Whole models of several clients would take back what others have learnt.
TEST(FedAsync, NeedsABufferOfOne) {
  const Experiment e = experiment_of({.algorithm = "fedasync", .lines = "async.buffer = 2"}, 2);
  EXPECT_THAT(error_of([&] { check_asynchrony(e); }), HasSubstr("but async.buffer is 2"));
}

// Counts the clients that it trains.
class Counting final : public Wrapper {
 public:
  explicit Counting(std::unique_ptr<Algorithm> algorithm) : Wrapper(std::move(algorithm)) {}
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    trained += group.size();
    return inner().train(group, global);
  }
  mutable int64_t trained = 0;
};

TEST(AsyncTimetable, DropsWhatIsTooOldAndDoesNotTrainIt) {
  Pulls s;
  s.lines = "async.buffer = 2\nasync.max-staleness = 0\nasync.staleness = constant";
  Experiment e = experiment_of(s, 8);
  const AsyncTimetable table = timetable(e);
  int64_t stale = 0;
  for (int64_t v = 1; v <= 8; ++v) {
    for (const int64_t dispatch : table.version(v).due)
      EXPECT_EQ(table.task(dispatch).staleness(), 0);
    for (const int64_t dispatch : table.version(v).missing) {
      EXPECT_GT(table.task(dispatch).staleness(), 0);
      ++stale;
    }
  }
  EXPECT_GT(stale, 0);
  auto counting = std::make_unique<Counting>(std::move(e.algorithm));
  const Counting* const count = counting.get();
  e.algorithm = std::move(counting);
  const Finished finished = run_recorded(e);
  EXPECT_EQ(count->trained, 8 * 2);
  int64_t counted = 0, of_rounds = 0;
  for (const ClientRecord& record : finished.clients)
    counted += record.is(ClientStatus::kStale) ? 1 : 0;
  for (const RoundRecord& round : finished.rounds) of_rounds += round.virtual_time.stale;
  EXPECT_EQ(counted, stale);
  EXPECT_EQ(of_rounds, stale);
}

// Plato's bound: nothing is made before those have arrived that would become too old, and nobody
// starts meanwhile. A bound of 0 is rounds.
TEST(AsyncTimetable, OrWaitsForIt) {
  for (const int64_t bound : {0, 1, 3}) {
    Pulls s{.targets = Vector(0.0, 9), .seconds = std::vector<double>(9, 1)};
    s.lines = message("async.buffer = 2\nasync.on-stale = wait\nasync.max-staleness = ", bound);
    constexpr int64_t kVersions = 200;
    Experiment e = experiment_of(s, kVersions);
    e.devices = std::make_unique<FixedDevices>(e.job, [](int64_t client, int64_t task) {
      return 0.1 + std::abs(Rng(3, "half-normal", task, client).normal());
    });
    const AsyncTimetable table = timetable(e);
    int64_t largest = 0, updates = 0;
    for (int64_t v = 1; v <= kVersions; ++v) {
      EXPECT_TRUE(table.version(v).missing.empty());
      updates += std::ssize(table.version(v).due);
      for (const int64_t dispatch : table.version(v).due)
        largest = std::max(largest, table.task(dispatch).staleness());
    }
    EXPECT_EQ(largest, bound);
    // The first to arrive goes on, since the buffer is not full yet; then all are waited for.
    EXPECT_EQ(updates == 10 * kVersions, bound == 0) << updates;
  }
}

// FedFix: a version every 4 s, of whatever has arrived.
TEST(AsyncTimetable, VersionsAtIntervals) {
  const Pulls s{.lines = "async.protocol = interval\nasync.interval = 4"};
  const Experiment e = experiment_of(s, 3);
  const AsyncTimetable table = timetable(e);
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  for (int64_t v = 1; v <= 3; ++v)
    EXPECT_EQ(seconds_of(table.version(v).at), 4.0 * static_cast<double>(v));
  // Who arrives at the instant counts; who starts then starts from it.
  EXPECT_THAT(made_of(table, 1), ElementsAre(Task{0, 0, 0}, Task{1, 0, 0}, Task{0, 0, 0}));
  EXPECT_THAT(made_of(table, 2),
              ElementsAre(Task{2, 0, 1}, Task{1, 0, 1}, Task{0, 1, 0}, Task{0, 1, 0}));
}

// Staleness is drawn from 0 to the bound, all alike; at first no more than there are versions.
TEST(AsyncTimetable, DrawsStaleness) {
  Pulls s;
  s.lines = "async.buffer = 1\nasync.source = drawn\nasync.max-staleness = 4";
  Experiment e = experiment_of(s, 4004);
  e.devices = make<Devices>("none", {e.job, "", 3});
  const AsyncTimetable table = timetable(e);
  std::vector<double> counts(5);
  for (int64_t v = 1; v <= 4004; ++v) {
    const AsyncTask& task = table.task(table.version(v).due.at(0));
    ASSERT_GE(task.base, 0);
    if (v > 4) ++counts[static_cast<size_t>(task.staleness())];
  }
  double chi = 0;
  for (const double count : counts) chi += (count - 800) * (count - 800) / 800;
  EXPECT_LT(chi, 18.5);  // 4 degrees of freedom: 0.999
}

// Updates per second of an asynchronous server over those of rounds with as many clients: the mean
// of the longest of C durations over the mean duration, for half-normal ones 2.357 and 3.443.
TEST(AsyncTimetable, ThroughputIsWhatOrderStatisticsSay) {
  for (const auto& [clients, expected] : {std::pair{10, 2.357}, std::pair{100, 3.443}}) {
    Pulls s{.targets = Vector(0.0, static_cast<size_t>(clients))};
    s.seconds.assign(static_cast<size_t>(clients), 1);
    s.lines = message("async.buffer = ", clients);
    constexpr int64_t kVersions = 2000;
    Experiment e = experiment_of(s, kVersions);
    const auto half_normal = [](int64_t client, int64_t task) {
      return std::abs(Rng(7, "half-normal", task, client).normal());
    };
    e.devices = std::make_unique<FixedDevices>(e.job, half_normal);
    const AsyncTimetable table = timetable(e);
    const double asynchronous =
        static_cast<double>(clients * kVersions) / seconds_of(table.version(kVersions).at);
    double sum = 0, squares = 0;
    for (int64_t round = 0; round < kVersions; ++round) {
      double longest = 0;
      for (int64_t k = 0; k < clients; ++k) longest = std::max(longest, half_normal(k, round));
      sum += longest;
      squares += longest * longest;
    }
    const double mean = sum / kVersions;
    const double synchronous = static_cast<double>(clients) / mean;
    const double error = std::sqrt((squares / kVersions - mean * mean) / kVersions) / mean;
    EXPECT_NEAR(asynchronous / synchronous, expected, expected * (4 * error + 0.01)) << clients;
  }
}

// Everybody, as one finds who asks each time.
class AlwaysThere final : public Availability {
 public:
  bool online(int64_t, int64_t, Micros) const override { return true; }
};

// A client that is drawn again while it is away would have two tasks at once.
void expect_nobody_in_flight_twice(bool asked) {
  Pulls s{.targets = Vector(0.0, 6), .seconds = {1, 2, 3, 4, 5, 6}};
  s.lines = "async.buffer = 2\nasync.concurrency = 4";
  Experiment e = experiment_of(s, 60);
  if (asked) e.availability = std::make_unique<AlwaysThere>();
  const AsyncTimetable table = timetable(e);
  std::map<int64_t, std::vector<std::pair<Micros, Micros>>> of;
  for (int64_t dispatch = 0; dispatch < table.tasks(); ++dispatch) {
    const AsyncTask& task = table.task(dispatch);
    of[task.time.client].emplace_back(task.start, task.time.finish);
    EXPECT_EQ(task.time.finish - task.start,
              micros(s.seconds[static_cast<size_t>(task.time.client)]));
  }
  EXPECT_EQ(of.size(), 6u);
  for (const auto& [client, tasks] : of) {
    for (size_t i = 1; i < tasks.size(); ++i)
      EXPECT_GE(tasks[i].first, tasks[i - 1].second) << client;
  }
}

TEST(AsyncTimetable, NobodyIsInFlightTwice) {
  expect_nobody_in_flight_twice(/*asked=*/false);
  expect_nobody_in_flight_twice(/*asked=*/true);
}

// The same client twice in one version: two updates, each from its own base.
TEST(FedBuff, AFastClientMayCountTwice) {
  const Pulls s{.targets = {2, 8},
                .seconds = {1, 100},
                .lines = "async.buffer = 2\nasync.staleness = constant"};
  // 0 -> 1 twice from 0: (1 + 1) / 2.
  EXPECT_NEAR(weight_after(s, 1), 1, 1e-10);
  Experiment e = experiment_of(s, 1);
  const Finished finished = run_recorded(e);
  ASSERT_EQ(finished.clients.size(), 2u);
  EXPECT_EQ(finished.clients[0].client, 0);
  EXPECT_EQ(finished.clients[1].client, 0);
  EXPECT_NE(finished.clients[0].dispatch, finished.clients[1].dispatch);
}

// Who diverges keeps its place in the buffer and is left out with its weight; who is lost is not in
// it. Equal durations, a = (0, 1, 4), half of the way: 2 of two updates' mean, 0 and 4.
TEST(FedBuff, LeavesOutWhoDiverged) {
  const Pulls s{.seconds = {1, 1, 1}, .lines = "async.buffer = 3\ninject = nan-update@1:1"};
  EXPECT_NEAR(weight_after(s, 1), 1, 1e-7);
  Experiment e = experiment_of(s, 1);
  const Finished finished = run_recorded(e);
  EXPECT_EQ(finished.rounds.at(0).diverged, 1);
  EXPECT_EQ(finished.rounds[0].cohort, 3);
  // Client 1 never answers: of its first task nothing comes, and others fill the buffer.
  const Pulls lost{.seconds = {1, 1.5, 1}, .lines = "async.buffer = 3\ninject = client-crash@1:1"};
  Experiment other = experiment_of(lost, 1);
  const Finished without = run_recorded(other);
  EXPECT_EQ(without.rounds.at(0).lost, 1);
  EXPECT_EQ(without.rounds[0].cohort, 4);
  // At 1 s 0 and 2, at 2 s 0 again, all of them from w = 0: (0 + 2 + 0) / 3.
  EXPECT_NEAR(without.weights[0], 2 / 3.0, 1e-7);
}

// One version of both: client 1 has three samples at 4, client 0 one at 0.
double weight_of_unequal(const std::string& algorithm, const std::string& lines) {
  Problem problem;
  problem.start = Vector(0.0, 1);
  problem.cohorts = {{0, 1}};
  problem.clients = {{{.a = Vector(0.0, 1), .curvature = Vector(1.0, 1)}}, {}};
  for (int i = 0; i < 3; ++i)
    problem.clients[1].push_back({.a = Vector(4.0, 1), .curvature = Vector(1.0, 1)});
  Experiment e =
      selftest::experiment_of(problem, algorithm, "devices = uniform\nlocal.lr = 0.5\n" + lines, 1);
  e.sampler = make<Sampler>("uniform", {e.job, 2});
  e.devices = std::make_unique<FixedDevices>(e.job, [](int64_t, int64_t) { return 1.0; });
  return run(e).weights[0];
}

// (1*0 + 3*4) / 4 of half of the way.
TEST(FedBuff, WeighsSamplesIfTheJobDoes) {
  EXPECT_NEAR(weight_of_unequal("fedbuff", "weighting = samples\nasync.buffer = 2"), 1.5, 1e-7);
}

// Nobody arrives in an interval: the model stays, and time goes on. The client's second task starts
// at 2.5 s, before the version of 3 s has its first one: from 0, too.
TEST(AsyncTimetable, EmptyVersionsChangeNothing) {
  const Pulls s{
      .targets = {4},
      .seconds = {2.5},
      .lines = "async.protocol = interval\nasync.interval = 1\nasync.staleness = constant"};
  for (const auto& [versions, w] : {std::pair{2, 0.0}, std::pair{3, 2.0}, std::pair{5, 4.0}})
    EXPECT_NEAR(weight_after(s, versions), w, 1e-7) << versions;
}

// With two hosts, both are busy before each version that needs training: of 8 clients in flight
// and versions of one update one is due, and another is trained ahead.
TEST(AsyncRounds, TrainAheadWhereARankWouldWait) {
  Pulls s{.targets = Vector(0.0, 8), .seconds = {1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5}};
  s.lines = "async.buffer = 1";
  const Experiment e = experiment_of(s, 40);
  const VirtualClock clock(e);
  for (const int64_t hosts : {1, 2, 4}) {
    std::vector<int64_t> ranks;
    for (int64_t rank = 1; rank <= hosts; ++rank) ranks.push_back(rank);
    const TimeModel times(ranks);
    AsyncRounds rounds(e, clock, {});
    std::set<int64_t> trained;
    int64_t passes = 0, tasks = 0;
    for (int64_t version = 1; version <= 40; ++version) {
      RoundPlan plan{.kind = RoundPlan::Kind::kTrain, .round = version};
      rounds.plan(plan, times, false);
      for (const PlannedGroup& group : plan.groups) {
        for (const int64_t task : group.tasks) EXPECT_TRUE(trained.insert(task).second);
        EXPECT_LT(group.base, version);
        tasks += std::ssize(group.tasks);
      }
      passes += plan.groups.empty() ? 0 : 1;
      for (const int64_t due : rounds.timetable().version(version).due)
        EXPECT_TRUE(trained.contains(due)) << version;
    }
    EXPECT_NEAR(static_cast<double>(tasks) / static_cast<double>(passes),
                std::min(static_cast<double>(hosts), rounds.timetable().parallelism()),
                0.15 * static_cast<double>(hosts))
        << hosts;
  }
}

TEST(Tiers, AreMadeBySpeed) {
  const auto seconds = [](int64_t client) { return client == 4 ? 0.5 : client == 9 ? 7.0 : 2.0; };
  // 4 first, then in the order of ids those that are equal, then 9; of five, two are in the second
  // of two tiers.
  EXPECT_THAT(tiers_by_time({1, 3, 4, 7, 9}, 2, seconds),
              ElementsAre(-1, 0, -1, 0, 0, -1, -1, 1, -1, 1));
  EXPECT_THAT(tiers_by_time({0, 1, 2}, 1, seconds), ElementsAre(0, 0, 0));
  EXPECT_TRUE(tiers_by_time({}, 3, seconds).empty());
}

TEST(FedAt, WeighsTiersByTheRoundsOfThoseOppositeToThem) {
  EXPECT_THAT(fedat_weights({6, 3, 1}), ElementsAre(DoubleEq(.1), DoubleEq(.3), DoubleEq(.6)));
  EXPECT_THAT(fedat_weights({2, 0, 0, 0}), ElementsAre(0, 0, 0, 1));
  EXPECT_THAT(fedat_weights({5}), ElementsAre(1));
  // Or as if there were only tiers that have ended a round.
  EXPECT_THAT(fedat_weights({2, 0, 0, 0}, true), ElementsAre(1, 0, 0, 0));
  EXPECT_THAT(fedat_weights({6, 0, 3, 1}, true),
              ElementsAre(DoubleEq(.1), 0, DoubleEq(.3), DoubleEq(.6)));
}

Pulls three_tiers(const std::string& lines) {
  return {.targets = {4, 0, -3, 2, 7, 1},
          .seconds = {2.5, 1, 6, 2, 5, 1.2},
          .algorithm = "fedat",
          .lines = "tiers.number = 3\nfedat.mu = 0\n" + lines};
}

// By hand: tiers {1, 5}, {3, 0} and {4, 2}, whose rounds take 1.2, 2.5 and 6 s.
TEST(AsyncTimetable, EachTierHasRoundsOfItsOwn) {
  const Experiment e = experiment_of(three_tiers(""), 8);
  const AsyncTimetable table = timetable(e);
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  struct Expected {
    double at;
    int64_t tier;
    std::vector<Task> made_of;
  };
  const std::vector<Expected> expected = {
      {1.2, 0, {{1, 0, 0}, {5, 0, 0}}}, {2.4, 0, {{1, 1, 0}, {5, 1, 0}}},
      {2.5, 1, {{3, 0, 2}, {0, 0, 2}}}, {3.6, 0, {{1, 2, 1}, {5, 2, 1}}},
      {4.8, 0, {{1, 4, 0}, {5, 4, 0}}}, {5.0, 1, {{3, 3, 2}, {0, 3, 2}}},
      {6.0, 2, {{4, 0, 6}, {2, 0, 6}}}, {6.0, 0, {{1, 5, 2}, {5, 5, 2}}}};
  for (int64_t v = 1; v <= 8; ++v) {
    const Expected& here = expected[static_cast<size_t>(v - 1)];
    EXPECT_EQ(table.version(v).at, micros(here.at)) << v;
    EXPECT_EQ(table.version(v).part, here.tier) << v;
    EXPECT_EQ(made_of(table, v), here.made_of) << v;
    EXPECT_EQ(table.version(v).online, 6) << v;
  }
}

// Of five places the first two tiers have two each and the last one has one.
TEST(AsyncTimetable, TiersShareTheClientsAtWork) {
  const Experiment e = experiment_of(three_tiers("async.concurrency = 5"), 60);
  const AsyncTimetable table = timetable(e);
  std::set<int64_t> of_the_last;
  for (int64_t v = 1; v <= 60; ++v) {
    const AsyncVersion& version = table.version(v);
    EXPECT_EQ(version.due.size(), version.part == 2 ? 1u : 2u) << v;
    for (const int64_t dispatch : version.due) {
      if (version.part == 2) of_the_last.insert(table.task(dispatch).time.client);
    }
  }
  EXPECT_THAT(of_the_last, ElementsAre(2, 4));
}

// Client 5 never answers its first task, so that at 1.2 s the first tier's model is client 1's
// alone; nor do 4 and 2, of whom no version is made, and who start again.
TEST(AsyncTimetable, TiersGoOnWithoutWhoIsLost) {
  const Experiment e =
      experiment_of(three_tiers("inject = client-crash@1:5,client-crash@1:4,client-crash@1:2"), 30);
  const AsyncTimetable table = timetable(e);
  EXPECT_EQ(table.version(1).due.size(), 1u);
  EXPECT_EQ(table.version(1).missing.size(), 1u);
  EXPECT_EQ(table.version(1).at, micros(1.2));
  std::optional<Micros> first;
  for (int64_t v = 1; v <= 30; ++v) {
    EXPECT_FALSE(table.version(v).due.empty()) << v;
    if (table.version(v).part == 2 && !first) first = table.version(v).at;
  }
  EXPECT_EQ(first, micros(12));
}

// A reference of its own over those rounds, in double precision: (tier, version that it starts
// from), clients, and w = sum (T_(M+1-j) / T) w_j.
TEST(FedAt, IsTheReference) {
  const Pulls s = three_tiers("");
  const std::vector<std::vector<size_t>> tiers = {{1, 5}, {3, 0}, {4, 2}};
  const std::vector<std::pair<size_t, size_t>> rounds = {{0, 0}, {0, 1}, {1, 0}, {0, 2}, {0, 4},
                                                         {1, 3}, {2, 0}, {0, 5}, {0, 8}, {1, 6}};
  std::vector<double> w = {0}, models(3, 0), counts(3, 0);
  for (const auto& [tier, base] : rounds) {
    models[tier] = 0;
    for (const size_t k : tiers[tier])
      models[tier] += (w[base] + s.lr * (s.targets[k] - w[base])) / 2;
    ++counts[tier];
    const double all = counts[0] + counts[1] + counts[2];
    w.push_back((counts[2] * models[0] + counts[1] * models[1] + counts[0] * models[2]) / all);
    EXPECT_NEAR(weight_after(s, std::ssize(w) - 1), w.back(), 1e-6) << w.size() - 1;
  }
}

// n_k / N_c: (1*0 + 3*4) / 4 of half of the way.
TEST(FedAt, WeighsSamplesInATier) {
  EXPECT_NEAR(weight_of_unequal("fedat", "tiers.number = 1\nfedat.mu = 0"), 1.5, 1e-7);
}

TEST(AsyncTimetable, EveryTierNeedsAClientAtWork) {
  const Experiment e = experiment_of(three_tiers("async.concurrency = 2"), 2);
  EXPECT_THAT(error_of([&] { timetable(e); }),
              HasSubstr("tiers.number is 3, but 2 clients are at work at a time"));
  const Experiment many = experiment_of({.algorithm = "fedat", .lines = "tiers.number = 4"}, 2);
  EXPECT_THAT(error_of([&] { timetable(many); }),
              HasSubstr("tiers.number is 4 (must be at most 3"));
}

Experiment of_fewest(int64_t rounds) {
  Experiment e = experiment_of({.lines = "async.buffer = 1\nasync.concurrency = 2"}, rounds);
  e.sampler = fewest_first();
  return e;
}

// Durations 2, 3, 5, two places, each arrival a version, and whoever has counted least is next; by
// hand. A sampler that is told nothing, or late, would draw client 0 at 2 s.
TEST(AsyncTimetable, GrowsWithWhatTheSamplerLearns) {
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  const std::vector<std::pair<double, Task>> expected = {{2, {0, 0, 0}}, {3, {1, 0, 1}},
                                                         {5, {0, 2, 0}}, {7, {2, 1, 2}},
                                                         {8, {1, 3, 1}}, {10, {0, 5, 0}}};
  Experiment e = of_fewest(6);
  const Finished finished = run_recorded(e);
  ASSERT_EQ(finished.clients.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const ClientRecord& record = finished.clients[i];
    EXPECT_EQ(Task(record.client, record.base_version, record.staleness), expected[i].second) << i;
    EXPECT_EQ(record.finish_seconds, expected[i].first);
  }
}

// What was drawn is enough to find a run again, and to go on as it would.
TEST(AsyncTimetable, FollowsARunThatHasGrown) {
  const Experiment e = of_fewest(9);
  const VirtualClock clock(e);
  State memory;
  e.sampler->init(memory, 3);
  const auto grow = [&](AsyncTimetable& table, State& with, int64_t to) {
    while (table.versions() < to) {
      ASSERT_TRUE(table.goes_to(table.versions() + 1));
      table.grow_to(table.versions() + 1, with);
      std::vector<ClientRecord> records;
      for (const int64_t due : table.version(table.versions()).due)
        records.emplace_back().client = table.task(due).time.client;
      e.sampler->learn(with, records);
    }
  };
  AsyncTimetable whole(e, clock, {}, 9);
  EXPECT_TRUE(whole.grows());
  EXPECT_EQ(whole.versions(), 0);
  grow(whole, memory, 4);
  State then;
  for (const auto& [name, tensor] : memory) then[name] = tensor.clone();
  AsyncTimetable other(e, clock, {}, 9);
  other.follow(4, whole.drawn());
  EXPECT_EQ(other.versions(), 4);
  grow(whole, memory, 9);
  grow(other, then, 9);
  EXPECT_FALSE(other.goes_to(10));
  for (int64_t v = 1; v <= 9; ++v) {
    EXPECT_EQ(made_of(other, v), made_of(whole, v)) << v;
    EXPECT_EQ(other.needed_until(v), whole.needed_until(v)) << v;
  }
  EXPECT_EQ(other.drawn(), whole.drawn());
  const auto refused = [&](std::vector<int64_t> drawn) {
    AsyncTimetable table(e, clock, {}, 9);
    return error_of([&] { table.follow(4, std::move(drawn)); });
  };
  EXPECT_THAT(refused({2, 0, 3}), HasSubstr("cannot be drawn then"));
  EXPECT_THAT(refused({3, 0, 1, 2}), HasSubstr("cannot be drawn then"));
  EXPECT_THAT(refused({2, 0}), HasSubstr("cannot be drawn then"));
  EXPECT_THAT(refused({2, 0, 1, 1, 1}), HasSubstr("cannot be drawn then"));  // who is at work
  EXPECT_THAT(refused({2, 0, 1}), HasSubstr("up to version 1 of the model only"));
}

// Nothing is trained ahead: who counts in a later version is not sure yet.
TEST(AsyncRounds, TrainNothingAheadWhileATimetableGrows) {
  const Experiment e = of_fewest(6);
  const VirtualClock clock(e);
  AsyncRounds rounds(e, clock, {});
  State memory;
  e.sampler->init(memory, 3);
  for (int64_t version = 1; version <= 6; ++version) {
    rounds.grow_to(version, memory);
    RoundPlan plan{.kind = RoundPlan::Kind::kTrain, .round = version};
    rounds.plan(plan, TimeModel({1, 2, 3}), false);
    std::vector<int64_t> trained;
    for (const PlannedGroup& group : plan.groups)
      trained.insert(trained.end(), group.tasks.begin(), group.tasks.end());
    EXPECT_EQ(trained, rounds.timetable().version(version).due) << version;
    // Whoever is at work keeps its model where it may be wanted.
    for (const PlannedGroup& group : plan.groups)
      EXPECT_EQ(std::count(plan.bases.begin(), plan.bases.end(), group.base), 1);
    EXPECT_TRUE(plan.sends.empty()) << version;
  }
}

// (1 + t)^-1, t the mean staleness of the client's last five updates, by hand from WhoArrivesWhen:
// client 0 has 0 1 1 0 1 0 0, client 1 has 0 1 0 1, client 2 has 1 2 1.
TEST(Asynchrony, WeighsRecentStaleness) {
  const Experiment e =
      experiment_of({.lines = "async.buffer = 2\nasync.staleness = recent\nasync.a = 1"}, 7);
  const AsyncTimetable table = timetable(e);
  std::map<int64_t, std::vector<double>> t;
  for (int64_t v = 1; v <= 7; ++v) {
    for (const int64_t due : table.version(v).due)
      t[table.task(due).time.client].push_back(1 / table.task(due).weight - 1);
  }
  const auto near = [](std::vector<double> values) {
    return testing::Pointwise(testing::DoubleNear(1e-12), values);
  };
  EXPECT_THAT(t[0], near({0, 1 / 2.0, 2 / 3.0, 1 / 2.0, 3 / 5.0, 3 / 5.0, 2 / 5.0}));
  EXPECT_THAT(t[1], near({0, 1 / 2.0, 1 / 3.0, 1 / 2.0}));
  EXPECT_THAT(t[2], near({1, 3 / 2.0, 4 / 3.0}));
}

// Rounds of two of three clients that take 2, 3 and 5 s: who is late joins the next round.
Experiment late_rounds(const std::string& lines, int64_t rounds) {
  Pulls s;
  s.lines =
      "async.protocol = stale-rounds\nasync.normalise = weights\nclock.over-commit = 1.5\n" + lines;
  Experiment e = experiment_of(s, rounds);
  e.job.set("cohort", "2");
  return e;
}

TEST(StaleRounds, LateUpdatesJoinTheRoundInWhichTheyArrive) {
  const Experiment e = late_rounds("clock.keep = fastest", 4);
  const AsyncTimetable table = timetable(e);
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  EXPECT_EQ(seconds_of(table.version(1).at), 3);
  EXPECT_THAT(made_of(table, 1), ElementsAre(Task{0, 0, 0}, Task{1, 0, 0}));
  // Client 2 is still at work when round 2 begins, and is not drawn again.
  EXPECT_EQ(seconds_of(table.version(2).at), 6);
  EXPECT_THAT(made_of(table, 2), ElementsAre(Task{2, 0, 1}, Task{0, 1, 0}, Task{1, 1, 0}));
  EXPECT_EQ(seconds_of(table.version(3).at), 9);
  EXPECT_THAT(made_of(table, 3), ElementsAre(Task{0, 2, 0}, Task{1, 2, 0}));
  EXPECT_EQ(seconds_of(table.version(4).at), 12);
  EXPECT_THAT(made_of(table, 4), ElementsAre(Task{2, 2, 1}, Task{0, 3, 0}, Task{1, 3, 0}));
}

// At a deadline of 2.5 s only client 0 has come; at one of 1 s nobody, and the round goes on until
// somebody has.
TEST(StaleRounds, EndAtTheDeadline) {
  using Task = std::tuple<int64_t, int64_t, int64_t>;
  const Experiment e = late_rounds("clock.keep = deadline\nclock.deadline = 2.5", 3);
  const AsyncTimetable table = timetable(e);
  EXPECT_EQ(seconds_of(table.version(1).at), 2.5);
  EXPECT_THAT(made_of(table, 1), ElementsAre(Task{0, 0, 0}));
  // 0 starts at 2.5 s and is through before the others of round 1 are.
  EXPECT_EQ(seconds_of(table.version(2).at), 4.5);
  EXPECT_THAT(made_of(table, 2), ElementsAre(Task{1, 0, 1}, Task{0, 1, 0}));
  EXPECT_EQ(seconds_of(table.version(3).at), 7);
  EXPECT_THAT(made_of(table, 3), ElementsAre(Task{2, 0, 2}, Task{0, 2, 0}));
  const Experiment hasty = late_rounds("clock.keep = deadline\nclock.deadline = 1", 1);
  const AsyncTimetable other = timetable(hasty);
  EXPECT_EQ(seconds_of(other.version(1).at), 2);
  EXPECT_THAT(made_of(other, 1), ElementsAre(Task{0, 0, 0}));
}

// Who is lost is waited for until that is known; where all are, others start from the same version.
TEST(StaleRounds, GoOnWhereClientsAreLost) {
  const Experiment e =
      late_rounds("clock.keep = fastest\ninject = client-crash@1:0, client-crash@1:1", 1);
  const AsyncTimetable table = timetable(e);
  EXPECT_EQ(seconds_of(table.version(1).at), 5);
  EXPECT_THAT(made_of(table, 1), ElementsAre(std::tuple<int64_t, int64_t, int64_t>{2, 0, 0}));
  EXPECT_EQ(table.version(1).missing.size(), 2u);
  const Experiment many = late_rounds("clock.keep = fastest\navailability.dropout = 0.7", 100);
  const AsyncTimetable other = timetable(many);
  ASSERT_EQ(other.versions(), 100);
  size_t most = 0;  // lost before a version: more than one round has clients
  for (int64_t v = 1; v <= 100; ++v) {
    int64_t fresh = 0;
    for (const auto& [client, base, staleness] : made_of(other, v)) fresh += staleness == 0 ? 1 : 0;
    EXPECT_GE(fresh, 1) << v;
    EXPECT_LE(fresh, 2) << v;
    most = std::max(most, other.version(v).missing.size());
  }
  EXPECT_GT(most, 3u);
}

TEST(StaleRounds, WeighByAge) {
  const auto after = [](const std::string& lines, int64_t rounds) {
    Experiment e = late_rounds("clock.keep = fastest\n" + lines, rounds);
    return static_cast<double>(run(e).weights[0]);
  };
  // Round 2: updates 2 (late), -1/8 and 3/8 to w = 1/4.
  const auto expected = [](double s) { return 0.25 + (2 * s + 0.25) / (2 + s); };
  EXPECT_NEAR(after("async.staleness = polynomial\nasync.a = 1", 2), expected(0.5), 1e-7);
  EXPECT_NEAR(after("async.staleness = constant", 2), expected(1), 1e-7);
  EXPECT_NEAR(after("async.staleness = exponential", 2), expected(std::exp(-2.0)), 1e-7);
  EXPECT_NEAR(after("async.staleness = exponential\nasync.max-staleness = 0", 2), 0.375, 1e-7);
}

// Against REFL's formula with the vectors themselves: two fresh updates, three late ones.
TEST(StaleAware, WeighsByAgeAndDistance) {
  Experiment e = late_rounds(
      "clock.keep = fastest\nasync.staleness = constant\naggregator = "
      "stale-aware\nstale-aware.beta = 0.4\nstale-aware.scale = 2",
      1);
  const torch::Tensor rows =
      torch::tensor({{1., 0., 0.}, {2., 2., 0.}, {0., 1., 0.5}, {-1., 0., 3.}, {0.5, 0.5, 0.25}},
                    torch::kFloat64);
  const torch::Tensor staleness = torch::tensor({0., 1., 0., 3., 2.}, torch::kFloat64);
  const torch::Tensor p = torch::tensor({0.1, 0.2, 0.3, 0.15, 0.25}, torch::kFloat64);
  const torch::Tensor s = rows[0] + rows[2];
  std::vector<double> moved(5);
  for (const int64_t k : {1, 3, 4}) {
    const torch::Tensor by = (rows[k] + s) / 3 - s / 2;
    moved[static_cast<size_t>(k)] = (by.dot(by) / (s / 2).dot(s / 2)).item<double>();
  }
  const double most = *std::max_element(moved.begin(), moved.end());
  EXPECT_EQ(moved[4], 0);  // the mean itself
  const torch::Tensor chosen = e.aggregator->choose_stale(rows.mm(rows.t()), p, staleness);
  ASSERT_EQ(chosen.sizes(), (std::vector<int64_t>{1, 5}));
  for (int64_t k = 0; k < 5; ++k) {
    const double age = staleness[k].item<double>();
    const double own =
        age == 0
            ? 1
            : 0.6 / (age + 1) + 0.4 * (1 - std::exp(-moved[static_cast<size_t>(k)] / most) / 2);
    EXPECT_NEAR(chosen[0][k].item<double>(), own * p[k].item<double>(), 1e-12) << k;
  }
  // Nobody fresh: age alone.
  const torch::Tensor alone = e.aggregator->choose_stale(torch::ones({1, 1}, torch::kFloat64),
                                                         torch::ones({1}, torch::kFloat64),
                                                         torch::ones({1}, torch::kFloat64));
  EXPECT_NEAR(alone[0][0].item<double>(), 0.3 + 0.4 / 2, 1e-12);
}

// Candidates without those in flight, at every place.
TEST(Candidates, WithoutSome) {
  const Candidates some(10, {0, 3, 4, 9});
  ASSERT_EQ(some.size(), 6);
  std::vector<int64_t> ids;
  for (int64_t place = 0; place < some.size(); ++place) ids.push_back(some.id(place));
  EXPECT_THAT(ids, ElementsAre(1, 2, 5, 6, 7, 8));
  for (int64_t id = -1; id < 12; ++id)
    EXPECT_EQ(some.contains(id), std::count(ids.begin(), ids.end(), id) == 1) << id;
  EXPECT_FALSE(some.everybody());
  EXPECT_TRUE(Candidates(3, {}).everybody());
}

}  // namespace
}  // namespace fl_sim
