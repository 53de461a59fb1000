// What TorchScript modules keep beside their code: parameters that are held in lists, tied weights,
// buffers that forward() assigns, counters; and what is refused since it would be lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/script.h>

#include "torchscript_modules.h"

namespace fl_sim {
namespace {

struct Plain {
  torch::Tensor weight, bias;
  Plain() {
    torch::manual_seed(8);
    weight = trained(torch::randn({3, 4}));
    bias = trained(torch::randn({3}));
  }
};

Module plain_module(const Plain& plain, const std::string& forward) {
  Module net = module_of("Net", "");
  net.register_parameter("weight", plain.weight, false);
  net.register_parameter("bias", plain.bias, false);
  if (!forward.empty()) net.define(forward);
  return net;
}

const char* const kPlainForward =
    "def forward(self, x):\n    return torch.matmul(x, self.weight.t()) + self.bias\n";

torch::Tensor delta_of(const Module& module) {
  const ScriptFile file(module);
  const auto network = file.load(4, 3);
  Rng rng(0, "weights");
  return train_once(*network, network->initial_row(rng), 0, 4, 3).delta;
}

// A training pass and its gradient at rows [1, P], whose buffers it changes.
torch::Tensor train_pass(const Network& network, const torch::Tensor& rows,
                         const torch::Tensor& x) {
  torch::Tensor gradients = torch::zeros({1, network.layout().trainable()});
  const Weights weights(network.layout(), rows, gradients);
  const torch::Tensor output = network.forward(weights, x);
  weights.backward(output.square().sum());
  return gradients;
}

torch::Tensor initial_rows(const Network& network) {
  Rng rng(0, "weights");
  return network.initial_row(rng).unsqueeze(0);
}

// nn.LSTM reads its weights from the list _flat_weights: parameters train wherever they are held.
TEST(TorchScriptState, ParametersInContainersTrain) {
  const Plain plain;
  const torch::Tensor expected = delta_of(plain_module(plain, kPlainForward));
  EXPECT_GT(expected.norm().item<double>(), 0.01);

  Module list = plain_module(plain, "");
  list.register_attribute("held", c10::ListType::ofTensors(),
                          c10::List<torch::Tensor>({plain.weight, plain.bias}));
  list.define(
      "def forward(self, x):\n    return torch.matmul(x, self.held[0].t()) + self.held[1]\n");
  EXPECT_TRUE(delta_of(list).equal(expected));

  c10::Dict<std::string, torch::Tensor> named;
  named.insert("w", plain.weight);
  named.insert("b", plain.bias);
  Module dict = plain_module(plain, "");
  dict.register_attribute(
      "held", c10::DictType::create(c10::StringType::get(), c10::TensorType::get()), named);
  dict.define(
      "def forward(self, x):\n"
      "    return torch.matmul(x, self.held['w'].t()) + self.held['b']\n");
  EXPECT_TRUE(delta_of(dict).equal(expected));

  Module tuple = plain_module(plain, "");
  tuple.register_attribute(
      "held", c10::TupleType::create({c10::ListType::ofTensors(), c10::TensorType::get()}),
      c10::ivalue::Tuple::create({c10::List<torch::Tensor>({plain.weight}), plain.bias}));
  tuple.define(
      "def forward(self, x):\n"
      "    return torch.matmul(x, self.held[0][0].t()) + self.held[1]\n");
  EXPECT_TRUE(delta_of(tuple).equal(expected));

  Module attribute = plain_module(plain, "");
  attribute.register_attribute("held", c10::TensorType::get(), plain.weight);
  attribute.define(
      "def forward(self, x):\n    return torch.matmul(x, self.held.t()) + self.bias\n");
  EXPECT_TRUE(delta_of(attribute).equal(expected));
}

// As torch.jit.script(nn.LSTM(...)) has it: all weights get the gradient that LibTorch gives them.
TEST(TorchScriptState, ScriptedRecurrentLayersTrain) {
  torch::manual_seed(5);
  Module net = module_of("Net", "");
  c10::List<torch::Tensor> flat;
  for (const auto& [name, shape] :
       std::vector<std::pair<std::string, std::vector<int64_t>>>{{"weight_ih_l0", {12, 2}},
                                                                 {"weight_hh_l0", {12, 3}},
                                                                 {"bias_ih_l0", {12}},
                                                                 {"bias_hh_l0", {12}}}) {
    flat.push_back(trained(torch::randn(shape)));
    net.register_parameter(name, flat.get(flat.size() - 1), false);
  }
  net.register_attribute("_flat_weights", c10::ListType::ofTensors(), flat);
  net.define(
      "def forward(self, x):\n"
      "    h = torch.zeros([1, x.size(0), 3])\n"
      "    y, _, _ = torch.lstm(x, [h, h], self._flat_weights, True, 1, 0.0, self.training, False, "
      "True)\n"
      "    return y[:, -1]\n");
  const ScriptFile file(net);
  const auto network = file.load_for({4, 2}, 3);
  const torch::Tensor rows = initial_rows(*network), x = torch::randn({5, 4, 2}),
                      h = torch::zeros({1, 5, 3});
  const torch::Tensor gradients = train_pass(*network, rows, x);
  const auto y = std::get<0>(torch::lstm(x, {h, h}, flat.vec(), true, 1, 0.0, true, false, true))
                     .select(1, -1);
  const auto expected = torch::autograd::grad({y.square().sum()}, flat.vec());
  for (int64_t i = 0; i < 4; ++i) {
    const torch::Tensor& e = expected[static_cast<size_t>(i)];
    EXPECT_GT(e.norm().item<double>(), 0.01);
    EXPECT_TRUE(network->layout().view(gradients, i)[0].allclose(e, 1e-5, 1e-6)) << i;
  }
}

// Tied weights are one parameter, whose gradient is the sum over its places.
TEST(TorchScriptState, TiedWeightsTrainAsOne) {
  const Plain plain;
  Module tied = plain_module(plain, "");
  tied.register_parameter("second", plain.weight, false);
  tied.define(
      "def forward(self, x):\n"
      "    return torch.matmul(x, self.weight.t()) + 2 * torch.matmul(x, self.second.t()) + "
      "self.bias\n");
  const ScriptFile file(tied);
  const auto network = file.load(4, 3);
  ASSERT_EQ(network->layout().parameters().size(), 2U);
  const torch::Tensor rows = initial_rows(*network), x = torch::randn({5, 4});
  const auto gradients = train_pass(*network, rows, x);
  const torch::Tensor scores = 3 * x.mm(plain.weight.detach().t()) + plain.bias.detach();
  const torch::Tensor expected = 2 * scores.t().mm(3 * x);
  EXPECT_TRUE(gradients.narrow(1, 0, 12).view({3, 4}).allclose(expected, 1e-4, 1e-4));
  EXPECT_EQ(
      network->findings(rows[0], x)[0],
      file.path() + ": tied weights train as one, and /model has them once: second is weight");
}

// A buffer that forward() assigns moves, as one that it changes in place; evaluation leaves it.
TEST(TorchScriptState, BuffersMove) {
  for (const char* const step : {"self.mean = 0.75 * self.mean + 0.25 * x.mean(0)",
                                 "self.mean.mul_(0.75).add_(0.25 * x.mean(0))"}) {
    const Plain plain;
    Module net = plain_module(plain, "");
    net.register_buffer("mean", torch::ones({4}));
    net.define(message("def forward(self, x):\n    if self.training:\n        ", step,
                       "\n    return torch.matmul(x - self.mean, self.weight.t()) + self.bias\n"));
    const ScriptFile file(net);
    const auto network = file.load(4, 3);
    torch::Tensor rows = initial_rows(*network), expected = torch::ones({4});
    for (int i = 0; i < 3; ++i) {
      const torch::Tensor x = torch::randn({5, 4}), before = rows.clone();
      network->forward(Weights(network->layout(), rows), x);
      EXPECT_TRUE(rows.equal(before)) << step;
      const torch::Tensor gradients = train_pass(*network, rows, x);
      expected = 0.75 * expected + 0.25 * x.mean(0);
      EXPECT_TRUE(by_name(*network, rows).at("mean").allclose(expected)) << step;
      const torch::Tensor seen = x - expected;
      const torch::Tensor scores = seen.mm(plain.weight.detach().t()) + plain.bias.detach();
      EXPECT_TRUE(
          gradients.narrow(1, 0, 12).view({3, 4}).allclose(2 * scores.t().mm(seen), 1e-4, 1e-4))
          << step;
    }
  }
}

// A flag or counter moves; the mean of two clients' counters is rounded where it is read, and goes
// on from what it is.
TEST(TorchScriptState, CountersMove) {
  Module net = plain_module({}, "");
  net.register_buffer("calls", torch::tensor(0));
  net.register_buffer("begun", torch::tensor(false));
  net.define(
      "def forward(self, x):\n"
      "    if self.training:\n"
      "        self.calls = self.calls + 1\n"
      "        self.begun.fill_(1)\n"
      "    factor = float(self.calls) + 0.5 * float(self.begun)\n"
      "    return (torch.matmul(x, self.weight.t()) + self.bias) * factor\n");
  const ScriptFile file(net);
  const auto network = file.load(4, 3);
  torch::Tensor rows = initial_rows(*network);
  auto values = by_name(*network, rows);
  const torch::Tensor x = torch::randn({2, 4});
  const auto evaluate = [&] { return network->forward(Weights(network->layout(), rows), x); };
  EXPECT_TRUE(evaluate().eq(0).all().item<bool>());
  train_pass(*network, rows, x);
  train_pass(*network, rows, x);
  EXPECT_EQ(values.at("calls").item<float>(), 2);
  EXPECT_EQ(values.at("begun").item<float>(), 1);
  values.at("calls").fill_(2.4);
  const torch::Tensor at_two = evaluate();
  values.at("calls").fill_(2);
  EXPECT_TRUE(at_two.equal(evaluate()));
  values.at("calls").fill_(2.4);
  train_pass(*network, rows, x);
  EXPECT_NEAR(values.at("calls").item<float>(), 3.4, 1e-6);
}

// Batch normalisation without a momentum takes the mean over all batches, which needs its counter;
// with one, the counter is no part of the model.
TEST(TorchScriptState, CumulativeStatisticsCount) {
  for (const bool cumulative : {true, false}) {
    Module net = plain_module({}, "");
    net.register_buffer("running_mean", torch::zeros({4}));
    net.register_buffer("num_batches_tracked", torch::tensor(0));
    net.define(
        message("def forward(self, x):\n    if self.training:\n"
                "        self.num_batches_tracked = self.num_batches_tracked + 1\n"
                "        factor = ",
                cumulative ? "1.0 / float(self.num_batches_tracked)" : "0.1",
                "\n        self.running_mean = self.running_mean * (1 - factor) + x.mean(0) "
                "* factor\n"
                "    return torch.matmul(x - self.running_mean, self.weight.t()) + "
                "self.bias\n"));
    const ScriptFile file(net);
    const auto network = file.load(4, 3);
    const torch::Tensor rows = initial_rows(*network);
    torch::Tensor sum = torch::zeros({4}), moving = torch::zeros({4});
    for (int i = 1; i <= 4; ++i) {
      const torch::Tensor x = torch::randn({5, 4});
      train_pass(*network, rows, x);
      sum += x.mean(0);
      moving = 0.9 * moving + 0.1 * x.mean(0);
      EXPECT_TRUE(by_name(*network, rows)
                      .at("running_mean")
                      .allclose(cumulative ? sum / i : moving, 1e-5, 1e-6));
    }
    EXPECT_EQ(by_name(*network, rows).contains("num_batches_tracked"), cumulative);
    EXPECT_TRUE(network->findings(rows[0], torch::zeros({2, 4})).empty());
  }
}

// What would not survive a call is refused by name, when the file is loaded.
TEST(TorchScriptState, WhatWouldBeLostIsRefused) {
  const auto refusal = [](const Module& module) {
    const ScriptFile file(module);
    return error_of([&] {
      const auto network = file.load(4, 3);
      check_network(*network, "torchscript", {4}, 3);
    });
  };
  using testing::HasSubstr;
  const std::string scores = "torch.matmul(x, self.weight.t()) + self.bias";

  Module hidden = plain_module({}, "");
  hidden.register_attribute("state", c10::TensorType::get(), torch::zeros({3}));
  hidden.define("def forward(self, x):\n    y = " + scores +
                " + self.state\n    self.state = y.mean(0).detach()\n    return y\n");
  EXPECT_THAT(refusal(hidden), HasSubstr("forward() changes state, and its results depend on it"));

  Module counted = plain_module({}, "");
  counted.register_attribute("n", c10::IntType::get(), 0);
  counted.define("def forward(self, x):\n    self.n += 1\n    return (" + scores + ") * self.n\n");
  EXPECT_THAT(refusal(counted), HasSubstr("forward() changes n, and its results depend on it"));

  Module history = plain_module({}, "");
  history.register_attribute("past", c10::ListType::ofTensors(),
                             c10::List<torch::Tensor>({torch::zeros({3})}));
  history.define("def forward(self, x):\n    y = " + scores +
                 " + self.past[-1]\n    self.past.append(y.mean(0).detach())\n    return y\n");
  EXPECT_THAT(refusal(history), HasSubstr("forward() changes past, and its results depend on it"));

  Module grows = plain_module({}, "");
  grows.register_buffer("seen", torch::zeros({1, 4}));
  grows.define("def forward(self, x):\n    self.seen = torch.cat([self.seen, x])\n    return " +
               scores + "\n");
  EXPECT_THAT(refusal(grows), HasSubstr("makes something else of its buffer seen"));

  Module assigns = plain_module({}, "");
  assigns.define("def forward(self, x):\n    self.weight = self.weight * 0.5\n    return " +
                 scores + "\n");
  EXPECT_THAT(refusal(assigns), HasSubstr("forward() assigns to its parameter weight"));

  Module shrinks = plain_module({}, "");
  shrinks.define("def forward(self, x):\n    self.weight.detach().mul_(0.5)\n    return " + scores +
                 "\n");
  EXPECT_THAT(refusal(shrinks), HasSubstr("changes its parameter weight in evaluation"));

  const Plain plain;
  Module view = plain_module(plain, "");
  view.register_buffer("turned", plain.weight.detach().t());
  view.define("def forward(self, x):\n    return torch.matmul(x, self.turned) + self.bias\n");
  EXPECT_THAT(refusal(view), HasSubstr("turned is a part or another view of the memory of "
                                       "parameter weight"));

  Module wide = module_of("Net", "");
  wide.register_parameter("weight", trained(torch::randn({1, 4}).expand({3, 4})), false);
  wide.define("def forward(self, x):\n    return torch.matmul(x, self.weight.t())\n");
  EXPECT_THAT(refusal(wide), HasSubstr("parameter weight keeps several of its numbers in one "
                                       "place"));

  Module complex = module_of("Net", "");
  complex.register_parameter("weight", trained(torch::randn({3, 4}, torch::kComplexFloat)), false);
  complex.define(
      "def forward(self, x):\n    return torch.matmul(x, torch.real(self.weight).t())\n");
  EXPECT_THAT(refusal(complex), HasSubstr("parameter weight is of type c10::complex<float>, which "
                                          "cannot be trained"));
}

// What changes without a consequence begins anew in each call, and is told.
TEST(TorchScriptState, CachesAreTold) {
  Module net = plain_module({}, "");
  net.register_attribute("calls", c10::IntType::get(), 0);
  net.define(
      "def forward(self, x):\n"
      "    self.calls += 1\n"
      "    return torch.matmul(x, self.weight.t()) + self.bias\n");
  const ScriptFile file(net);
  const auto network = file.load(4, 3);
  const auto findings = network->findings(initial_rows(*network)[0], torch::zeros({2, 4}));
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_THAT(findings[0], testing::HasSubstr("forward() changes calls, no buffers"));
  EXPECT_GT(delta_of(net).norm().item<double>(), 0.01);
}

// What changes only later is refused then.
TEST(TorchScriptState, LateChangesAreRefused) {
  Module net = plain_module({}, "");
  net.register_attribute("last", c10::TensorType::get(), torch::zeros({4}));
  net.define(
      "def forward(self, x):\n"
      "    if self.training and x.size(0) > 4:\n"
      "        self.last = x[0]\n"
      "    return torch.matmul(x + self.last, self.weight.t()) + self.bias\n");
  const ScriptFile file(net);
  const auto network = file.load(4, 3);
  const torch::Tensor rows = initial_rows(*network);
  train_pass(*network, rows, torch::zeros({4, 4}));
  EXPECT_ERROR(train_pass(*network, rows, torch::zeros({5, 4})),
               file.path() + ": forward() changes last, which is not a buffer");
}

}  // namespace
}  // namespace fl_sim
