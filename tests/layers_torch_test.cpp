// Layers against PyTorch's own modules, one per client, given the client's numbers.
#include <gtest/gtest.h>

#include <tuple>

#include "layer_trial.h"
#include "layers.h"

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
  const One<BatchNorm> norm(3);
  const torch::Tensor row = values(norm, 1)[0];
  EXPECT_TRUE(
      torch::equal(row, torch::cat({torch::ones({3}), torch::zeros({13}), torch::zeros({16}),
                                    torch::zeros({16}), torch::ones({3}), torch::zeros({13})})));
}

}  // namespace
}  // namespace fl_sim
