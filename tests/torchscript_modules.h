// TorchScript modules that are made in C++, saved to a file and loaded as networks.
#pragma once

#include <gtest/gtest.h>
#include <torch/script.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "learning/algorithm.h"
#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {

using torch::jit::Module;

inline Module module_of(const std::string& name, const std::string& forward) {
  Module module(name);
  module.register_attribute("training", c10::BoolType::get(), true);
  if (!forward.empty()) module.define(forward);
  return module;
}

// What a parameter is made of.
inline torch::Tensor trained(torch::Tensor tensor) { return tensor.set_requires_grad(true); }

// Batch normalisation with PyTorch's names, its integer counter included.
inline Module batch_norm(int64_t features) {
  Module norm = module_of("Norm", "");
  norm.register_parameter("weight", trained(torch::rand({features}) + 0.5), false);
  norm.register_parameter("bias", trained(torch::randn({features})), false);
  norm.register_buffer("running_mean", torch::randn({features}));
  norm.register_buffer("running_var", torch::rand({features}) + 0.5);
  norm.register_buffer("num_batches_tracked", torch::tensor(0));
  norm.define(
      "def forward(self, x):\n"
      "    return torch.batch_norm(x, self.weight, self.bias, self.running_mean, "
      "self.running_var, self.training, 0.1, 1e-5, False)\n");
  return norm;
}

inline Module linear(int64_t in, int64_t out) {
  Module fc = module_of("Fc", "");
  fc.register_parameter("weight", trained(torch::randn({out, in})), false);
  fc.register_parameter("bias", trained(torch::randn({out})), false);
  fc.define("def forward(self, x):\n    return torch.matmul(x, self.weight.t()) + self.bias\n");
  return fc;
}

// NormalisedLinear of test_networks.h, as PyTorch would save it.
inline Module normalised_linear(int64_t features, int64_t classes) {
  torch::manual_seed(4);
  Module net = module_of("Net", "");
  net.register_module("norm", batch_norm(features));
  net.register_module("fc", linear(features, classes));
  net.define("def forward(self, x):\n    return self.fc.forward(self.norm.forward(x))\n");
  return net;
}

// A saved module, gone with the test.
class ScriptFile {
 public:
  explicit ScriptFile(const Module& module) { module.save(path_); }
  explicit ScriptFile(const std::string& content) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~ScriptFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

  std::unique_ptr<Network> load(int64_t features, int64_t classes) const {
    return load_for({features}, classes);
  }
  std::unique_ptr<Network> load_for(const std::vector<int64_t>& shape, int64_t classes) const {
    const Job job = any_job("");
    return make<Network>("torchscript", {job, path_, shape, classes});
  }

 private:
  std::string path_ = testing::TempDir() + "fl_sim_torchscript_test.pt";
};

// The parameters of a row by name.
inline std::map<std::string, torch::Tensor> by_name(const Network& network,
                                                    const torch::Tensor& rows) {
  std::map<std::string, torch::Tensor> result;
  const auto& parameters = network.layout().parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    result[parameters[i].name] = network.layout().view(rows, static_cast<int64_t>(i))[0];
  }
  return result;
}

inline Update train_once(const Network& network, const torch::Tensor& row, int64_t client,
                         int64_t features, int64_t classes) {
  const Job job =
      hand_made_job("local.epochs = 2\nlocal.batch-size = 4\nlocal.lr = 0.1\nlocal.momentum = 0.5");
  const Partition partition = make_partition(consecutive({10, 10}));
  const ClientData data{.train = random_samples(20, {features}, classes), .partition = &partition};
  GlobalModel global;
  global.round = 1;
  global.weights = row.unsqueeze(0);
  ClientGroup group{.ids = {client}, .data = data, .seed = 5};
  group.rows = global.weights.clone();
  return make<Algorithm>("fedavg", {job, network, 2, 20})->train(group, global);
}

}  // namespace fl_sim
