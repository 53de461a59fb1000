// What stands between a client's training and the server's step: transforms, aggregators, samplers,
// averages of the server's models; and what an algorithm declares.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "any_job.h"
#include "engine/planner.h"
#include "engine/traffic.h"
#include "learning/wrapper.h"
#include "quadratics.h"

namespace fl_sim {
namespace {

using testing::HasSubstr;

Problem everybody() {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  return problem;
}

Vector shortened(const Vector& v, double bound) {
  const double length = norm(v);
  return length > bound ? Vector(v * (bound / length)) : v;
}

// FedAvg in double, with something done to each client's delta.
Vector fedavg_of_deltas(const Problem& problem, const Local& local, int64_t rounds,
                        const std::function<Vector(const Vector&)>& change) {
  Vector w = problem.start;
  for (int64_t round = 1; round <= rounds; ++round) {
    const std::vector<int64_t>& cohort = problem.cohort(round);
    Vector sum(0.0, w.size());
    for (const int64_t k : cohort)
      sum += problem.share(k, cohort) * change(problem.train(k, w, local) - w);
    w += sum;
  }
  return w;
}

// Transforms --------------------------------------------------------------------------------------

// Proves the rule, where some updates are longer than the bound and some are not, alone and in
// groups; a bound that nobody reaches is FedAvg to the last bit.
TEST(Clip, ShortensWhatIsLongerThanTheBound) {
  const Problem problem = everybody();
  const Local local;
  std::vector<double> lengths;
  for (int64_t k = 0; k < 4; ++k)
    lengths.push_back(norm(problem.train(k, problem.start, local) - problem.start));
  std::sort(lengths.begin(), lengths.end());
  const double bound = (lengths[1] + lengths[2]) / 2;
  const Vector expected =
      fedavg_of_deltas(problem, local, 3, [&](const Vector& d) { return shortened(d, bound); });
  const std::string lines = message(local.lines(), "\ntransforms = clip\nclip.norm = ", bound);
  for (const char* group : {"\ngroup-size = 1", "\ngroup-size = 3"}) {
    // The bound is kept to the last bit of a float: up to 2^-22 of it is given away.
    EXPECT_LT(distance(solve(problem, "fedavg", lines + group, 3), expected), 1e-6 * bound);
  }
  EXPECT_GT(distance(solve(problem, "fedavg", local.lines(), 3), expected), 0.01);
  EXPECT_EQ(
      distance(solve(problem, "fedavg", local.lines(), 3),
               solve(problem, "fedavg", local.lines() + "\ntransforms = clip\nclip.norm = 1e6", 3)),
      0);
}

// Proves what the results say of it: lengths before, and how many were shortened.
TEST(Clip, SaysWhomItShortened) {
  const Problem problem = everybody();
  const Local local;
  Experiment e =
      experiment_of(problem, "fedavg", local.lines() + "\ntransforms = clip\nclip.norm = 0.5", 1);
  EXPECT_EQ(scalar_names(e), (std::vector<std::string>{"clip.norm", "clip.clipped"}));
  const Finished finished = run_recorded(e);
  double clipped = 0;
  for (const ClientRecord& record : finished.clients) {
    const double length = norm(problem.train(record.client, problem.start, local) - problem.start);
    EXPECT_NEAR(record.scalars[0], length, 1e-9);
    EXPECT_EQ(record.scalars[1], length > 0.5 ? 1 : 0);
    clipped += record.scalars[1];
  }
  EXPECT_GT(clipped, 0);
  EXPECT_LT(clipped, 4);
  EXPECT_EQ(finished.rounds.at(0).figures.at("clip.clipped"), clipped / 4);
}

// Proves that layer by layer no parameter is longer than its share of the bound, so that the whole
// is no longer than the bound, and that the longest row does not exceed it by a bit in float32.
TEST(Clip, LayerByLayerEachParameterHasItsShare) {
  const Problem problem = classifier_problem();
  Local local;
  local.lr = 1;
  for (const torch::ScalarType type : {torch::kFloat64, torch::kFloat32}) {
    for (const char* scope : {"whole", "layer"}) {
      Experiment e = experiment_of(
          problem, "fedavg",
          message(local.lines(), "\ntransforms = clip\nclip.norm = 0.01\nclip.scope = ", scope), 1);
      e.dtype = type;
      const auto& transform = *e.transforms.at(0).transform;
      const ParameterLayout& layout = e.network->layout();
      Rng rng(1, "test");
      Update update;
      update.delta = torch::zeros({3, layout.row()}, type);
      for (int64_t k = 0; k < 3; ++k) {
        for (int64_t i = 0; i < std::ssize(layout.parameters()); ++i) {
          torch::Tensor part = layout.view(update.delta.narrow(0, k, 1), i);
          part.copy_(torch::randn(part.sizes(), torch::kFloat64));
        }
      }
      update.clients.resize(3);
      const torch::Tensor before = update.delta.clone();
      const ClientData data{};
      ClientGroup group{.ids = {0, 1, 2}, .data = data};
      transform.apply(update, group, GlobalModel{});
      const double m = static_cast<double>(layout.parameters().size());
      for (int64_t k = 0; k < 3; ++k) {
        EXPECT_LE(update.delta[k].to(torch::kFloat64).norm().item<double>(), 0.01);
        for (int64_t i = 0; std::string(scope) == "layer" && i < std::ssize(layout.parameters());
             ++i) {
          const auto part = [&](const torch::Tensor& rows) {
            return layout.view(rows.narrow(0, k, 1), i).to(torch::kFloat64);
          };
          EXPECT_NEAR(part(update.delta).norm().item<double>(), 0.01 / std::sqrt(m), 1e-8);
          EXPECT_LT(
              (part(update.delta) / part(update.delta).norm() - part(before) / part(before).norm())
                  .abs()
                  .max()
                  .item<double>(),
              1e-6);
        }
      }
    }
  }
}

// Keeps the sum of what it was given as the client's own, and sends half: error feedback, as a
// transform with state would.
class Halved final : public Transform {
 public:
  explicit Halved(const Setup& setup) : length_(setup.network.layout().row()) {}
  static PluginInfo describe() { return {.summary = "half of each update, the rest next time"}; }
  VectorSizes client_state() const override { return {{"rest", length_}}; }
  void apply(Update& update, const ClientGroup& group, const GlobalModel&) const override {
    const torch::Tensor all = update.delta + group.state.at("halved.rest");
    update.delta.copy_(all / 2);
    update.state["halved.rest"] = all / 2;
  }
  double bits(int64_t, double bits) const override { return bits / 4; }

