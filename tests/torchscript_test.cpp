// TorchScript files as models: they train like the same network of our own layers, and what is no
// TorchScript file, or none that fits, is refused with a reason.
#include <gtest/gtest.h>
#include <torch/script.h>

#include "torchscript_modules.h"

namespace fl_sim {
namespace {

// A file with a module of modules, batch normalisation included, trains like our own layers from
// the same weights; its parameters have PyTorch's names and the file's values, for every seed.
TEST(TorchScript, TrainsLikeOurOwnLayers) {
  const Module module = normalised_linear(6, 3);
  const ScriptFile file(module);
  const auto script = file.load(6, 3);
  const NormalisedLinear native(6, 3);
  Rng rng(1, "weights"), other(2, "weights");
  const torch::Tensor row = script->initial_row(rng);
  EXPECT_TRUE(torch::equal(row, script->initial_row(other)));
  auto initial = by_name(*script, row.unsqueeze(0));
  for (const auto& saved : module.named_parameters()) {
    EXPECT_TRUE(torch::equal(initial.at(saved.name), saved.value)) << saved.name;
  }
  torch::Tensor native_rows = torch::zeros({1, native.layout().row()});
  const auto native_initial = by_name(native, native_rows);
  ASSERT_EQ(initial.size(), native_initial.size());
  for (auto& [name, tensor] : native_initial) torch::Tensor(tensor).copy_(initial.at(name));

  const Update ours = train_once(native, native_rows[0], 0, 6, 3);
  const Update theirs = train_once(*script, row, 0, 6, 3);
  const auto expected = by_name(native, ours.delta), actual = by_name(*script, theirs.delta);
  for (const auto& [name, tensor] : expected) {
    EXPECT_LT((tensor - actual.at(name)).norm().item<double>(), 1e-5 * tensor.norm().item<double>())
        << name;
    EXPECT_GT(tensor.norm().item<double>(), 0.01) << name;
  }
  EXPECT_NEAR(ours.clients[0].loss, theirs.clients[0].loss, 1e-5);

  // Evaluation uses the running statistics and leaves them, also after training.
  const torch::Tensor x = torch::randn({7, 6}), before = row.clone();
  const torch::Tensor scores = script->forward(Weights(script->layout(), row.unsqueeze(0)), x);
  EXPECT_LT((scores - native.forward(Weights(native.layout(), native_rows), x))
                .abs()
                .max()
                .item<double>(),
            1e-5);
  EXPECT_TRUE(torch::equal(row, before));
}

// forward() is a function of the rows alone: nothing stays in the module from the client before.
TEST(TorchScript, ClientsDoNotSeeEachOther) {
  const ScriptFile file(normalised_linear(6, 3));
  const auto script = file.load(6, 3);
  Rng rng(1, "weights");
  const torch::Tensor row = script->initial_row(rng);
  const torch::Tensor first = train_once(*script, row, 0, 6, 3).delta;
  const torch::Tensor second = train_once(*script, row, 1, 6, 3).delta;
  EXPECT_TRUE(torch::equal(first, train_once(*script, row, 0, 6, 3).delta));
  EXPECT_FALSE(torch::equal(first, second));
}

// Random layers draw from the client's own stream: the same client drops the same again, whoever
// trained in between.
TEST(TorchScript, RandomLayersFollowTheClientsStream) {
  torch::manual_seed(4);
  Module net = module_of("Net", "");
  net.register_module("fc", linear(6, 3));
  net.define(
      "def forward(self, x):\n    return torch.dropout(self.fc.forward(x), 0.5, self.training)\n");
  const ScriptFile file(net);
  const auto script = file.load(6, 3);
  Rng rng(1, "weights");
  const torch::Tensor row = script->initial_row(rng);
  const torch::Tensor first = train_once(*script, row, 0, 6, 3).delta;
  train_once(*script, row, 1, 6, 3);
  torch::manual_seed(99);
  EXPECT_TRUE(torch::equal(first, train_once(*script, row, 0, 6, 3).delta));
  const Weights weights(script->layout(), row.unsqueeze(0));
  const torch::Tensor x = torch::ones({5, 6});
  EXPECT_TRUE(torch::equal(script->forward(weights, x), script->forward(weights, x)));
}

// A module that counts its calls goes on from the row's count: what a client gets does not depend
// on how many were trained before it on the same rank.
TEST(TorchScript, CountersDoNotPassFromClientToClient) {
  Module net = module_of("Counting", "");
  torch::manual_seed(6);
  net.register_parameter("weight", trained(torch::randn({3, 4})), false);
  net.register_buffer("calls", torch::tensor(0));
  net.define(
      "def forward(self, x):\n"
      "    self.calls.add_(1)\n"
      "    return torch.matmul(x, self.weight.t()) * self.calls\n");
  const ScriptFile file(net);
  const auto network = file.load(4, 3);
  Rng rng(0, "weights");
  const torch::Tensor row = network->initial_row(rng);
  const torch::Tensor first = train_once(*network, row, 1, 4, 3).delta;
  for (int i = 0; i < 3; ++i) train_once(*network, row, 0, 4, 3);
  EXPECT_TRUE(train_once(*network, row, 1, 4, 3).delta.equal(first));
  EXPECT_EQ(by_name(*network, first).at("calls").item<float>(), 6);  // 2 epochs of 3 batches
  EXPECT_GT(first.abs().max().item<double>(), 0);
}

// The head is the last layer, and batch normalisation is known by its running statistics.
TEST(TorchScript, NamesHeadAndNormalisation) {
  const ScriptFile file(normalised_linear(6, 3));
  const auto script = file.load(6, 3);
  EXPECT_EQ(script->head(), (std::vector<std::string>{"fc.weight", "fc.bias"}));
  std::set<std::string> marked;
  for (const Parameter& parameter : script->layout().parameters()) {
    if (parameter.normalisation) marked.insert(parameter.name);
  }
  EXPECT_EQ(marked, (std::set<std::string>{"norm.weight", "norm.bias", "norm.running_mean",
                                           "norm.running_var"}));
}

// What cannot be loaded or trained says which file, and why.
TEST(TorchScript, WhatIsNoTorchScriptIsRefused) {
  const ScriptFile garbage(std::string("this is no zip archive"));
  EXPECT_ERROR(garbage.load(6, 3), "cannot load " + garbage.path() + " as TorchScript");
  const Job job = any_job("");
  EXPECT_ERROR(make<Network>("torchscript", {job, "/no/such/net.pt", {6}, 3}),
               "cannot load /no/such/net.pt");
  EXPECT_ERROR(make<Network>("torchscript", {job, "", {6}, 3}), "needs a file");
  const ScriptFile empty(module_of("Net", "def forward(self, x):\n    return x\n"));
  EXPECT_ERROR(empty.load(6, 3), "has no parameters to train");
}

// An experiment with a module for other data, or in groups, is refused before the first round.
TEST(TorchScript, ExperimentsThatDoNotFitAreRefused) {
  const auto experiment = [](const Module& module, const std::string& lines) {
    const ScriptFile file(module);
    Job job = any_job(message("model = torchscript:", file.path(), "\ndevice = cpu\n", lines));
    return make_experiment(job, make<DatasetSource>("fcube", {job, ""})->read());
  };
  EXPECT_EQ(experiment(normalised_linear(3, 2), "").job.get<int64_t>("group-size"), 1);
  EXPECT_ERROR(experiment(normalised_linear(3, 2), "group-size = 2"),
               "trains one client at a time (set group-size to 1)");
  EXPECT_ERROR(experiment(normalised_linear(3, 5), ""),
               "for 2 samples it returns [2, 5], expected [2, 2]");
  EXPECT_ERROR(experiment(normalised_linear(4, 2), ""),
               ".pt does not fit the data (samples of shape [3], 2 outputs): "
               "RuntimeError: running_mean should contain 3 elements not 4");
}

}  // namespace
}  // namespace fl_sim
