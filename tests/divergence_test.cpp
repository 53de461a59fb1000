// Clients whose update is not finite or too large: they are left out with their weight, keep their
// state, and are counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "quadratics.h"

namespace fl_sim {
namespace {

using testing::HasSubstr;

// An algorithm in which the updates of (round, client) are ruined: their delta, or their further
// vectors only.
class Ruined final : public Algorithm {
 public:
  Ruined(std::unique_ptr<Algorithm> algorithm, std::set<std::pair<int64_t, int64_t>> who,
         bool delta, double value)
      : algorithm_(std::move(algorithm)), who_(std::move(who)), delta_(delta), value_(value) {}

  Needs needs() const override { return algorithm_->needs(); }
  void init(ServerState& server) const override { algorithm_->init(server); }
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    Update update = algorithm_->train(group, global);
    for (int64_t i = 0; i < group.size(); ++i) {
      if (!who_.contains({global.round, group.ids[static_cast<size_t>(i)]})) continue;
      if (delta_) update.delta[i][0] = value_;
      for (auto& [name, tensor] : update.extra) tensor[i][0] = value_;
    }
    return update;
  }
  void aggregate(ServerState& server, const Sum& sum) const override {
    algorithm_->aggregate(server, sum);
  }

 private:
  std::unique_ptr<Algorithm> algorithm_;
  std::set<std::pair<int64_t, int64_t>> who_;
  bool delta_;
  double value_;
};

// The example problem, with everyone in each round and some updates refused.
Problem with_refused(std::set<std::pair<int64_t, int64_t>> refused) {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2}};
  problem.refused = std::move(refused);
  return problem;
}

struct Ruin {
  bool delta = true;
  double value = std::nan("");
};

Experiment ruined_experiment(const Problem& problem, const std::string& algorithm,
                             const std::string& lines, int64_t rounds, Ruin ruin = {}) {
  Experiment e = experiment_of(
      problem, message("algorithm = ", algorithm, "\nrounds = ", rounds, "\n", lines));
  e.algorithm =
      std::make_unique<Ruined>(std::move(e.algorithm), problem.refused, ruin.delta, ruin.value);
  return e;
}

Vector ruined_run(const Problem& problem, const std::string& algorithm, const std::string& lines,
                  int64_t rounds, Ruin ruin = {}) {
  Experiment e = ruined_experiment(problem, algorithm, lines, rounds, ruin);
  return Vector(run(e).weights[std::slice(0, problem.start.size(), 1)]);
}

// The others' weights are renormalised: client 2's share of one half is gone.
TEST(Divergence, TheClientIsLeftOutWithItsWeight) {
  const Problem problem = with_refused({{1, 2}});
  const Local local;
  const Vector expected = fedavg(problem, local, 2);
  for (const double value : {std::nan(""), HUGE_VAL, -2048.0}) {
    EXPECT_LT(distance(ruined_run(problem, "fedavg", local.lines(), 2, {.value = value}), expected),
              kTolerance)
        << value;
  }
  EXPECT_LT(distance(ruined_run(problem, "fedavg", local.lines() + "group-size = 3", 2), expected),
            kTolerance);
  EXPECT_GT(distance(expected, fedavg(with_refused({}), local, 2)), 0.01);
}

// A client that is refused in round 2 goes into round 3 with the control that it had before round
// 2, and the server's control has not heard of the refused one.
TEST(Divergence, TheClientsStateStaysAsItWas) {
  const Problem problem = with_refused({{2, 1}});
  const Local local;
  const Vector expected = scaffold(problem, local, 4, 1, true);
  EXPECT_LT(distance(ruined_run(problem, "scaffold", local.lines(), 4), expected), kTolerance);
  EXPECT_GT(distance(expected, scaffold(with_refused({}), local, 4, 1, true)), 0.001);
}

// All vectors of a client are tested before any is added: a bad control refuses the good delta.
TEST(Divergence, ABadFurtherVectorRefusesTheDeltaToo) {
  const Problem problem = with_refused({{1, 0}, {2, 1}});
  const Local local;
  EXPECT_LT(distance(ruined_run(problem, "scaffold", local.lines(), 3, {.delta = false}),
                     scaffold(problem, local, 3, 1, true)),
            kTolerance);
}

