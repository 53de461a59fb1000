// Local training: stacks of clients against one client at a time, and one client against PyTorch's
// own optimiser.
#include "learning/local_training.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

// A training set that is dealt in consecutive lists, and everything that trains on it.
struct TrainingWorld {
  TrainingWorld(std::unique_ptr<Network> a_network, Samples samples,
                const std::vector<int64_t>& sizes, const std::string& lines,
                torch::ScalarType a_dtype = torch::kFloat64)
      : job(hand_made_job(lines)),
        network(std::move(a_network)),
        partition(make_partition(consecutive(sizes))),
        data{.train = std::move(samples), .partition = &partition},
        setup{job, *network, partition.clients(), partition.offsets.back()},
        dtype(a_dtype) {
    Rng rng(3, "weights");
    global.round = 2;
    global.weights = network->initial_row(rng).unsqueeze(0).to(dtype);
  }
  TrainingWorld(const TrainingWorld&) = delete;

  ClientGroup group(std::vector<int64_t> ids) const {
    ClientGroup group{.ids = std::move(ids), .data = data, .seed = 7};
    group.rows = global.weights.expand({group.size(), -1}).clone();
    return group;
  }
  Update train(std::vector<int64_t> ids, const GradientHook& hook = {}) const {
    ClientGroup clients = group(std::move(ids));
    return LocalTraining(setup).train(clients, global, LocalRule{.gradient = hook});
  }

  Job job;
  std::unique_ptr<Network> network;
  Partition partition;
  ClientData data;
  Algorithm::Setup setup;
  torch::ScalarType dtype;
  GlobalModel global;
};

double largest_value(const torch::Tensor& tensor) { return tensor.abs().max().item<double>(); }

// One row of the table of stacks: a network on data of its shape, an algorithm, its job.
struct Stack {
  const char* name;
  const char* algorithm;
  const char* lines;
  std::unique_ptr<Network> (*network)();
  std::vector<int64_t> shape;
};

std::unique_ptr<Network> small_mlp() { return std::make_unique<SmallMlp>(6, 5, 3); }
std::unique_ptr<Network> norm_dropout() { return std::make_unique<NormDropoutMlp>(6, 5, 3, 0.3); }
std::unique_ptr<Network> conv() { return std::make_unique<SmallConvNet>(2, 3); }

const char* const kEverything =
    "local.momentum = 0.9\nlocal.nesterov = true\nlocal.weight-decay = 0.01\nlocal.clip-norm = 0.5";

std::vector<Stack> stacks() {
  return {{"Plain", "fedavg", "", small_mlp, {6}},
          {"Momentum", "fedavg", "local.momentum = 0.9", small_mlp, {6}},
          {"Nesterov", "fedavg", "local.momentum = 0.9\nlocal.nesterov = true", small_mlp, {6}},
          {"WeightDecay", "fedavg", "local.weight-decay = 0.1", small_mlp, {6}},
          {"Clipping", "fedavg", "local.clip-norm = 0.2", small_mlp, {6}},
          {"Prox", "fedprox", "fedprox.mu = 0.5", small_mlp, {6}},
          {"Scaffold", "scaffold", "local.momentum = 0.5", small_mlp, {6}},
          {"Conv", "scaffold", kEverything, conv, {2, 8, 8}},
          {"NormDropout", "fedavg", "", norm_dropout, {6}},
          {"NormDropoutEverything", "scaffold", kEverything, norm_dropout, {6}}};
}

