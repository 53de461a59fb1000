// Layers against PyTorch's own modules, one per client, given the client's numbers.
#include <gtest/gtest.h>

#include <tuple>

#include "layer_trial.h"
#include "network/layers.h"

namespace fl_sim {
namespace {

// Copies row c of `t` into the module's parameters and buffers, by name.
template <class Module>
void load(Module& module, const Trial& t, int64_t c) {
  torch::NoGradGuard no_grad;
  module->to(torch::kFloat64);
  const auto parameters = module->named_parameters();
  const auto buffers = module->named_buffers();
  const ParameterLayout& layout = t.network.layout();
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const std::string name = layout.parameters()[i].name.substr(6);  // behind "layer."
    torch::Tensor target = layout.parameters()[i].trainable ? parameters[name] : buffers[name];
    target.copy_(layout.view(t.rows, static_cast<int64_t>(i))[c]);
  }
}

template <class Module>
void compare_with(Module module, const Network& network, const std::vector<int64_t>& shape) {
  for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{{4}, {4, 4, 4}}) {
    const Trial t(network, counts, shape);
    const torch::Tensor output = t.train().output;
    for (int64_t c = 0; c < t.clients(); ++c) {
      load(module, t, c);
      EXPECT_LT(largest(output.select(1, c) - module->forward(t.samples.select(1, c)).flatten(1)),
                1e-12);
    }
  }
}

TEST(LayersAgainstTorch, Linear) { compare_with(torch::nn::Linear(4, 3), One<Linear>(4, 3), {4}); }

TEST(LayersAgainstTorch, Conv2d) {
  compare_with(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3).stride(2).padding(1)),
               One<Conv2d>(2, 3, 3, Conv2d::Options{.stride = 2, .padding = 1}), {2, 5, 4});
}

TEST(LayersAgainstTorch, Conv2dInGroups) {
  compare_with(torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 6, 3).padding(1).groups(2)),
               One<Conv2d>(4, 6, 3, Conv2d::Options{.padding = 1, .groups = 2}), {4, 5, 4});
  compare_with(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 3, 3).stride(2).groups(3).bias(false)),
               One<Conv2d>(3, 3, 3, Conv2d::Options{.stride = 2, .groups = 3, .bias = false}),
               {3, 5, 4});
}

// In a stack that is our own arithmetic; for one client it is PyTorch's, given the same parameters
// under the same names.
TEST(LayersAgainstTorch, Lstm) {
  for (const int64_t layers : {1, 2}) {
    constexpr int64_t kIn = 3, kHidden = 5, kLength = 7;
    const One<Lstm> network(kIn, kHidden, layers);
    torch::nn::LSTM module(
        torch::nn::LSTMOptions(kIn, kHidden).num_layers(layers).batch_first(true));
    for (const int64_t clients : {1, 3}) {
      const std::vector<int64_t> counts(static_cast<size_t>(clients), 4);
      const Trial t(network, counts, {kLength, kIn});
      const torch::Tensor output = t.train().output.view({4, clients, kLength, kHidden});
      for (int64_t c = 0; c < clients; ++c) {
        load(module, t, c);
        const auto [expected, states] = module->forward(t.samples.select(1, c));
        EXPECT_GT(largest(expected), 0.1);
        EXPECT_LT(largest(output.select(1, c) - expected), 1e-12);
        EXPECT_LT(largest(output.select(1, c).select(1, -1) - std::get<0>(states)[layers - 1]),
                  1e-12);
      }
    }
  }
}

TEST(LayersAgainstTorch, Embedding) {
  const One<Embedding> network(6, 3);
  torch::nn::Embedding module(6, 3);
  Trial t(network, {4, 4, 4}, {5});
  t.samples = torch::arange(4 * 3 * 5).remainder(6).view({4, 3, 5}).to(torch::kFloat64);
  const torch::Tensor output = t.evaluate().view({4, 3, 5, 3});
  for (int64_t c = 0; c < 3; ++c) {
    load(module, t, c);
    EXPECT_TRUE(torch::equal(output.select(1, c),
                             module->forward(t.samples.select(1, c).to(torch::kInt64))));
  }
}

TEST(LayersAgainstTorch, GroupNorm) {
  compare_with(torch::nn::GroupNorm(2, 4), One<GroupNorm>(2, 4), {4, 3, 2});
}

