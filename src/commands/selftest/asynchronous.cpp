// Without rounds: fedbuff, fedasync, fedat.
#include "commands/selftest/asynchronous.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "engine/async_timetable.h"

namespace fl_sim::selftest {
namespace {

// Of each number of versions, 1, 2, ..., the weight.
Result weights(const Pulls& pulls, const std::vector<double>& expected) {
  std::vector<Result> results;
  for (size_t versions = 1; versions <= expected.size(); ++versions) {
    const double actual = weight_after(pulls, static_cast<int64_t>(versions));
    results.push_back(compare({actual}, {expected[versions - 1]}, 1e-7));  // weights are floats
    results.back().note = message("version ", versions);
  }
  return all_of(results);
}

Pulls with(const std::string& algorithm, const std::string& lines) {
  return {.algorithm = algorithm, .lines = lines};
}

class Fewest final : public Sampler {
 public:
  bool draws_anytime() const override { return true; }
  void init(State& memory, int64_t ids) const override {
    memory["fewest"] = torch::zeros({ids}, torch::kInt64);
  }
  void learn(State& memory, std::span<const ClientRecord> records) const override {
    for (const ClientRecord& record : records) memory.at("fewest")[record.client] += 1;
  }
  std::vector<Drawn> sample(const SampleRequest& request, Rng&) const override {
    std::vector<std::pair<int64_t, int64_t>> order;
    for (int64_t place = 0; place < request.candidates.size(); ++place) {
      const int64_t id = request.candidates.id(place);
      order.emplace_back(request.memory.at("fewest")[id].item<int64_t>(), id);
    }
    std::sort(order.begin(), order.end());
    std::vector<int64_t> ids;
    for (const auto& [count, id] : order) {
      if (std::ssize(ids) < request.cohort) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end());
    std::vector<Drawn> cohort;
    for (const int64_t id : ids) cohort.push_back({id});
    return cohort;
  }
};

}  // namespace

std::unique_ptr<Sampler> fewest_first() { return std::make_unique<Fewest>(); }

Experiment experiment_of(const Pulls& pulls, int64_t rounds) {
  Problem problem;
  problem.start = Vector(0.0, 1);
  problem.cohorts.emplace_back();
  for (size_t k = 0; k < pulls.targets.size(); ++k) {
    problem.clients.push_back({{.a = Vector(pulls.targets[k], 1), .curvature = Vector(1.0, 1)}});
    problem.cohorts[0].push_back(static_cast<int64_t>(k));
  }
  Experiment e =
      experiment_of(problem, pulls.algorithm,
                    message("devices = uniform\nlocal.lr = ", pulls.lr, "\n", pulls.lines), rounds);
  e.sampler = make<Sampler>("uniform", {e.job, e.partition.clients()});
  const std::vector<double> seconds = pulls.seconds;
  e.devices = std::make_unique<FixedDevices>(
      e.job, [seconds](int64_t client, int64_t) { return seconds[static_cast<size_t>(client)]; });
  return e;
}

double weight_after(const Pulls& pulls, int64_t rounds) {
  Experiment e = experiment_of(pulls, rounds);
  return run(e).weights[0];
}

namespace {

// Who arrives when is in tests/async_test.cpp. By the arrivals of durations 2, 3, 5 s and a buffer
// of two: w+ = w + 1/2 sum s (a - w_base) / 2.
FL_SELFTEST("fedbuff", "closed form", "seven versions of three clients, all updates alike", [] {
  return weights(with("fedbuff", "async.buffer = 2\nasync.staleness = constant"),
                 {.25, 1.25, 1.375, .9375, 1.28125, .9765625, 1.412109375});
});
FL_SELFTEST("fedbuff", "closed form", "seven versions, weighted by (1+t)^-1/2", [] {
  return weights(with("fedbuff", "async.buffer = 2"), {.25, .9571067812, 1.0454951288, .7727475644,
                                                       1.0271321953, .8105220811, 1.1334253069});
});
FL_SELFTEST("fedbuff", "closed form", "seven versions, by how stale clients' last updates were",
            [] {
              return weights(with("fedbuff", "async.buffer = 2\nasync.staleness = recent"),
                             {.25, .9571067812, 1.0617875983, .8316737049, 1.1029431672,
                              .9193143447, 1.1992159597});
            });
// Two places, each arrival a version: clients 0 1 0 2 1 0 from versions 0 0 2 1 3 5, since whoever
// has counted least is next. One that drew by what it knew at first would have client 0 at 2 s.
FL_SELFTEST("fedbuff", "closed form", "six versions, a sampler that learns what they were made of",
            [] {
              const std::vector<double> expected = {
                  0, .3535533906, .1767766953, 1.3314772337, 1.6225306243, .8112653121};
              std::vector<Result> results;
              for (size_t versions = 1; versions <= expected.size(); ++versions) {
                Experiment e = experiment_of(with("fedbuff",
                                                  "async.buffer = 1\n"
                                                  "async.concurrency = 2"),
                                             static_cast<int64_t>(versions));
                e.sampler = fewest_first();
                results.push_back(compare({run(e).weights[0]}, {expected[versions - 1]}, 1e-7));
              }
              return all_of(results);
            });
FL_SELFTEST(
    "fedbuff", "equals",
    "equal durations and as many clients as make a version: FedAvg, bit for bit", [] {
      Pulls pulls{.targets = {0, 1, 4, -2, 7}, .seconds = {1, 1, 1, 1, 1}};
      pulls.lines = "async.buffer = 3\nlocal.epochs = 2";
      Pulls rounds = pulls;
      rounds.algorithm = "fedavg";
      rounds.lines = "weighting = uniform\nlocal.epochs = 2";
      const auto result = [](const Pulls& of) {
        Experiment e = experiment_of(of, 6);
        e.job.set("cohort", "3");
        return Vector(run(e).weights[0], 1);
      };
      return all_of({compare(result(pulls), result(rounds), 0), differ(result(pulls), {0}, 0.01)});
    });
FL_SELFTEST("fedasync", "closed form", "eight versions, a share of 0.6 of each model", [] {
  return weights(with("fedasync", "fedasync.rho = 0\nasync.staleness = constant"),
                 {0, .3, .12, 1.248, .8892, .39168, .274176, .5271744});
});
FL_SELFTEST("fedasync", "closed form", "eight versions, 0.6 (1+t)^-1/2 of each model", [] {
  return weights(with("fedasync", "fedasync.rho = 0"),
                 {0, .2121320344, .1221320344, .6854924240, .6579783096, .4512018260, .3158412782,
                  .4896875680});
});
// Two steps of 1/2 with rho 1 on (y-4)^2/2 from 0: 2, then 2 - (2 - 4 + 2)/2 = 2; without it 3.
FL_SELFTEST("fedasync", "closed form", "the clients' proximal term", [] {
  Pulls pulls{.targets = {4}, .seconds = {1}, .algorithm = "fedasync"};
  std::vector<Result> results;
  for (const auto& [rho, w] : {std::pair{1, 2.0}, std::pair{0, 3.0}}) {
    pulls.lines = message("local.epochs = 2\nasync.mixing = 1\nfedasync.rho = ", rho);
    results.push_back(compare({weight_after(pulls, 1)}, {w}, 1e-9));
  }
  return all_of(results);
});
FL_SELFTEST("fedasync", "equals", "a share of 1, one client at a time: SGD over clients in turn",
            [] {
              const Pulls pulls =
                  with("fedasync", "fedasync.rho = 0\nasync.mixing = 1\nasync.concurrency = 1");
              constexpr int64_t kVersions = 9;
              const Experiment e = experiment_of(pulls, kVersions);
              const AsyncTimetable table(e, VirtualClock(e), {}, kVersions);
              std::vector<double> expected;
              double w = 0;
              for (int64_t version = 1; version <= kVersions; ++version) {
                const int64_t dispatch = table.version(version).due.at(0);
                w += 0.5 *
                     (pulls.targets[static_cast<size_t>(table.task(dispatch).time.client)] - w);
                expected.push_back(w);
              }
              return weights(pulls, expected);
            });
// Durations 2, 3, 5 s; of three that start the first two make a version. Client 2 is late in every
// second one, the only late one there, so that it is the farthest: (1 - 0.35) / 2 + 0.35 (1 -
// e^-1 / 10). Arrivals by hand: 0 1 | 2 late, 0 1 | 0 1 | 2 late, 0 1.
FL_SELFTEST("refl-saa", "closed form", "four rounds of three clients, one of them late", [] {
  std::vector<Result> results;
  const std::vector<double> expected = {0.25, 0.8413504815, 0.6706752408, 0.9993728749};
  for (int64_t rounds = 1; rounds <= std::ssize(expected); ++rounds) {
    Experiment e =
        experiment_of(with("refl-saa", "clock.over-commit = 1.5\nclock.keep = fastest"), rounds);
    e.job.set("cohort", "2");
    results.push_back(compare({static_cast<double>(run(e).weights[0])},
                              {expected[static_cast<size_t>(rounds - 1)]}, 1e-7));
    results.back().note = message("round ", rounds);
  }
  return all_of(results);
});

FL_SELFTEST("refl-saa", "equals", "nobody is late: FedAvg with uniform weights", [] {
  const auto result = [](const std::string& algorithm) {
    Experiment e = experiment_of(with(algorithm, "weighting = uniform\nlocal.epochs = 2"), 6);
    e.job.set("cohort", "3");
    return Vector(run(e).weights[0], 1);
  };
  const Vector saa = result("refl-saa");
  return all_of({compare(saa, result("fedavg"), 1e-6), differ(saa, {0}, 0.01)});
});

// Three tiers of two clients: 1 and 5, which take 1.2 s together, 3 and 0 (2.5 s), 4 and 2 (6 s).
// Their rounds end at 1.2, 2.4, 2.5 (the second tier's), 3.6, 4.8, 5 (the second one's), 6 (the
// third one's), 6, 7.2 and 7.5 s (the second one's).
Pulls in_tiers(const std::string& lines) {
  return {.targets = {4, 0, -3, 2, 7, 1},
          .seconds = {2.5, 1, 6, 2, 5, 1.2},
          .algorithm = "fedat",
          .lines = "tiers.number = 3\n" + lines};
}
FL_SELFTEST("fedat", "closed form", "ten versions of three tiers of two clients", [] {
  return weights(in_tiers("fedat.mu = 0"),
                 {0, 0, .5, .375, .3, .5833333333, 1.1339285714, 1.1125, 1.1451388889, 1.218125});
});
FL_SELFTEST("fedat", "closed form", "the same with the clients' proximal term", [] {
  return weights(
      in_tiers("fedat.mu = 0.4\nlocal.epochs = 2"),
      {0, 0, .65, .4875, .39, .7258333333, 1.4358035714, 1.4145625, 1.4416774306, 1.5232221875});
});
FL_SELFTEST("fedat", "closed form", "the same where tiers count when they have ended a round", [] {
  return weights(in_tiers("fedat.mu = 0\nfedat.start = trained"),
                 {.25, .375, 1.125, 1.234375, 1.3734375, 1.6640625, 1.2845982143, 1.2577148438,
                  1.2226508247, 1.3874951172});
});
FL_SELFTEST("fedat", "equals", "a single tier, mu 0: FedAvg, bit for bit", [] {
  const auto result = [](const std::string& algorithm, const std::string& lines) {
    Pulls pulls = in_tiers("");
    pulls.algorithm = algorithm;
    pulls.lines = lines + "local.epochs = 2";
    Experiment e = experiment_of(pulls, 6);
    e.job.set("cohort", "3");
    return Vector(run(e).weights[0], 1);
  };
  const Vector tier = result("fedat", "tiers.number = 1\nfedat.mu = 0\n");
  return all_of({compare(tier, result("fedavg", ""), 0), differ(tier, {0}, 0.01)});
});

}  // namespace
}  // namespace fl_sim::selftest