class Stacks : public testing::TestWithParam<Stack> {
 protected:
  // Trains the clients 0, 1, ... in one stack and one by one, and compares row by row.
  void compare(const std::vector<int64_t>& sizes, const std::string& lines,
               torch::ScalarType dtype) {
    const Stack& p = GetParam();
    const TrainingWorld world(
        p.network(), random_samples(consecutive(sizes).back().back() + 1, p.shape, 3), sizes,
        message("algorithm = ", p.algorithm, "\n", p.lines, "\n", lines), dtype);
    const auto algorithm = make<Algorithm>(p.algorithm, world.setup);
    const auto n = static_cast<int64_t>(sizes.size());
    ServerState server;
    server.round = 2;
    server.weights = world.global.weights;
    algorithm->init(server);
    torch::manual_seed(5);
    State state;  // as after some rounds
    for (const auto& [name, size] : algorithm->needs().client_state) {
      state[name] = torch::randn({n, size}, world.global.weights.options()) / 10;
    }
    for (auto& [name, tensor] : server.shared) tensor.normal_().div_(10);

    const auto train = [&](int64_t first, int64_t count) {
      std::vector<int64_t> ids;
      for (int64_t i = first; i < first + count; ++i) ids.push_back(i);
      ClientGroup group = world.group(ids);
      for (const auto& [name, tensor] : state) {
        group.state[name] = tensor.narrow(0, first, count).clone();
      }
      return algorithm->train(group, server);
    };
    const Update stacked = train(0, n);
    for (int64_t i = 0; i < n; ++i) {
      const Update alone = train(i, 1);
      const size_t at = static_cast<size_t>(i);
      const auto near = [&](const torch::Tensor& a, const torch::Tensor& b, const char* what) {
        ASSERT_GT(largest_value(b), 0) << what << " of client " << i;
        if (dtype == torch::kFloat64) {
          EXPECT_LE(largest_value(a - b), 1e-10) << what << " of client " << i;
        } else {
          EXPECT_LE((a - b).norm().item<double>() / b.norm().item<double>(), 1e-4)
              << what << " of client " << i;
        }
      };
      near(stacked.delta[i], alone.delta[0], "delta");
      for (const auto& [name, tensor] : alone.extra)
        near(stacked.extra.at(name)[i], tensor[0], "extra");
      for (const auto& [name, tensor] : alone.state)
        near(stacked.state.at(name)[i], tensor[0], "state");
      const double tolerance = dtype == torch::kFloat64 ? 1e-10 : 1e-4;
      EXPECT_EQ(stacked.clients[at].steps, alone.clients[0].steps);
      EXPECT_EQ(stacked.clients[at].samples_seen, alone.clients[0].samples_seen);
      EXPECT_EQ(stacked.clients[at].step_weight, alone.clients[0].step_weight);
      EXPECT_NEAR(stacked.clients[at].loss, alone.clients[0].loss, tolerance);
      EXPECT_NEAR(stacked.clients[at].loss_before, alone.clients[0].loss_before, tolerance);
      EXPECT_NEAR(stacked.clients[at].loss_after, alone.clients[0].loss_after, tolerance);
    }
    if (lines.find("steps") != std::string::npos) return;
    EXPECT_GT(stacked.clients.front().steps, stacked.clients.back().steps);
  }
};

// Batches of 4: 12, 7 and 3 steps, with last batches of 2, 3 and 1 samples.
TEST_P(Stacks, ThreeClientsEqualOneAtATime) {
  compare({46, 27, 9}, "local.batch-size = 4\nlocal.lr = 0.1", torch::kFloat64);
}

// 8 clients, among them equals, one with full batches only and one with a single sample.
TEST_P(Stacks, EightClientsEqualOneAtATime) {
  compare({46, 45, 28, 27, 27, 12, 9, 1}, "local.batch-size = 4\nlocal.lr = 0.1", torch::kFloat64);
}

// In float32 rounding differs; after 5 steps by no more than 1e-4 of the update.
TEST_P(Stacks, SingleAndStackedAgreeInFloat32) {
  compare({46, 27, 9}, "local.batch-size = 4\nlocal.lr = 0.1\nlocal.steps = 5", torch::kFloat32);
}

INSTANTIATE_TEST_SUITE_P(LocalTraining, Stacks, testing::ValuesIn(stacks()),
                         [](const auto& info) { return std::string(info.param.name); });