// Running statistics (momentum 0.1, unbiased variance) over three batches, outputs in training and
// in evaluation; with short batches each client's module sees its real samples.
TEST(LayersAgainstTorch, BatchNorm) {
  for (const std::vector<int64_t>& counts :
       std::vector<std::vector<int64_t>>{{4}, {4, 4, 4}, {4, 2, 3}}) {
    const One<BatchNorm> network(3);
    Trial t(network, counts, {3, 2, 2});
    std::vector<torch::nn::BatchNorm2d> modules;
    for (int64_t c = 0; c < t.clients(); ++c) {
      modules.emplace_back(3);
      load(modules.back(), t, c);
    }
    const ParameterLayout& layout = network.layout();
    for (uint64_t step = 0; step < 3; ++step) {
      t.samples = normal(t.samples.sizes().vec(), 10 + step);
      const Trial::Result result = t.train();
      t.rows = result.rows;
      for (int64_t c = 0; c < t.clients(); ++c) {
        const Trial single = t.alone(c);
        auto& module = modules[static_cast<size_t>(c)];
        module->train();
        const torch::Tensor expected = module->forward(single.samples.select(1, 0));
        EXPECT_LT(
            largest(result.output.select(1, c).narrow(0, 0, single.batch()) - expected.flatten(1)),
            1e-12);
        EXPECT_LT(largest(layout.view(t.rows, 2)[c] - module->running_mean), 1e-14);
        EXPECT_LT(largest(layout.view(t.rows, 3)[c] - module->running_var), 1e-14);
        module->eval();
        EXPECT_LT(
            largest(single.evaluate().select(1, 0) - module->forward(single.samples.select(1, 0))),
            1e-12);
      }
    }
  }
}

// Initial values are PyTorch's: the same bounds, evenly filled; norms start as the identity. The
// same seed gives the same row, another one another row, and the gaps between parameters are zero.
TEST(InitialValues, HaveTorchsBounds) {
  const auto values = [](const Network& network, uint64_t seed) {
    Rng rng(seed, "weights");
    return network.initial_row(rng).unsqueeze(0);
  };
  const One<Linear> linear(300, 200);
  const One<Conv2d> conv(20, 40, 5);
  torch::manual_seed(1);
  const torch::nn::Linear torch_linear(300, 200);
  const torch::nn::Conv2d torch_conv(20, 40, 5);
  for (const auto& [network, weight, bias] :
       {std::tuple<const Network*, torch::Tensor, torch::Tensor>{&linear, torch_linear->weight,
                                                                 torch_linear->bias},
        {&conv, torch_conv->weight, torch_conv->bias}}) {
    const torch::Tensor row = values(*network, 1);
    const torch::Tensor ours = network->layout().view(row, 0)[0];
    EXPECT_EQ(ours.sizes(), weight.sizes());
    EXPECT_NEAR(largest(ours) / largest(weight), 1, 0.005);
    EXPECT_NEAR(ours.std().item<double>() / weight.std().item<double>(), 1, 0.02);
    EXPECT_NEAR(ours.mean().item<double>() / largest(weight), 0, 0.02);
    const torch::Tensor our_bias = network->layout().view(row, 1)[0];
    EXPECT_EQ(our_bias.sizes(), bias.sizes());
    EXPECT_LE(largest(our_bias), largest(weight) * 1.005);
    EXPECT_GT(largest(our_bias), largest(weight) * 0.8);
    EXPECT_TRUE(torch::equal(row, values(*network, 1)));
    EXPECT_FALSE(torch::equal(row, values(*network, 2)));
  }
  // All of an LSTM's are bounded by 1 / sqrt(hidden); an embedding's have mean 0 and variance 1;
  // and He's have the variance of PyTorch's kaiming_normal_ by what goes out, with biases 0.
  const One<Lstm> lstm(3, 25, 2);
  const torch::Tensor of_lstm = values(lstm, 1);
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(largest(lstm.layout().view(of_lstm, i)), 0.2, 0.01) << i;
    EXPECT_NEAR(lstm.layout().view(of_lstm, i).mean().item<double>(), 0, 0.04) << i;
  }
  const torch::Tensor of_embedding = values(One<Embedding>(100, 100), 1);
  EXPECT_NEAR(of_embedding.mean().item<double>(), 0, 0.04);
  EXPECT_NEAR(of_embedding.std().item<double>(), 1, 0.02);
  const One<Conv2d> he(20, 40, 5, Conv2d::Options{.he_initial = true});
  torch::Tensor kaiming = torch_conv->weight.detach().clone();
  torch::nn::init::kaiming_normal_(kaiming, 0, torch::kFanOut);
  const torch::Tensor of_he = he.layout().view(values(he, 1), 0);
  EXPECT_NEAR(of_he.std().item<double>() / kaiming.std().item<double>(), 1, 0.02);
  EXPECT_EQ(largest(he.layout().view(values(he, 1), 1)), 0);
  const One<BatchNorm> norm(3);
  const torch::Tensor row = values(norm, 1)[0];
  EXPECT_TRUE(
      torch::equal(row, torch::cat({torch::ones({3}), torch::zeros({13}), torch::zeros({16}),
                                    torch::zeros({16}), torch::ones({3}), torch::zeros({13})})));
}

}  // namespace
}  // namespace fl_sim