 private:
  int64_t length_;
};
FL_REGISTER(Transform, "halved", Halved);

// Proves that a transform's state is the client's, from round to round, beside the algorithm's own,
// and that its bits are what is counted.
TEST(Transforms, KeepTheirOwnStateAtTheClient) {
  const Problem problem = everybody();
  const Local local;
  Vector w = problem.start;
  std::vector<Vector> rest(4, Vector(0.0, w.size()));
  for (int round = 0; round < 3; ++round) {
    Vector sum(0.0, w.size());
    for (int64_t k = 0; k < 4; ++k) {
      Vector& kept = rest[static_cast<size_t>(k)];
      kept = (problem.train(k, w, local) - w + kept) / 2.0;
      sum += problem.share(k, problem.cohort(1)) * kept;
    }
    w += sum;
  }
  const std::string lines = local.lines() + "\ntransforms = halved";
  EXPECT_LT(distance(solve(problem, "fedavg", lines, 3), w), kTolerance);
  Experiment with = experiment_of(problem, "scaffold", lines, 1);
  Experiment without = experiment_of(problem, "scaffold", local.lines(), 1);
  const GlobalModel model;
  const int64_t numbers = with.network->layout().count() * 8;  // float64
  EXPECT_EQ(client_traffic(without, model).up, 2 * numbers);
  EXPECT_EQ(client_traffic(with, model).up, numbers / 4 + numbers);  // the control goes whole
}

// Proves that a client whose update is not a number counts as diverged whatever a transform makes
// of it, and that the transform never sees it.
TEST(Transforms, DoNotMendWhatDiverged) {
  const Problem problem = everybody();
  const Local local;
  Problem refused = problem;
  refused.refused = {{1, 2}};
  Experiment e = experiment_of(problem, "fedavg",
                               local.lines() +
                                   "\ntransforms = clip\nclip.norm = 1e6\n"
                                   "inject = nan-update@1:2",
                               1);
  const Finished finished = run_recorded(e);
  EXPECT_LT(distance(Vector(finished.weights[std::slice(0, problem.start.size(), 1)]),
                     fedavg(refused, local, 1)),
            kTolerance);
  EXPECT_TRUE(finished.clients.at(2).is(ClientStatus::kDiverged));
}

TEST(Transforms, RefuseWhatTheyCannotWorkWith) {
  const Problem problem = everybody();
  const std::string lines = Local().lines();
  EXPECT_ERROR(
      experiment_of(problem, "centralized", lines + "\ntransforms = clip\nclip.norm = 1", 1),
      "transform clip cannot work with algorithm centralized, which has no clients");
  EXPECT_ERROR(experiment_of(problem, "pwfl", lines + "\ntransforms = halved\npwfl.models = 2", 1),
               "transform halved cannot work with algorithm pwfl, which trains cohorts apart");
  for (const char* transform : {"clip\nclip.norm = 1", "halved"}) {
    EXPECT_ERROR(
        experiment_of(problem, "fedem", lines + "\ntransforms = " + std::string(transform), 1),
        "cannot work with algorithm fedem, whose clients return updates of several models");
  }
}

// Proves that a server's rule that follows clients' lengths gets them as they are sent.
TEST(Transforms, LengthsAreThoseThatAreSent) {
  const Problem problem = everybody();
  const Local local;
  constexpr double kBound = 0.1, kEpsilon = 1e-3;
  Vector mean(0.0, problem.start.size());
  double squares = 0;
  for (int64_t k = 0; k < 4; ++k) {
    const Vector sent = shortened(problem.train(k, problem.start, local) - problem.start, kBound);
    mean += problem.share(k, {0, 1, 2, 3}) * sent;
    squares += problem.share(k, {0, 1, 2, 3}) * norm(sent) * norm(sent);
  }
  const double rate = std::max(1.0, squares / (2 * (norm(mean) * norm(mean) + kEpsilon)));
  EXPECT_LT(distance(solve(problem, "fedexp",
                           message(local.lines(), "\nfedexp.epsilon = ", kEpsilon,
                                   "\ntransforms = clip\nclip.norm = ", kBound),
                           1),
                     problem.start + Vector(rate * mean)),
            1e-6 * kBound);
}

// Returns one number a client.
class Cut final : public Transform {
 public:
  explicit Cut(const Setup&) {}
  static PluginInfo describe() { return {.summary = "wrong"}; }
  void apply(Update& update, const ClientGroup& group, const GlobalModel&) const override {
    update.delta = torch::zeros({group.size(), 1}, torch::kFloat64);
  }
};
FL_REGISTER(Transform, "cut", Cut);

TEST(Transforms, WrongSizesAreNamed) {
  Experiment e = experiment_of(everybody(), "fedavg", Local().lines() + "\ntransforms = cut", 1);
  EXPECT_ERROR(run(e), "transform cut returns a delta of shape [1, 1] (must be [1, 16]");
}

// Aggregators -------------------------------------------------------------------------------------

// The median of each coordinate of the clients' deltas, by sorting.
Vector median_of(const std::vector<Vector>& deltas) {
  Vector result(deltas[0].size());
  for (size_t i = 0; i < result.size(); ++i) {
    std::vector<double> values;
    for (const Vector& d : deltas) values.push_back(d[i]);
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    result[i] = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  }
  return result;
}

// Proves the rule for odd and even numbers of clients, against a sort.
TEST(Median, IsTheMiddleOfEachCoordinate) {
  const Local local;
  for (const std::vector<int64_t>& cohort :
       {std::vector<int64_t>{0, 1, 2, 3}, {0, 2, 3}, {1, 3}, {2}}) {
    Problem problem = everybody();
    problem.cohorts = {cohort};
    Vector w = problem.start;
    for (int round = 0; round < 3; ++round) {
      std::vector<Vector> deltas;
      for (const int64_t k : cohort) deltas.push_back(problem.train(k, w, local) - w);
      w += median_of(deltas);
    }
    for (const char* group : {"\ngroup-size = 1", "\ngroup-size = 3"}) {
      EXPECT_LT(
          distance(solve(problem, "fedavg", local.lines() + "\naggregator = median" + group, 3), w),
          kTolerance)
          << cohort.size();
    }
    if (cohort.size() > 2) {
      EXPECT_GT(distance(solve(problem, "fedavg", local.lines() + "\nweighting = uniform", 3), w),
                0.001);
    }
  }
}

// Proves that an algorithm's further vectors are combined as the delta is: SCAFFOLD's controls.
TEST(Median, CombinesFurtherVectorsToo) {
  Problem problem = everybody();
  problem.cohorts = {{0, 2, 3}};
  const Local local;
  Vector w = problem.start, control(0.0, w.size());
  std::vector<Vector> own(4, control);
  for (int round = 0; round < 3; ++round) {
    std::vector<Vector> deltas, changes;
    for (const int64_t k : problem.cohorts[0]) {
      Vector& c = own[static_cast<size_t>(k)];
      const Vector correction = control - c;
      const Vector delta =
          problem.train(k, w, local, [&](const Vector&) { return correction; }) - w;
      const Vector change = -control - delta / (local.lr * static_cast<double>(local.steps));
      c += change;
      deltas.push_back(delta);
      changes.push_back(change);
    }
    w += median_of(deltas);
    control += median_of(changes) * (3.0 / 4.0);
  }
  EXPECT_LT(distance(solve(problem, "scaffold", local.lines() + "\naggregator = median", 3), w),
            kTolerance);
}

// Proves that what a minority returns cannot move the median far, where the mean goes anywhere.
TEST(Median, OneClientCannotMoveItFar) {
  Problem problem = everybody();
  problem.clients.push_back({{.a = Vector(100.0, 3), .curvature = Vector(1.0, 3)}});
  problem.cohorts = {{0, 1, 2, 3, 4}};
  const std::string lines = Local().lines() + "\nweighting = uniform";
  const Vector mean = solve(problem, "fedavg", lines, 3);
  const Vector median = solve(problem, "fedavg", lines + "\naggregator = median", 3);
  EXPECT_GT(norm(mean), 20);
  EXPECT_LT(norm(median), 5);
}

// Proves that a client that is refused is none of the values.
TEST(Median, LeavesOutWhoDiverged) {
  Problem problem = everybody();
  const Local local;
  std::vector<Vector> deltas;
  for (const int64_t k : {0, 1, 3})
    deltas.push_back(problem.train(k, problem.start, local) - problem.start);
  EXPECT_LT(distance(solve(problem, "fedavg",
                           local.lines() + "\naggregator = median\ninject = nan-update@1:2", 1),
                     problem.start + median_of(deltas)),
            kTolerance);
}

// Wants three clients at least.
class Three final : public Aggregator {
 public:
  explicit Three(const Setup&) {}
  static PluginInfo describe() { return {.summary = "the mean of three or more"}; }
  int64_t fewest() const override { return 3; }
  bool needs_products() const override { return true; }
  // The client of the shortest delta alone: two rows of it and one of nobody's weight in between.
  torch::Tensor choose(const torch::Tensor& products, const torch::Tensor&) const override {
    torch::Tensor chosen = torch::zeros({1, products.size(0)}, torch::kFloat64);
    chosen[0][products.diagonal().argmin()] = 2;
    return chosen;
  }
};
FL_REGISTER(Aggregator, "three", Three);

// Proves that a rule by inner products gets them, and its combination of rows; and that with too
// few clients the model stays and the round has failed.
TEST(Aggregators, ChooseByInnerProductsAmongEnoughClients) {
  Problem problem = everybody();
  const Local local;
  Vector best;
  for (int64_t k = 0; k < 4; ++k) {
    const Vector delta = problem.train(k, problem.start, local) - problem.start;
    if (k == 0 || norm(delta) < norm(best)) best = delta;
  }
  const std::string lines = local.lines() + "\naggregator = three";
  EXPECT_LT(distance(solve(problem, "fedavg", lines, 1), problem.start + best), kTolerance);
  problem.cohorts = {{0, 1, 2}, {0, 1}};
  Experiment e = experiment_of(problem, "fedavg", lines, 2);
  const Finished finished = run_recorded(e);
  EXPECT_EQ(
      distance(Vector(finished.weights[std::slice(0, 3, 1)]), solve(problem, "fedavg", lines, 1)),
      0);
  EXPECT_EQ(finished.rounds.at(0).failed, 0);
  EXPECT_EQ(finished.rounds.at(1).failed, 2);
  problem.cohorts = {{0, 1}};
  EXPECT_ERROR(experiment_of(problem, "fedavg", lines, 1),
               "aggregator three needs 3 clients or more, but cohort is 2");
}

TEST(Aggregators, RefuseWhatTheyCannotWorkWith) {
  const Problem problem = everybody();
  const std::string lines = Local().lines() + "\naggregator = median";
  EXPECT_ERROR(experiment_of(problem, "fedavg", lines + "\nweighting = samples", 1),
               "weighting is samples, but aggregator median counts every client once");
  EXPECT_ERROR(experiment_of(problem, "pwfl", lines + "\npwfl.models = 2", 1),
               "aggregator median cannot work with algorithm pwfl, which trains cohorts apart");
  EXPECT_ERROR(experiment_of(problem, "centralized", lines, 1),
               "aggregator median cannot work with algorithm centralized, which has no clients");
  EXPECT_ERROR(experiment_of(problem, "cfl", lines + "\ncfl.eps1 = 0.4\ncfl.eps2 = 0.2", 1),
               "aggregator median cannot work with algorithm cfl, which compares the clients'");
  EXPECT_ERROR(experiment_of(problem, "afl", lines, 1), "with algorithm afl, which weighs its");
  EXPECT_ERROR(experiment_of(problem, "fedexp", lines, 1),
               "with algorithm fedexp, whose step follows the length");
}

// What an aggregator of the test below does wrong.
std::function<torch::Tensor(const torch::Tensor&)> wrong_choice, wrong_row;

class WrongAggregator final : public Aggregator {
 public:
  explicit WrongAggregator(const Setup&) {}
  static PluginInfo describe() { return {.summary = "wrong"}; }
  bool needs_products() const override { return static_cast<bool>(wrong_choice); }
  bool weighs() const override { return true; }
  torch::Tensor choose(const torch::Tensor& products, const torch::Tensor&) const override {
    return wrong_choice(products);
  }
  torch::Tensor combine(const torch::Tensor& rows) const override {
    return wrong_row ? wrong_row(rows) : rows[0];
  }
};
FL_REGISTER(Aggregator, "wrong-aggregator", WrongAggregator);

// Proves that what an aggregator makes is looked at before it is used.
TEST(Aggregators, WrongSizesAreNamed) {
  const auto error = [] {
    Experiment e = experiment_of(everybody(), "fedavg",
                                 Local().lines() + "\naggregator = wrong-aggregator", 1);
    return error_of([&] { run(e); });
  };
  wrong_row = [](const torch::Tensor& rows) { return rows[0].narrow(0, 0, 3); };
  EXPECT_THAT(error(), HasSubstr("aggregator wrong-aggregator makes a row of shape [3] of a block "
                                 "of 16 coordinates"));
  wrong_row = {};
  wrong_choice = [](const torch::Tensor&) { return torch::ones({1, 3}, torch::kFloat64); };
  EXPECT_THAT(error(), HasSubstr("chooses a matrix of shape [1, 3] (must be [q, 4]"));
  wrong_choice = [](const torch::Tensor&) { return torch::zeros({1, 4}, torch::kFloat64); };
  EXPECT_THAT(error(), HasSubstr("chooses weights that come to 0"));
  wrong_choice = {};
}

// What plug-ins do to the engine ------------------------------------------------------------------

// FedAvg that can be told to do something else.
struct Meddling {
  std::function<void(Needs&)> needs = {};
  std::function<void(ClientGroup&, const GlobalModel&)> train = {};
  std::function<void(ServerState&)> aggregate = {}, end_round = {};
} meddling;

class Meddler final : public Algorithm {
 public:
  explicit Meddler(const Setup& setup) : local_(setup) {}
  static PluginInfo describe() { return {.summary = "meddles"}; }
  Needs needs() const override {
    Needs needs = local_.needs();
    if (meddling.needs) meddling.needs(needs);
    return needs;
  }
  void init(ServerState& server) const override {
    server.shared["s"] = torch::zeros({2});
    server.hidden["h"] = torch::zeros({2, 3});
  }
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (meddling.train) meddling.train(group, global);
    return local_.train(group, global);
  }
  void aggregate(ServerState& server, const Sum& sum) const override {
    server.weights.add_(sum.delta);
    if (meddling.aggregate) meddling.aggregate(server);
  }
  void end_round(ServerState& server, const std::vector<ClientRecord>&) const override {
    if (meddling.end_round) meddling.end_round(server);
  }