// A row that has done its steps rests: not a bit of it changes while others go on, neither weights
// (in spite of momentum and weight decay) nor running statistics.
TEST(LocalTraining, AFinishedRowRests) {
  for (const bool hooked : {true, false}) {
    const TrainingWorld world(
        norm_dropout(), random_samples(55, {6}, 3), {46, 9},
        std::string(hooked ? kEverything : "") + "\nlocal.batch-size = 4\nlocal.lr = 0.1");
    ClientGroup group = world.group({0, 1});
    torch::Tensor at_rest;
    int64_t calls = 0;
    const GradientHook watch = [&](LocalStep& step) {
      ++calls;
      EXPECT_EQ(step.clients, calls <= 3 ? 2 : 1);
      EXPECT_EQ(step.rows.size(0), step.clients);
      EXPECT_EQ(step.gradients.size(0), step.clients);
      if (calls == 4) at_rest = group.rows.clone();
    };
    LocalTraining(world.setup).train(group, world.global, LocalRule{.gradient = watch});
    EXPECT_EQ(calls, 12);
    EXPECT_TRUE(torch::equal(at_rest[1], group.rows[1]));
    EXPECT_FALSE(torch::equal(at_rest[0], group.rows[0]));
    EXPECT_FALSE(torch::equal(at_rest[1], world.global.weights[0]));
  }
}

// A network that remembers the batches it was given, in order.
class Recorder final : public Network {
 public:
  explicit Recorder(std::unique_ptr<Network> network) : network_(std::move(network)) {
    layout_ = network_->layout();
  }
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    inputs.push_back(x.clone());
    return network_->forward(weights, x);
  }
  torch::Tensor loss(const torch::Tensor& output, const torch::Tensor& y) const override {
    labels.push_back(y.flatten().clone());
    return network_->loss(output, y);
  }
  mutable std::vector<torch::Tensor> inputs, labels;

 private:
  std::unique_ptr<Network> network_;
};

// One client's training is what PyTorch's own modules and torch::optim::SGD make of the same
// batches: parameters and running statistics, for plain SGD, momentum, Nesterov, weight decay and
// clip_grad_norm_.
TEST(LocalTraining, EqualsTorchOptimSgd) {
  struct Case {
    double momentum, weight_decay, clip;
    bool nesterov;
  };
  for (const Case& c : std::vector<Case>{{0, 0, 0, false},
                                         {0.9, 0, 0, false},
                                         {0.9, 0, 0, true},
                                         {0, 0.1, 0, false},
                                         {0, 0, 0.3, false},
                                         {0.8, 0.05, 0.3, true}}) {
    const TrainingWorld world(
        std::make_unique<Recorder>(std::make_unique<NormalisedLinear>(6, 3)),
        random_samples(22, {6}, 3), {22},
        message(
            "local.epochs = 2\nlocal.batch-size = 4\nlocal.lr = 0.1\nlocal.momentum = ", c.momentum,
            "\nlocal.weight-decay = ", c.weight_decay, "\nlocal.clip-norm = ", c.clip,
            "\nlocal.nesterov = ", c.nesterov ? "true" : "false"));
    const Update update = world.train({0});
    EXPECT_EQ(update.clients[0].steps, 12);  // of 4, 4, 4, 4, 4, 2 samples, twice

    torch::nn::BatchNorm1d norm(6);
    torch::nn::Linear fc(6, 3);
    torch::nn::Sequential net(norm, fc);
    net->to(torch::kFloat64);
    const ParameterLayout& layout = world.network->layout();
    const std::vector<torch::Tensor> own = {norm->weight,      norm->bias, norm->running_mean,
                                            norm->running_var, fc->weight, fc->bias};
    {
      torch::NoGradGuard no_grad;
      for (size_t i = 0; i < own.size(); ++i) {
        const torch::Tensor& target = own[i];
        target.copy_(layout.view(world.global.weights, static_cast<int64_t>(i))[0]);
      }
    }
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1)
                                                       .momentum(c.momentum)
                                                       .weight_decay(c.weight_decay)
                                                       .nesterov(c.nesterov));
    const auto& recorder = static_cast<const Recorder&>(*world.network);
    ASSERT_EQ(recorder.inputs.size(), 12u);
    for (size_t step = 0; step < recorder.inputs.size(); ++step) {
      optimizer.zero_grad();
      torch::nn::functional::cross_entropy(net->forward(recorder.inputs[step]),
                                           recorder.labels[step])
          .backward();
      if (c.clip > 0) torch::nn::utils::clip_grad_norm_(net->parameters(), c.clip);
      optimizer.step();
    }
    const torch::Tensor trained = world.global.weights + update.delta;
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_LT(largest_value(layout.view(trained, static_cast<int64_t>(i))[0] - own[i]), 1e-12)
          << layout.parameters()[i].name << " with momentum " << c.momentum << ", clip " << c.clip;
    }
  }
}

