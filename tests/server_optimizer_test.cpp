// Server optimisers on rows that are made by hand: several models, buffers, and what is remembered.
#include "learning/server_optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "any_job.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

constexpr const char* kRules[] = {"sgd", "momentum", "adagrad", "adam", "yogi"};

// A network with buffers, and a server that holds `models` random rows of it.
struct Trial {
  explicit Trial(const std::string& lines, int64_t models, bool bias_correction = false)
      : job(any_job(lines)), optimizer({job, network, 1, 1}, bias_correction) {
    torch::manual_seed(1);
    server.weights = torch::randn({models, network.layout().row()});
    optimizer.init(server);
  }

  torch::Tensor delta() const { return torch::randn({1, network.layout().row()}); }

  NormalisedLinear network{3, 2};
  Job job;
  ServerOptimizer optimizer;
  ServerState server;
};

// Proves that models of one server do not touch one another: each row goes as it would alone, bit
// for bit, whatever the other does in between.
TEST(ServerOptimizer, EachModelGoesItsOwnWay) {
  for (const std::string rule : kRules) {
    const std::string lines = "server.optimizer = " + rule + "\nserver.lr = 0.5";
    Trial both(lines, 2), first(lines, 1), second(lines, 1);
    first.server.weights.copy_(both.server.weights.narrow(0, 0, 1));
    second.server.weights.copy_(both.server.weights.narrow(0, 1, 1));
    for (const int64_t model : {0, 1, 1, 0, 1}) {
      const torch::Tensor delta = both.delta();
      both.optimizer.step(both.server, delta, model);
      Trial& alone = model == 0 ? first : second;
      alone.optimizer.step(alone.server, delta);
    }
    EXPECT_TRUE(torch::equal(both.server.weights[0], first.server.weights[0])) << rule;
    EXPECT_TRUE(torch::equal(both.server.weights[1], second.server.weights[0])) << rule;
    for (const auto& [name, tensor] : both.server.hidden) {
      EXPECT_TRUE(torch::equal(tensor[0], first.server.hidden.at(name)[0])) << rule << " " << name;
      EXPECT_TRUE(torch::equal(tensor[1], second.server.hidden.at(name)[0])) << rule << " " << name;
    }
  }
}

// Proves that Adam's bias correction counts the steps of each model by itself.
TEST(ServerOptimizer, BiasCorrectionCountsAModelsOwnSteps) {
  Trial trial("server.optimizer = adam", 2, /*bias_correction=*/true);
  for (int step = 0; step < 3; ++step) trial.optimizer.step(trial.server, trial.delta(), 1);
  EXPECT_TRUE(
      torch::equal(trial.server.hidden.at("server.steps"), torch::tensor({0, 3}, torch::kInt64)));
  const torch::Tensor before = trial.server.weights.clone(), delta = trial.delta();
  // A first step is lr D / (|D| + tau), whatever beta1 and beta2 are.
  trial.optimizer.step(trial.server, delta, 0);
  const int64_t trained = trial.network.layout().trainable();
  const torch::Tensor d = delta[0].narrow(0, 0, trained);
  EXPECT_TRUE(torch::allclose((trial.server.weights - before)[0].narrow(0, 0, trained),
                              d / (d.abs() + 0.001), 1e-4, 1e-5));
}

// Proves that buffers are replaced by their mean under every rule: neither rate nor memory.
TEST(ServerOptimizer, BuffersFollowTheirMean) {
  for (const std::string rule : kRules) {
    Trial trial("server.optimizer = " + rule + "\nserver.lr = 0.125", 2);
    const int64_t trained = trial.network.layout().trainable(),
                  buffers = trial.network.layout().row() - trained;
    ASSERT_GT(buffers, 0);
    torch::Tensor expected = trial.server.weights.narrow(1, trained, buffers).clone();
    for (int step = 0; step < 2; ++step) {
      const torch::Tensor delta = trial.delta();
      expected[1] += delta[0].narrow(0, trained, buffers);
      trial.optimizer.step(trial.server, delta, 1);
    }
    EXPECT_TRUE(torch::equal(trial.server.weights.narrow(1, trained, buffers), expected)) << rule;
  }
}

// Proves that a rule remembers what its formula says and no more.
TEST(ServerOptimizer, RemembersWhatItsRuleSays) {
  const std::map<std::string, std::vector<std::string>> expected = {
      {"sgd", {}},
      {"momentum", {"server.u"}},
      {"adagrad", {"server.m", "server.v"}},
      {"adam", {"server.m", "server.v"}},
      {"yogi", {"server.m", "server.v"}}};
  for (const auto& [rule, names] : expected) {
    const Trial trial("server.optimizer = " + rule, 3);
    std::vector<std::string> actual;
    for (const auto& [name, tensor] : trial.server.hidden) {
      actual.push_back(name);
      EXPECT_EQ(tensor.sizes().vec(),
                (std::vector<int64_t>{3, trial.network.layout().trainable()}));
    }
    EXPECT_EQ(actual, names) << rule;
  }
}

}  // namespace
}  // namespace fl_sim
