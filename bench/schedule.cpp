// How well a round's clients can be shared out among 64 to 1,024 hosts: the engine's own
// make_groups, TimeModel and deal on simulated clients, without training anything.
//
//   cmake --build build --target bench_schedule
//   build/bench/bench_schedule CSV [RESULTS.h5]
//
// Clients hold samples by a heavy-tailed law and take (start + step * steps) * noise seconds on a
// host of speed 1. start, step and noise are those that a run of the cnn on Fashion-MNIST measured,
// or those of RESULTS.h5. Each policy runs kRounds rounds of fresh cohorts; the first kLearning do
// not count. Writes every case to CSV and prints the table of bench/README.md.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <queue>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/rng.h"
#include "engine/schedule.h"
#include "engine/time_model.h"

namespace {

using namespace fl_sim;

constexpr int64_t kRounds = 8, kLearning = 4, kBatch = 10;

// What a client takes: of the cnn, batches of 10, on one core.
struct Times {
  double start = 0.003, step = 0.0122;  // seconds
  std::vector<double> noise;            // factors to draw from; empty: lognormal
  double sigma = 0.1;

  double draw(int64_t steps, Rng& rng) const {
    const double factor = noise.empty() ? std::exp(sigma * rng.normal())
                                        : noise[static_cast<size_t>(rng.below(std::ssize(noise)))];
    return (start + step * static_cast<double>(steps)) * factor;
  }
};

// The line through the records of a run, and how they scatter about it. The first round warms up.
Times times_of(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  const auto round = file.read_integers("/clients/round"),
             steps = file.read_integers("/clients/steps");
  const auto seconds = file.read_doubles("/clients/seconds");
  std::vector<ClientRecord> records;
  for (size_t i = 0; i < round.size(); ++i) {
    if (round[i] == 1) continue;
    records.emplace_back().steps = steps[i];
    records.back().seconds = seconds[i];
  }
  FL_CHECK(!records.empty(), path, " has one round only (at least two are needed)");
  TimeModel model({0});
  model.learn(records);
  Times times{.start = model.seconds(0), .step = model.seconds(1) - model.seconds(0), .noise = {}};
  for (const ClientRecord& record : records)
    times.noise.push_back(record.seconds / model.seconds(record.steps));
  return times;
}

// Samples of a client.
struct Law {
  const char* name;
  double (*samples)(Rng& rng);
};
const Law kLaws[] = {{"lognormal(60, 1)", [](Rng& rng) { return 60 * std::exp(rng.normal()); }},
                     {"Pareto(20, 1.5)", [](Rng& rng) {
                        return std::min(1e5, 20 * std::pow(1 - rng.uniform(), -1 / 1.5));
                      }}};

// Broadcast of 4 P bytes and reduction of 8 P bytes along binomial trees of all ranks: log2 K times
// latency, transfer, and for the reduction an addition.
double communication(int64_t ranks) {
  constexpr double kParameters = 1.66e6, kLatency = 2e-6, kBandwidth = 10e9, kAddition = 8e9;
  const double depth = std::ceil(std::log2(static_cast<double>(ranks)));
  return depth * (2 * kLatency + 12 * kParameters / kBandwidth + 8 * kParameters / kAddition);
}

// A cohort's clients: steps, and seconds on a host of speed 1.
struct Cohort {
  std::vector<int64_t> ids, steps;
  std::vector<double> seconds;
  double work = 0, longest = 0;
};

Cohort draw_cohort(int64_t clients, const Law& law, const Times& times, int64_t round) {
  Rng rng(1, "check", round);
  Cohort cohort;
  for (int64_t id = 0; id < clients; ++id) {
    cohort.ids.push_back(id);
    cohort.steps.push_back(static_cast<int64_t>(std::ceil(law.samples(rng) / kBatch)));
    cohort.seconds.push_back(times.draw(cohort.steps.back(), rng));
    cohort.work += cohort.seconds.back();
    cohort.longest = std::max(cohort.longest, cohort.seconds.back());
  }
  return cohort;
}

enum class Policy { kSteps, kLearnt, kKnown, kRandom, kQueue };
const std::map<Policy, const char*> kNames = {{Policy::kSteps, "steps"},
                                              {Policy::kLearnt, "learnt"},
                                              {Policy::kKnown, "known"},
                                              {Policy::kRandom, "random"},
                                              {Policy::kQueue, "queue"}};

struct Played {
  double end = 0;   // seconds until the last host is through
  double plan = 0;  // seconds that planning took here
};

// Clients in the cohort's order, each to the host that is free first: what a queue on the server
// does, if asking it cost nothing.
double queue_end(const Cohort& cohort, const std::vector<HostSpeed>& hosts) {
  using Free = std::pair<double, size_t>;
  std::priority_queue<Free, std::vector<Free>, std::greater<>> free;
  for (size_t i = 0; i < hosts.size(); ++i) free.emplace(0, i);
  double last = 0;
  for (const double seconds : cohort.seconds) {
    auto [time, host] = free.top();
    free.pop();
    time += seconds / hosts[host].speed;
    last = std::max(last, time);
    free.emplace(time, host);
  }
  return last;
}

Played play(Policy policy, const Cohort& cohort, const std::vector<HostSpeed>& hosts,
            TimeModel& model) {
  if (policy == Policy::kQueue) return {.end = queue_end(cohort, hosts)};
  const auto start = std::chrono::steady_clock::now();
  const auto steps = [&](int64_t id) { return cohort.steps[static_cast<size_t>(id)]; };
  std::vector<PlannedGroup> groups = make_groups(cohort.ids, 1, steps);
  for (PlannedGroup& group : groups) {
    const int64_t id = group.ids[0];
    group.seconds = policy == Policy::kKnown    ? cohort.seconds[static_cast<size_t>(id)]
                    : policy == Policy::kLearnt ? model.seconds(steps(id))
                                                : static_cast<double>(steps(id));
  }
  std::vector<HostSpeed> believed = hosts;
  if (policy == Policy::kLearnt) believed = model.hosts();
  if (policy == Policy::kSteps) {
    for (HostSpeed& host : believed) host.speed = 1;
  }
  deal(groups, believed, nullptr, policy == Policy::kRandom);
  Played result;
  result.plan = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::vector<double> busy(hosts.size());
  std::vector<ClientRecord> records;
  for (const PlannedGroup& group : groups) {
    const auto host = static_cast<size_t>(group.rank - 1);
    const int64_t id = group.ids[0];
    const double seconds = cohort.seconds[static_cast<size_t>(id)] / hosts[host].speed;
    busy[host] += seconds;
    ClientRecord& record = records.emplace_back();
    record.client = id;
    record.rank = group.rank;
    record.steps = steps(id);
    record.seconds = seconds;
  }
  result.end = *std::max_element(busy.begin(), busy.end());
  if (policy == Policy::kLearnt) model.learn(records);
  return result;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

struct Case {
  std::map<Policy, double> ratio, efficiency;  // means over rounds
  double bound = 0, longest = 0, plan = 0;
};

// One law, one cohort, one number of hosts; in a mixed machine every fourth has half the speed.
Case study(const Law& law, int64_t clients, int64_t hosts, bool mixed, const Times& times,
           std::ofstream& csv) {
  std::vector<HostSpeed> machine;
  std::vector<int64_t> ranks;
  double speed = 0;
  for (int64_t rank = 1; rank <= hosts; ++rank) {
    machine.push_back({.rank = rank, .speed = mixed && rank % 4 == 0 ? 0.5 : 1});
    ranks.push_back(rank);
    speed += machine.back().speed;
  }
  Case result;
  for (const auto& [policy, name] : kNames) {
    TimeModel model(ranks);
    std::vector<double> bounds, longest, ratios, efficiencies, plans;
    for (int64_t round = 0; round < kRounds; ++round) {
      const Cohort cohort = draw_cohort(clients, law, times, round);
      const Played played = play(policy, cohort, machine, model);
      if (round < kLearning) continue;
      // Nobody can be sooner: all hosts busy all the time, or the longest client on the fastest.
      bounds.push_back(std::max(cohort.work / speed, cohort.longest));
      longest.push_back(cohort.longest / (cohort.work / speed));
      ratios.push_back(played.end / bounds.back());
      const double seconds = played.end + communication(hosts + 1) + played.plan;
      efficiencies.push_back(cohort.work / (speed * seconds));
      plans.push_back(played.plan);
    }
    result.ratio[policy] = mean(ratios);
    result.efficiency[policy] = mean(efficiencies);
    result.bound = mean(bounds);
    result.longest = mean(longest);
    if (policy == Policy::kLearnt) result.plan = mean(plans);
    csv << '"' << law.name << "\"," << clients << "," << hosts << "," << (mixed ? "mixed" : "equal")
        << "," << name << "," << result.longest << "," << result.bound << "," << mean(ratios) << ","
        << mean(efficiencies) << "," << mean(plans) << "\n";
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_schedule CSV [RESULTS.h5]\n");
    return 2;
  }
  try {
    const Times times = argc > 2 ? times_of(argv[2]) : Times{};
    std::ofstream csv(argv[1]);
    csv << "law,clients,hosts,speeds,policy,longest,bound_seconds,ratio,efficiency,plan_seconds\n";
    std::printf("A client takes %.4g s and %.4g s a step.\n\n", times.start, times.step);
    std::printf(
        "| samples | cohort | hosts | longest / share | bound, s | random | queue | steps | learnt "
        "| "
        "mixed: random | queue | steps | learnt | efficiency | planning, ms |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for (const Law& law : kLaws) {
      for (const int64_t clients : {100, 1000, 10'000, 100'000}) {
        for (const int64_t hosts : {64, 256, 1024}) {
          const Case equal = study(law, clients, hosts, false, times, csv);
          const Case mixed = study(law, clients, hosts, true, times, csv);
          std::printf("| %s | %lld | %lld | %.2f | %.3g |", law.name,
                      static_cast<long long>(clients), static_cast<long long>(hosts), equal.longest,
                      equal.bound);
          for (const Case* machine : {&equal, &mixed}) {
            for (const Policy policy :
                 {Policy::kRandom, Policy::kQueue, Policy::kSteps, Policy::kLearnt})
              std::printf(" %.2f |", machine->ratio.at(policy));
          }
          std::printf(" %.0f %% | %.1f |\n", 100 * equal.efficiency.at(Policy::kLearnt),
                      1e3 * equal.plan);
          std::fflush(stdout);
        }
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "bench_schedule: %s\n", error.what());
    return 1;
  }
}