// The ids of the samples in a recorded batch; feature 0 of the data says them.
std::vector<int64_t> ids_of(const torch::Tensor& batch) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < batch.size(0); ++i) ids.push_back(batch[i][0].item<int64_t>());
  return ids;
}

// What a client is shown in a round: its samples in the order shown, and the sizes of its batches.
std::pair<std::vector<int64_t>, std::vector<int64_t>> shown(const std::string& lines,
                                                            int64_t client, int64_t round,
                                                            uint64_t seed = 7) {
  Samples data = random_samples(30, {6}, 3);
  data.inputs.select(1, 0).copy_(torch::arange(30));
  TrainingWorld world(std::make_unique<Recorder>(small_mlp()), data, {10, 10, 10}, lines);
  world.global.round = round;
  ClientGroup group{.ids = {client}, .data = world.data, .seed = seed};
  group.rows = world.global.weights.clone();
  LocalTraining(world.setup).train(group, world.global);
  std::vector<int64_t> order, sizes;
  for (const torch::Tensor& x : static_cast<const Recorder&>(*world.network).inputs) {
    for (const int64_t id : ids_of(x)) order.push_back(id);
    sizes.push_back(x.size(0));
  }
  return {order, sizes};
}

// Every epoch shows each of a client's own samples once, the last batch included, in an order that
// depends on epoch, round, client and seed, and on nothing else.
TEST(LocalTraining, AnEpochIsAPermutationOfTheClientsSamples) {
  const std::string lines = "local.epochs = 2\nlocal.batch-size = 4\nlocal.lr = 0.01";
  const auto [order, sizes] = shown(lines, 1, 1);
  EXPECT_EQ(sizes, (std::vector<int64_t>{4, 4, 2, 4, 4, 2}));
  const std::vector<int64_t> first(order.begin(), order.begin() + 10);
  const std::vector<int64_t> second(order.begin() + 10, order.end());
  std::vector<int64_t> own(10);
  std::iota(own.begin(), own.end(), 10);
  for (std::vector<int64_t> epoch : {first, second}) {
    std::sort(epoch.begin(), epoch.end());
    EXPECT_EQ(epoch, own);
  }
  EXPECT_NE(first, second);
  EXPECT_NE(first, own);
  EXPECT_EQ(shown(lines, 1, 1).first, order);
  EXPECT_NE(shown(lines, 1, 2).first, order);
  EXPECT_NE(shown(lines, 1, 1, 8).first, order);
  std::vector<int64_t> other = shown(lines, 2, 1).first;
  for (int64_t& id : other) id -= 10;
  EXPECT_NE(other, order);
}

// Proves that it is the mean over all samples of all batches (in FedScale and Oort the last batch's
// alone), however large these are, with and without momentum, for clients alone and in a group: at
// weights that do not move, of the losses of the samples one by one. Nobody asks: nothing is said.
TEST(LocalTraining, SquaredLosses) {
  for (const char* more : {"", "local.momentum = 0.9"}) {
    for (const std::vector<int64_t>& ids : {std::vector<int64_t>{0, 1}, {1}}) {
      TrainingWorld world(
          small_mlp(), random_samples(12, {6}, 3), {7, 5},
          message("local.epochs = 2\nlocal.batch-size = 3\nlocal.lr = 1e-30\n", more));
      ClientGroup group = world.group(ids);
      EXPECT_TRUE(std::isnan(world.train(ids).clients[0].squared_loss));
      group.squared_losses = true;
      const Update update = LocalTraining(world.setup).train(group, world.global);
      for (size_t i = 0; i < ids.size(); ++i) {
        const Weights weights(world.network->layout(), world.global.weights);
        double expected = 0;
        const auto own = world.partition.of(ids[i]);
        for (const int64_t sample : own) {
          const torch::Tensor x =
              world.data.train.inputs[sample].to(torch::kFloat64).view({1, 1, 6});
          const torch::Tensor label = world.data.train.labels[sample].view({1, 1});
          const torch::Tensor scores = world.network->forward(weights, stack_inputs(x[0], 1));
          expected += std::pow(world.network->loss(scores, label).item<double>(), 2);
        }
        EXPECT_NEAR(update.clients[i].squared_loss, expected / static_cast<double>(own.size()),
                    1e-9);
        EXPECT_GT(std::abs(update.clients[i].squared_loss -
                           update.clients[i].loss * update.clients[i].loss),
                  1e-6);
      }
    }
  }
}

