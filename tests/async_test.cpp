// Asynchronous runs: who starts from which version of the model, what an update weighs, and what
// comes of it, against event loops and closed forms in double precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <tuple>

#include "commands/selftest/asynchronous.h"
#include "engine/async_rounds.h"
#include "engine/async_timetable.h"
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

// By samples: client 1 has three of them, client 0 one. (1*0 + 3*4) / 4 of half of the way.
TEST(FedBuff, WeighsSamplesIfTheJobDoes) {
  Problem problem;
  problem.start = Vector(0.0, 1);
  problem.cohorts = {{0, 1}};
  problem.clients = {{{.a = Vector(0.0, 1), .curvature = Vector(1.0, 1)}}, {}};
  for (int i = 0; i < 3; ++i)
    problem.clients[1].push_back({.a = Vector(4.0, 1), .curvature = Vector(1.0, 1)});
  Experiment e = selftest::experiment_of(
      problem, "fedbuff",
      "devices = uniform\nlocal.lr = 0.5\nweighting = samples\nasync.buffer = 2", 1);
  e.sampler = make<Sampler>("uniform", {e.job, 2});
  e.devices = std::make_unique<FixedDevices>(e.job, [](int64_t, int64_t) { return 1.0; });
  EXPECT_NEAR(run(e).weights[0], 1.5, 1e-7);
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