 private:
  LocalTraining local_;
};

// Registers it for a while: what is true of all algorithms is not of this one.
class Contract : public testing::Test {
 protected:
  Contract() { register_plugin<Algorithm, Meddler>("meddler"); }
  ~Contract() override {
    meddling = {};
    catalog() = before_;
  }
  static std::string error() {
    try {
      Experiment e = experiment_of(everybody(), "meddler", Local().lines(), 2);
      run(e);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  const Catalog before_ = catalog();
};

TEST_F(Contract, NothingIsSaidWhereNothingIsWrong) { EXPECT_EQ(error(), ""); }

TEST_F(Contract, NeedsThatNoRunCouldHave) {
  const std::vector<std::pair<std::function<void(Needs&)>, std::string>> wrong = {
      {[](Needs& n) { n.exchanges = 0; }, "Needs::exchanges is 0 (must be at least 1)"},
      {[](Needs& n) { n.models = 0; }, "Needs::models is 0"},
      {[](Needs& n) { n.lanes = 3; }, "Needs::lanes is 3, but models is 1"},
      {[](Needs& n) { n.models_received = -1; }, "Needs::models_received is -1"},
      {[](Needs& n) { n.client_state["c"] = -1; }, "Needs::client_state[\"c\"] is -1"},
      {[](Needs& n) { n.additive["a"] = int64_t{1} << 60; }, "Needs::additive[\"a\"] is 11529"},
      {[](Needs& n) { n.additive[""] = 3; }, "Needs::additive has a vector without a name"}};
  for (const auto& [change, text] : wrong) {
    meddling.needs = change;
    EXPECT_THAT(error(), HasSubstr("algorithm meddler: " + text));
  }
}

TEST_F(Contract, TrainingLeavesWhatClientsAreSent) {
  const std::string text = "algorithm meddler changes the model that clients are sent";
  meddling.train = [](ClientGroup&, const GlobalModel& global) { global.weights.fill_(0); };
  EXPECT_THAT(error(), HasSubstr(text));
  meddling.train = [](ClientGroup&, const GlobalModel& global) {
    torch::Tensor view = global.model(0).narrow(1, 0, 1);  // the same memory
    view.add_(1);
  };
  EXPECT_THAT(error(), HasSubstr(text));
  meddling.train = [](ClientGroup&, const GlobalModel& global) { global.shared.at("s").add_(1); };
  EXPECT_THAT(error(), HasSubstr(text));
  meddling.train = [](ClientGroup& group, const GlobalModel& global) {
    torch::Tensor own = global.weights.clone();
    own.fill_(0);
    group.rows.add_(0);
  };
  EXPECT_EQ(error(), "");
}

TEST_F(Contract, WhatTrainingThrowsIsToldWithRoundAndClient) {
  meddling.train = [](ClientGroup& group, const GlobalModel& global) {
    if (global.round == 2 && group.ids[0] == 3) (void)group.state.at("not there");
  };
  EXPECT_THAT(error(), HasSubstr("training in round 2, client 3: "));
}

TEST_F(Contract, TheServersTensorsAreThoseOfInit) {
  const std::vector<std::pair<std::function<void(ServerState&)>, std::string>> wrong = {
      {[](ServerState& s) { s.shared["t"] = torch::zeros({1}); }, "shared 't' is Float [1]"},
      {[](ServerState& s) { s.shared["s"] = torch::zeros({3}); },
       "shared 's' is Float [3], where there was shared 's' is Float [2]"},
      {[](ServerState& s) { s.shared.erase("s"); }, "where there was shared 's' is Float [2]"},
      {[](ServerState& s) { s.hidden["h"] = s.hidden["h"].to(torch::kFloat64); },
       "hidden 'h' is Double [2, 3]"},
      {[](ServerState& s) {
         s.hidden["h"] = torch::zeros({3, 2}).t();
       },
       "not contiguous"},
      {[](ServerState& s) { s.weights = s.weights[0]; }, "weights is Double ["},
      {[](ServerState& s) { s.memory["m"] = torch::Tensor(); }, "memory 'm' is not defined"}};
  for (const auto& [change, text] : wrong) {
    meddling = {.aggregate = change};
    EXPECT_THAT(error(),
                AllOf(HasSubstr("the step of algorithm meddler leaves other tensors of the "
                                "server than init() made: "),
                      HasSubstr(text)));
    meddling = {.end_round = change};
    EXPECT_THAT(error(), HasSubstr("the end of a round of algorithm meddler leaves other tensors"));
  }
}

TEST_F(Contract, AModelThatIsNotFiniteEndsTheRun) {
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    meddling = {.aggregate = [value](ServerState& s) { s.weights[0][1] = value; }};
    EXPECT_THAT(error(),
                HasSubstr("the step of algorithm meddler leaves a model that is not finite "
                          "after round 1"));
  }
}

// Samplers ----------------------------------------------------------------------------------------

// Proves multinomial's rule: client k's weight is 1/m for each of m draws, drawn in proportion to
// samples, so that its expectation is n_k / n; by 20,000 rounds, within five standard deviations.
TEST(Multinomial, WeighsClientsByTheirSamplesOnAverage) {
  const std::vector<int64_t> sizes = {1, 3, 4, 8};
  std::vector<std::vector<int64_t>> lists;
  int64_t next = 0;
  for (const int64_t size : sizes) {
    lists.emplace_back();
    for (int64_t i = 0; i < size; ++i) lists.back().push_back(next++);
  }
  const Partition partition = make_partition(lists);
  const Job job = any_job("sampler = multinomial\nclients = 4\ncohort = 3");
  const auto sampler = make<Sampler>("multinomial", {job, 4});
  EXPECT_TRUE(sampler->weighs());
  const State memory;
  for (const std::vector<int64_t>& there : {std::vector<int64_t>{}, {0, 2, 3}}) {
    const Candidates who = there.empty() ? Candidates(4) : Candidates(there);
    std::map<int64_t, double> weights;
    constexpr int kRounds = 20000;
    for (int round = 1; round <= kRounds; ++round) {
      Rng rng(7, "sampler", round);
      double all = 0;
      const std::vector<Drawn> cohort = sampler->sample({.round = round,
                                                         .cohort = 3,
                                                         .candidates = who,
                                                         .partition = partition,
                                                         .memory = memory},
                                                        rng);
      for (const auto& [client, weight] : cohort) {
        weights[client] += weight;
        all += weight;
        EXPECT_NEAR(weight * 3, std::round(weight * 3), 1e-12);
      }
      EXPECT_NEAR(all, 1, 1e-12);
    }
    double total = 0;
    for (int64_t place = 0; place < who.size(); ++place)
      total += static_cast<double>(sizes[static_cast<size_t>(who.id(place))]);
    EXPECT_EQ(std::ssize(weights), who.size());
    for (const auto& [client, sum] : weights) {
      const double p = static_cast<double>(sizes[static_cast<size_t>(client)]) / total;
      const double deviation = std::sqrt(p * (1 - p) / 3 / kRounds);
      EXPECT_NEAR(sum / kRounds, p, 5 * deviation) << client;
    }
  }
}

// Proves that the weights are those of the sum: a round of FedAvg with the cohort that was drawn.
TEST(Multinomial, TheSumIsWeighedByDraws) {
  const Problem problem = everybody();
  const Local local;
  const std::string lines = local.lines() + "\nsampler = multinomial";
  Experiment e = experiment_of(problem, "fedavg", lines, 1);
  e.sampler = make<Sampler>("multinomial", {e.job, 4});
  Rng rng(e.job.seed(), "sampler", 1);
  const State memory;
  const Candidates who(4);
  Vector expected = problem.start;
  for (const auto& [client, weight] : e.sampler->sample({.round = 1,
                                      .cohort = std::ssize(problem.cohort(1)),
                                      .candidates = who,
                                      .partition = e.partition,
                                      .memory = memory},
                                                        rng)) {
    expected += weight * (problem.train(client, problem.start, local) - problem.start);
  }
  EXPECT_LT(distance(Vector(run(e).weights[std::slice(0, 3, 1)]), expected), kTolerance);
}

// Proves that the server makes of updates what their weights say, which come to something else than
// 1: a round of FedAvg from fixed weights, of the clients that are left where one is lost.
class TooMuch final : public Sampler {
 public:
  explicit TooMuch(const Setup&) {}
  static PluginInfo describe() { return {.summary = "weights of 1.7 in all"}; }
  std::vector<Drawn> sample(const SampleRequest&, Rng&) const override {
    return {{0, 0.3}, {2, 1.1}, {3, 0.3}};
  }
  bool weighs() const override { return true; }
  bool estimates_sum() const override { return true; }
};
FL_REGISTER(Sampler, "too-much", TooMuch);

TEST(Samplers, TheServerMakesTheSum) {
  const Problem problem = everybody();
  const Local local;
  const auto moved = [&](int64_t k) {
    return Vector(problem.train(k, problem.start, local) - problem.start);
  };
  for (const bool loses : {false, true}) {
    Experiment e = experiment_of(problem, "fedavg",
                                 local.lines() + (loses ? "\ninject = client-crash@1:2" : ""), 1);
    e.sampler = make<Sampler>("too-much", {e.job, 4});
    Vector expected = problem.start;
    // Those that are left stand for who is lost.
    if (loses) expected += (moved(0) * 0.3 + moved(3) * 0.3) * (1.7 / 0.6);
    if (!loses) expected += moved(0) * 0.3 + moved(2) * 1.1 + moved(3) * 0.3;
    EXPECT_LT(distance(Vector(run(e).weights[std::slice(0, 3, 1)]), expected), kTolerance) << loses;
  }
}

TEST(Multinomial, RefusesOtherWeights) {
  EXPECT_ERROR(
      make<Sampler>("multinomial",
                    {any_job("sampler = multinomial\nweighting = uniform\ncohort = 3"), 10}),
      "weighting is uniform, but sampler multinomial");
}

// Proves that nobody is drawn again before everybody was, over several turns whose order differs,
// and that who was away comes first when he is back.
// Draws what the test below says.
std::vector<Drawn> wrong_cohort;

class WrongSampler final : public Sampler {
 public:
  explicit WrongSampler(const Setup&) {}
  static PluginInfo describe() { return {.summary = "wrong"}; }
  std::vector<Drawn> sample(const SampleRequest&, Rng&) const override { return wrong_cohort; }
  bool weighs() const override { return true; }
};
FL_REGISTER(Sampler, "wrong-sampler", WrongSampler);

// Proves that a cohort is looked at before it trains; a weight that is not set is the job's.
TEST(Samplers, WrongCohortsAreNamed) {
  Experiment e = experiment_of(everybody(), "fedavg", Local().lines(), 1);
  e.sampler = make<Sampler>("wrong-sampler", {e.job, 4});
  const auto error = [&](std::vector<Drawn> cohort) {
    wrong_cohort = std::move(cohort);
    return error_of([&] { run(e); });
  };
  EXPECT_THAT(error({{0, 0.5}, {1000000, 0.5}}),
              HasSubstr("drew client 1000000, who is none of the round's candidates"));
  EXPECT_THAT(error({{1, 0.5}, {1, 0.5}}), HasSubstr("must be distinct and ascending"));
  EXPECT_THAT(error({{0, -0.5}, {1, 0.5}}), HasSubstr("has client 0 weigh -0.5"));
  EXPECT_THAT(error({{0, 0.5}, {1, 0.6}}), HasSubstr("weights come to 1.1 (must be 1 at most)"));
  wrong_cohort = {{0}, {1}, {2}, {3}};
  const Problem problem = everybody();
  EXPECT_LT(distance(Vector(run(e).weights[std::slice(0, problem.start.size(), 1)]),
                     solve(problem, "fedavg", Local().lines(), 1)),
            kTolerance);
}

TEST(RoundRobin, EverybodyHasATurn) {
  const Job job = any_job("sampler = roundrobin\nclients = 10\ncohort = 4");
  const auto sampler = make<Sampler>("roundrobin", {job, 10});
  const Partition partition = make_partition(std::vector<std::vector<int64_t>>(10));
  State memory;
  sampler->init(memory, 10);
  std::vector<int64_t> sequence;
  const auto draw = [&](int64_t round, const Candidates& who) {
    Rng rng(1, "sampler", round);
    std::vector<ClientRecord> records;
    std::vector<int64_t> cohort;
    for (const Drawn& drawn : sampler->sample({.round = round,
                              .cohort = 4,
                              .candidates = who,
                              .partition = partition,
                              .memory = memory},
                                              rng)) {
      cohort.push_back(drawn.client);
      records.emplace_back().client = drawn.client;
    }
    sampler->learn(memory, records);
    return cohort;
  };
  std::vector<int64_t> counts(10, 0);
  std::set<std::vector<int64_t>> firsts;
  for (int64_t round = 1; round <= 30; ++round) {
    const std::vector<int64_t> cohort = draw(round, Candidates(10));
    EXPECT_EQ(std::set<int64_t>(cohort.begin(), cohort.end()).size(), 4u);
    for (const int64_t client : cohort) ++counts[static_cast<size_t>(client)];
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LE(*most - *least, 1) << round;
    if (round % 5 == 1) firsts.insert(cohort);  // ten clients have had four turns in five rounds
  }
  EXPECT_GT(firsts.size(), 3u);
  // Away for three rounds, in which the six others have two turns each.
  for (int64_t round = 31; round <= 33; ++round)
    for (const int64_t client : draw(round, Candidates({0, 1, 2, 3, 4, 5}))) EXPECT_LT(client, 6);
  EXPECT_EQ(draw(34, Candidates(10)), (std::vector<int64_t>{6, 7, 8, 9}));
}

// The server's averages ---------------------------------------------------------------------------

// F_k = ½ a_k (w - c_k)² with a = 1 2 1 2, c = 0 1 2 3, n = 1 1 1 3.
Problem four_parabolas() {
  Problem problem{.clients = {}, .start = {0}, .cohorts = {{0, 1, 2, 3}}};
  for (const auto& [a, c, n] :
       {std::tuple{1.0, 0.0, 1}, {2.0, 1.0, 1}, {1.0, 2.0, 1}, {2.0, 3.0, 3}}) {
    problem.clients.emplace_back(n, Point{.a = {c}, .curvature = {a}});
  }
  return problem;
}

double evaluated_after(const std::string& lines, int64_t rounds) {
  Local local;
  local.steps = 2;
  local.lr = 0.1;
  Experiment e = experiment_of(four_parabolas(), "fedavg", local.lines() + lines, rounds);
  const Finished finished = run(e);
  return e.algorithm->evaluated(finished.server)[0][0].item<double>();
}

// The weights n_k / n are sixths, as floats.
constexpr double kOfWeights = 5e-8;

// Proves the three rules against values that were worked out by hand in double precision.
TEST(ServerAverage, FollowsItsRule) {
  const std::vector<double> plain = {0.6633333333, 1.125455556, 1.447400704};
  const std::vector<double> ema = {0.06633333333, 0.1722455556, 0.2997610704};
  const std::vector<double> dynamic = {0.597, 1.029372727, 1.34289371};
  for (int64_t round = 1; round <= 3; ++round) {
    const auto i = static_cast<size_t>(round - 1);
    EXPECT_NEAR(evaluated_after("", round), plain[i], kOfWeights);
    EXPECT_NEAR(evaluated_after("\nserver.average = ema\nserver.average-decay = 0.9", round),
                ema[i], kOfWeights);
    EXPECT_NEAR(evaluated_after("\nserver.average = ema\nserver.average-decay = 0.9\n"
                                "server.average-dynamic = true",
                                round),
                dynamic[i], kOfWeights);
  }
  EXPECT_NEAR(evaluated_after("\nserver.average = swa\nserver.average-start = 2", 3), 1.28642813,
              kOfWeights);
  // Off, in both its forms, to the last bit.
  EXPECT_EQ(evaluated_after("\nserver.average = ema\nserver.average-decay = 0", 3),
            evaluated_after("", 3));
  EXPECT_EQ(evaluated_after("\nserver.average = swa\nserver.average-start = 3", 3),
            evaluated_after("", 3));
  // By default over the last quarter: rounds 3 and 4 of 4, 6 to 8 of 8.
  for (const auto& [rounds, start] : {std::pair{4, 3}, {8, 6}, {1, 1}, {2, 2}})
    EXPECT_EQ(
        evaluated_after("\nserver.average = swa", rounds),
        evaluated_after(message("\nserver.average = swa\nserver.average-start = ", start), rounds));
  EXPECT_NE(evaluated_after("\nserver.average = swa", 4),
            evaluated_after("\nserver.average = swa\nserver.average-start = 2", 4));
  EXPECT_ERROR(evaluated_after("\nserver.average = swa\nserver.average-start = 0", 3),
               "server.average-start is '0' (must be auto or a round, 1 to 3)");
  EXPECT_ERROR(evaluated_after("\nserver.average = swa\nserver.average-start = 4", 3),
               "server.average-start is '4' (must be auto or a round, 1 to 3)");
}

// Proves that the average is evaluated and saved, and that training goes on from the last model.
TEST(ServerAverage, IsWhatResultsAreOf) {
  Local local;
  local.steps = 2;
  local.lr = 0.1;
  const std::string lines = local.lines() + "\nevaluate-every = 1";
  const auto losses = [&](const std::string& more) {
    Experiment e = experiment_of(four_parabolas(), "fedavg", lines + more, 3);
    const Finished finished = run_recorded(e);
    std::vector<double> test;
    for (const RoundRecord& round : finished.rounds) test.push_back(round.test_loss);
    return std::pair(test, finished.rounds.back().train_loss);
  };
  const auto [plain, plain_training] = losses("");
  const auto [averaged, averaged_training] =
      losses("\nserver.average = ema\nserver.average-decay = 0.9");
  EXPECT_EQ(plain_training, averaged_training);
  // The test sample is the first client's: ½ w².
  const double e3 = 0.2997610704, w3 = 1.447400704;
  EXPECT_NEAR(averaged[2], e3 * e3 / 2, 1e-6);
  EXPECT_NEAR(plain[2], w3 * w3 / 2, 1e-6);
}

// What an algorithm declares ----------------------------------------------------------------------

// Each built-in algorithm that others can be put around, on a classifier with head and body.
Experiment around(const std::string& wrapper, const std::string& inner, const std::string& more) {
  const std::string lines = message("local.lr = 0.125\n", more);
  const std::string own = wrapper.empty() ? "" : message("\n", wrapper, ".inner = ", inner);
  Problem problem = classifier_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  return experiment_of(problem, wrapper.empty() ? inner : wrapper, lines + own, 1);
}

// Proves that a wrapper counts what the algorithm inside sends, for every wrapper and algorithm.
TEST(Needs, WrappersCountTheBytesOfTheAlgorithmInside) {
  const std::map<std::string, std::string> options = {
      {"cfl", "cfl.eps1 = 0.4\ncfl.eps2 = 0.2"},
      {"fedprox", "fedprox.mu = 0.1"},
      {"fedstale", "fedstale.beta = 0.5"},
      {"qffl", "qffl.q = 0.5"},
      {"moon", "moon.mu = 1"},
      {"pfedme", "pfedme.personal-lr = 0.1"},
  };
  const auto bytes = [](Experiment e) {
    ServerState model;
    model.weights = torch::zeros({e.algorithm->needs().models, e.network->layout().row()}, e.dtype);
    e.algorithm->init(model);
    const Traffic each = client_traffic(e, model);
    return std::pair(each.down, each.up);
  };
  int compared = 0;
  std::set<std::pair<int64_t, int64_t>> different;
  for (const auto& [name, info] : catalog()["algorithm"]) {
    if (name == "finetune" || name == "pwfl") continue;
    const auto found = options.find(name);
    const std::string more = found == options.end() ? "" : found->second;
    std::pair<int64_t, int64_t> alone;
    try {
      alone = bytes(around("", name, more));
    } catch (const Error& error) {
      ADD_FAILURE() << name << ": " << error.what();
      continue;
    }
    different.insert(alone);
    if (name != "cfl") {  // refused around it
      EXPECT_EQ(bytes(around("", name, more + "\nserver.average = ema")), alone) << name;
    }
    for (const auto& [wrapper, one] :
         std::map<std::string, std::string>{{"finetune", ""}, {"pwfl", "\npwfl.models = 1"}}) {
      try {
        EXPECT_EQ(bytes(around(wrapper, name, more + one)), alone) << wrapper << " around " << name;
        ++compared;
      } catch (const Error& error) {  // refused with the reason
        EXPECT_THAT(error.what(), HasSubstr(".inner is " + name)) << wrapper;
      }
    }
  }
  EXPECT_GT(compared, 45);
  EXPECT_GT(different.size(), 5u);  // fedper, fedbn, scaffold, ifca, … differ in what they send
}

// Returns something else than it declares.
class Wrong final : public Wrapper {
 public:
  using Change = std::function<void(Update&)>;
  Wrong(std::unique_ptr<Algorithm> algorithm, Change change)
      : Wrapper(std::move(algorithm)), change_(std::move(change)) {}
  Update train(ClientGroup& group, const GlobalModel& global) const override {
    Update update = inner().train(group, global);
    change_(update);
    return update;
  }