// local.steps counts steps instead of epochs: epochs follow one another, the last one is cut.
TEST(LocalTraining, StepsInsteadOfEpochs) {
  const std::string lines = "local.batch-size = 4\nlocal.lr = 0.01\n";
  const auto [order, sizes] = shown(lines + "local.steps = 5", 0, 1);
  EXPECT_EQ(sizes, (std::vector<int64_t>{4, 4, 2, 4, 4}));
  const auto whole = shown(lines + "local.epochs = 2", 0, 1).first;
  EXPECT_EQ(order, std::vector<int64_t>(whole.begin(), whole.begin() + 18));

  const LocalPlan by_steps(hand_made_job(lines + "local.steps = 5"));
  const LocalPlan by_epochs(hand_made_job(lines + "local.epochs = 3"));
  for (const auto& [samples, steps] : {std::pair{0, 0}, {1, 3}, {4, 3}, {5, 6}, {8, 6}, {9, 9}}) {
    EXPECT_EQ(by_epochs.steps_of(samples), steps);
    EXPECT_EQ(by_steps.steps_of(samples), samples == 0 ? 0 : 5);
  }
}

// The local rate of round t is lr * decay^(t-1): one full-batch step moves in proportion to it.
TEST(LocalTraining, LearningRateDecaysByRound) {
  TrainingWorld world(small_mlp(), random_samples(10, {6}, 3), {10},
                      "local.batch-size = 10\nlocal.lr = 0.4\nlocal.lr-decay = 0.5");
  world.global.round = 1;
  const torch::Tensor first = world.train({0}).delta;
  world.global.round = 4;
  EXPECT_LT(largest_value(world.train({0}).delta - first / 8), 1e-14);
  EXPECT_GT(largest_value(first), 0.01);
  EXPECT_DOUBLE_EQ(LocalTraining(world.setup).learning_rate(4), 0.05);
}

// ||a_k||_1 is how far a constant gradient of 1 moves the weights, in units of the rate.
TEST(LocalTraining, StepWeightIsTheDisplacementOfUnitGradients) {
  for (const char* lines :
       {"", "local.momentum = 0.9", "local.momentum = 0.7\nlocal.nesterov = true"}) {
    const TrainingWorld world(small_mlp(), random_samples(36, {6}, 3), {27, 9},
                              message(lines, "\nlocal.batch-size = 4\nlocal.lr = 0.5"));
    const Update update = world.train({0, 1}, [](LocalStep& step) { step.gradients.fill_(1); });
    const torch::Tensor moved = update.delta.narrow(1, 0, world.network->layout().trainable());
    EXPECT_EQ(update.clients[0].steps, 7);
    EXPECT_EQ(update.clients[1].steps, 3);
    for (int64_t i = 0; i < 2; ++i) {
      EXPECT_LT(largest_value(moved[i] / -0.5 - update.clients[static_cast<size_t>(i)].step_weight),
                1e-12);
    }
    if (lines[0] == 0) {
      EXPECT_EQ(update.clients[0].step_weight, 7);
      EXPECT_EQ(update.clients[1].step_weight, 3);
    }
  }
}

// The hook sees the gradient of the mean loss at the current weights, clipping comes after it.
TEST(LocalTraining, TheHookComesBeforeClipping) {
  const TrainingWorld world(small_mlp(), random_samples(9, {6}, 3), {9},
                            "local.batch-size = 9\nlocal.lr = 1\nlocal.clip-norm = 0.25");
  const Update update = world.train({0}, [](LocalStep& step) { step.gradients.mul_(1000); });
  EXPECT_NEAR(update.delta.norm().item<double>(), 0.25, 1e-6);
}