// A round without survivors changes nothing at all: model, control and the clients' states.
TEST(Divergence, ARoundWithoutSurvivorsLeavesEverything) {
  const Local local;
  const Problem first = with_refused({{1, 0}, {1, 1}, {1, 2}});
  EXPECT_EQ(distance(ruined_run(first, "scaffold", local.lines(), 1), first.start), 0);
  // Two rounds, the first of which is lost, are one round; a lost second one leaves the first.
  const Vector one = scaffold(with_refused({}), local, 1, 1, true);
  EXPECT_LT(distance(ruined_run(first, "scaffold", local.lines(), 2), one), kTolerance);
  const Problem second = with_refused({{2, 0}, {2, 1}, {2, 2}});
  EXPECT_LT(distance(ruined_run(second, "scaffold", local.lines(), 2), one), kTolerance);
}

// Adam's bias correction counts updates of the moments: a lost round is none.
TEST(Divergence, BiasCorrectionDoesNotCountALostRound) {
  const Local local;
  const Problem problem = with_refused({{1, 0}, {1, 1}, {1, 2}});
  const std::string lines =
      local.lines() + "server.lr = 0.25\nserver.tau = 0.01\nfedadam.bias-correction = true";
  EXPECT_LT(distance(ruined_run(problem, "fedadam", lines, 3),
                     fedadam(with_refused({}), local, 2, 0.25, 0.9, 0.99, 0.01, true)),
            kTolerance);
}

// What the results say of it: the round counts the failure, the client's row is marked, its weight
// is the planned one, and the mean loss is the others'.
TEST(Divergence, ItIsCounted) {
  const Problem problem = with_refused({{2, 1}});
  const Local local{.steps = 1};
  const std::string path = testing::TempDir() + "fl_sim_divergence_test.h5";
  Results results(path, /*overwrite=*/true);
  Experiment e = ruined_experiment(problem, "fedavg", local.lines(), 2);
  run(e, &results);
  std::filesystem::remove(path);
  ASSERT_EQ(results.rounds().size(), 2u);
  EXPECT_EQ(results.rounds()[0].failed, 0);
  EXPECT_EQ(results.rounds()[1].failed, 1);
  EXPECT_EQ(results.rounds()[1].cohort, 3);
  ASSERT_EQ(results.client_rows().size(), 6u);
  for (const ClientRecord& record : results.client_rows()) {
    const bool bad = record.round == 2 && record.client == 1;
    EXPECT_EQ(record.status,
              static_cast<int64_t>(bad ? ClientStatus::kDiverged : ClientStatus::kTrained));
    EXPECT_DOUBLE_EQ(record.weight, problem.share(record.client, problem.cohorts[0]));
    EXPECT_EQ(record.samples, problem.size(record.client));
  }
  // F_k at the model that round 2 starts from, over the survivors' samples.
  const Vector w = fedavg(problem, local, 1);
  double loss = 0, samples = 0;
  for (const int64_t k : {0, 2}) {
    for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
      loss += (point.curvature * (w - point.a) * (w - point.a)).sum() / 2;
      ++samples;
    }
  }
  EXPECT_NEAR(results.rounds()[1].train_loss, loss / samples, kTolerance);
}

// Real divergence, not a ruined number: a local rate far beyond 2 / curvature leaves the range, and
// only the client that it is too large for is refused.
TEST(Divergence, ATooLargeRateIsNoticed) {
  Problem problem{.clients = {{{{1}, {0.125}}}, {{{2}, {64}}}}, .start = {0}, .cohorts = {{0, 1}}};
  const Local local{.steps = 8, .lr = 1};
  problem.refused = {{1, 1}, {2, 1}};
  EXPECT_LT(distance(solve(problem, "fedavg", local.lines(), 2), fedavg(problem, local, 2)),
            kTolerance);
}

// on-divergence = stop ends the run with an error that names client and round.
TEST(Divergence, StopStops) {
  const Problem problem = with_refused({{2, 1}});
  Experiment e = ruined_experiment(problem, "fedavg", Local().lines() + "on-divergence = stop", 3);
  EXPECT_THAT(error_of([&] { run(e); }), HasSubstr("client 1 diverged in round 2"));
}

}  // namespace
}  // namespace fl_sim
