// How busy asynchronous runs keep how many hosts: the share of their time in which they train,
// where tasks of one version after the other are trained ahead, and messages take no time.
//
//   cmake --build build --target bench_lookahead && build/bench/bench_lookahead
//
// Tasks are equally long on the hosts (each client has as many samples) and half-normal in virtual
// time. Beside it min(1, S* / hosts), S* the tasks that could train at once.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "commands/selftest/asynchronous.h"
#include "engine/async_rounds.h"

namespace fl_sim {
namespace {

struct Kind {
  int64_t concurrency, buffer;
};

double efficiency(const Experiment& e, const VirtualClock& clock, int64_t hosts, double& parallel) {
  std::vector<int64_t> ranks;
  for (int64_t rank = 1; rank <= hosts; ++rank) ranks.push_back(rank);
  const TimeModel times(ranks);
  AsyncRounds rounds(e, clock, {});
  parallel = rounds.timetable().parallelism();
  double work = 0, time = 0;
  for (int64_t version = 1; version <= rounds.versions(); ++version) {
    RoundPlan plan{.kind = RoundPlan::Kind::kTrain, .round = version};
    rounds.plan(plan, times, false);
    std::map<int64_t, double> busy;
    for (const PlannedGroup& group : plan.groups) busy[group.rank] += group.seconds;
    double longest = 0;
    for (const auto& [rank, seconds] : busy) {
      work += seconds;
      longest = std::max(longest, seconds);
    }
    time += longest;
  }
  return work / (static_cast<double>(hosts) * time);
}

void run() {
  const std::vector<int64_t> all = {1, 2, 4, 8, 16, 64, 256, 1024};
  std::printf("| in flight | buffer | S* |");
  for (const int64_t hosts : all) std::printf(" %lld |", static_cast<long long>(hosts));
  std::printf("\n|---|---|---|");
  for (size_t i = 0; i < all.size(); ++i) std::printf("---|");
  std::printf("\n");
  for (const Kind& kind : {Kind{10, 1}, Kind{100, 1}, Kind{100, 10}, Kind{100, 100}, Kind{1000, 1},
                           Kind{1000, 10}, Kind{1000, 100}}) {
    selftest::Pulls pulls{.targets = selftest::Vector(0.0, static_cast<size_t>(kind.concurrency))};
    pulls.seconds.assign(static_cast<size_t>(kind.concurrency), 1);
    pulls.lines = "async.buffer = " + std::to_string(kind.buffer);
    const int64_t versions = std::max<int64_t>(20, 20 * kind.concurrency / kind.buffer);
    Experiment e = selftest::experiment_of(pulls, versions);
    e.devices = std::make_unique<selftest::FixedDevices>(e.job, [](int64_t client, int64_t task) {
      return std::abs(Rng(7, "half-normal", task, client).normal());
    });
    const VirtualClock clock(e);
    std::string line;
    double parallel = 0;
    for (const int64_t hosts : all) {
      const double share = efficiency(e, clock, hosts, parallel);
      char text[64];
      std::snprintf(text, sizeof text, " %.2f (%.2f) |", share,
                    std::min(1.0, parallel / static_cast<double>(hosts)));
      line += text;
    }
    std::printf("| %lld | %lld | %.1f |%s\n", static_cast<long long>(kind.concurrency),
                static_cast<long long>(kind.buffer), parallel, line.c_str());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace fl_sim

int main() {
  fl_sim::run();
  return 0;
}