// Losses as the records have them, on a quadratic: before the first step, before the last, and the
// mean over all samples seen.
TEST(LocalTraining, LossesAreThoseOfTheWeightsBeforeEachStep) {
  const Problem problem = example_problem();
  const Local local{.steps = 3};
  Experiment e = experiment_of(problem, local.lines());
  const ClientData data{e.data.train, 1, 0, &e.partition};
  Rng rng(0, "weights");
  GlobalModel global{.round = 1,
                     .weights = e.network->initial_row(rng).unsqueeze(0).to(torch::kFloat64),
                     .shared = {}};
  ClientGroup group{.ids = {3}, .data = data, .seed = 0};
  group.rows = global.weights.clone();
  const Update update = e.algorithm->train(group, global);
  std::vector<double> losses;
  for (int64_t steps = 0; steps < 3; ++steps) {
    Local part = local;
    part.steps = steps;
    const Vector w = problem.train(3, problem.start, part);
    double loss = 0;
    for (const Point& p : problem.clients[3])
      loss += (p.curvature * (w - p.a) * (w - p.a)).sum() / 16;
    losses.push_back(loss);
  }
  EXPECT_NEAR(update.clients[0].loss_before, losses[0], 1e-12);
  EXPECT_NEAR(update.clients[0].loss_after, losses[2], 1e-12);
  EXPECT_NEAR(update.clients[0].loss, (losses[0] + losses[1] + losses[2]) / 3, 1e-12);
  EXPECT_EQ(update.clients[0].samples_seen, 24);
}

// A client without samples takes no step, alone or at the end of a stack, and returns a delta of 0.
TEST(LocalTraining, AClientWithoutSamplesDoesNothing) {
  const TrainingWorld world(small_mlp(), random_samples(20, {6}, 3), {12, 8, 0},
                            "local.batch-size = 4\nlocal.lr = 0.1\nlocal.momentum = 0.5");
  const Update stacked = world.train({0, 1, 2}), alone = world.train({2});
  for (const auto& [update, row] : {std::pair{&stacked, 2}, std::pair{&alone, 0}}) {
    EXPECT_EQ(largest_value(update->delta[row]), 0);
    EXPECT_EQ(update->clients[static_cast<size_t>(row)].steps, 0);
    EXPECT_EQ(update->clients[static_cast<size_t>(row)].step_weight, 0);
    EXPECT_EQ(update->clients[static_cast<size_t>(row)].samples_seen, 0);
    EXPECT_TRUE(std::isnan(update->clients[static_cast<size_t>(row)].loss));
  }
  EXPECT_LT(largest_value(stacked.delta[1] - world.train({1}).delta[0]), 1e-10);
}

// A straggler's limit is in the job's unit: epochs, or steps where the job counts in steps, also
// where the algorithm's own rule counts in the other.
TEST(LocalTraining, AStragglersLimitIsInTheJobsUnit) {
  const auto steps_of = [](const std::string& lines, const LocalRule& rule,
                           std::vector<int64_t> limits) {
    const TrainingWorld world(small_mlp(), random_samples(20, {6}, 3), {12, 8},
                              "local.batch-size = 4\nlocal.lr = 0.1\n" + lines);
    ClientGroup group = world.group({0, 1});
    group.limits = std::move(limits);
    const Update update = LocalTraining(world.setup).train(group, world.global, rule);
    return std::vector<int64_t>{update.clients[0].steps, update.clients[1].steps};
  };
  using Steps = std::vector<int64_t>;
  EXPECT_EQ(steps_of("local.epochs = 3", {}, {}), (Steps{9, 6}));
  EXPECT_EQ(steps_of("local.epochs = 3", {}, {1, 2}), (Steps{3, 4}));
  EXPECT_EQ(steps_of("local.steps = 5", {}, {2, 0}), (Steps{2, 5}));
  // Epochs of the rule under a job that counts in steps: 6 and 4 steps at most.
  EXPECT_EQ(steps_of("local.steps = 5", {.epochs = 2}, {}), (Steps{6, 4}));
  EXPECT_EQ(steps_of("local.steps = 5", {.epochs = 2}, {1, 3}), (Steps{1, 3}));
  EXPECT_EQ(steps_of("local.steps = 5", {.epochs = 2}, {0, 3}), (Steps{6, 3}));
  EXPECT_EQ(steps_of("local.steps = 5", {.epochs = 2}, {100, 1}), (Steps{6, 1}));
  EXPECT_EQ(steps_of("local.epochs = 3", {.epochs = 0}, {1, 2}), (Steps{0, 0}));
}