 private:
  Change change_;
};

// Proves that what does not fit is named: the algorithm, the vector, both sizes.
TEST(Needs, WrongSizesAreNamed) {
  const auto error = [](const Wrong::Change& change) {
    Experiment e = experiment_of(everybody(), "scaffold", Local().lines(), 1);
    e.algorithm = std::make_unique<Wrong>(std::move(e.algorithm), change);
    return error_of([&] { run(e); });
  };
  EXPECT_THAT(error([](Update& u) { u.delta = u.delta.narrow(1, 0, 2); }),
              HasSubstr("algorithm scaffold returns a delta of shape [1, 2] (must be [1, 16]"));
  EXPECT_THAT(error([](Update& u) {
                u.extra["control_change"] = torch::zeros({1, 7});
              }),
              HasSubstr("the further vector 'control_change' of shape [1, 7] (must be [1, 16]"));
  EXPECT_THAT(error([](Update& u) { u.extra.clear(); }),
              HasSubstr("does not return the further vector 'control_change'"));
  EXPECT_THAT(error([](Update& u) {
                u.state["control"] = torch::zeros({2, 16});
              }),
              HasSubstr("the state 'control' of shape [2, 16] (must be [1, 16]"));
  EXPECT_THAT(error([](Update& u) {
                u.state["other"] = torch::zeros({1, 1});
              }),
              HasSubstr("returns a state 'other', which its needs() do not declare"));
  EXPECT_THAT(error([](Update& u) { u.clients.clear(); }),
              HasSubstr("returns 0 outcomes for 1 clients"));
}

}  // namespace
}  // namespace fl_sim