// Clients whose numbers of steps are not in a group's order are sorted where nothing in the rule
// belongs to a client's row; elsewhere that is refused.
TEST(LocalTraining, RowsOfClientsCannotBeSorted) {
  const TrainingWorld world(small_mlp(), random_samples(20, {6}, 3), {8, 12},
                            "local.batch-size = 4\nlocal.lr = 0.1");
  const int64_t trainable = world.network->layout().trainable();
  const torch::Tensor each = torch::zeros({2, trainable}, torch::kFloat64);
  const auto trained = [&](const LocalRule& rule) {
    ClientGroup group = world.group({0, 1});
    return LocalTraining(world.setup).train(group, world.global, rule);
  };
  const Update common = trained({.affine = {.pull = 0.5, .anchor = each[0]}});
  EXPECT_EQ(common.clients[0].steps, 2);
  EXPECT_EQ(common.clients[1].steps, 3);
  const std::string refused = "clients of a group must come with the most steps first";
  EXPECT_ERROR(trained({.affine = {.pull = 0.5, .anchor = each}}), refused);
  EXPECT_ERROR(trained({.affine = {.shift = each}}), refused);
  EXPECT_ERROR(trained({.displacement = each}), refused);
  EXPECT_ERROR(trained({.gradient = [](LocalStep&) {}}), refused);
  EXPECT_ERROR(trained({.at = [](LocalStep& step) { return step.whole; }}), refused);
  EXPECT_ERROR(trained({.loss = [](LocalStep&, Scored&) {}}), refused);
}

// What an algorithm's training cannot do is refused as it is made.
TEST(LocalTraining, AlgorithmsRefuseWhatTheyCannotHeed) {
  const TrainingWorld world(small_mlp(), random_samples(4, {6}, 3), {4}, "");
  const auto refused = [&](const std::string& algorithm, const std::string& lines,
                           Objective::Kind kind) {
    const Job job = hand_made_job("algorithm = " + algorithm + "\n" + lines);
    auto network = small_mlp();
    network->set_objective(Objective(kind), 1);
    return error_of([&] { make<Algorithm>(algorithm, {job, *network, 1, 4}); });
  };
  for (const Objective::Kind kind : {Objective::Kind::kBinary, Objective::Kind::kSquared})
    EXPECT_NE(refused("fml", "", kind).find("choose objective cross-entropy"), std::string::npos);
  for (const char* lines : {"server.optimizer = adam\nserver.lr = 1", "server.lr = 0.5"})
    EXPECT_NE(refused("centralized", lines, Objective::Kind::kCrossEntropy).find("has no server"),
              std::string::npos)
        << lines;
  // In cohorts of its own it is said whose they are; one cohort is the job's.
  const std::string inner = refused("fml", "", Objective::Kind::kSquared);
  EXPECT_EQ(refused("pwfl", "pwfl.inner = fml\npwfl.models = 1\ncohort = 4\nclients = 4",
                    Objective::Kind::kSquared),
            inner);
  EXPECT_EQ(refused("pwfl", "pwfl.inner = fml\npwfl.models = 2\ncohort = 4\nclients = 4",
                    Objective::Kind::kSquared),
            "pwfl.inner is fml, in cohorts of 2: " + inner);
}

// Nesterov's form needs a momentum; a job that asks for it without one is told so.
TEST(LocalTraining, NesterovNeedsMomentum) {
  EXPECT_ERROR(TrainingWorld(small_mlp(), random_samples(4, {6}, 3), {4}, "local.nesterov = true")
                   .train({0}),
               "local.nesterov is on, but local.momentum is 0");
}

}  // namespace
}  // namespace fl_sim
