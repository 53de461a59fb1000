// The model cnn-bn: PyTorch's names and shapes, the same function as PyTorch's modules, and the
// same for one client as in a stack.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "any_job.h"
#include "layer_trial.h"
#include "network/row_part.h"

namespace fl_sim {
namespace {

std::unique_ptr<Network> cnn_bn(const std::vector<int64_t>& shape = {2, 9, 8},
                                int64_t classes = 3) {
  const Job job = any_job("");
  return make<Network>("cnn-bn", {job, "", shape, classes});
}

// The same as modules of PyTorch's, in its order of normalisation, ReLU and pooling.
struct Reference : torch::nn::Module {
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(2, 16, 5).padding(2).bias(false)},
      conv2{torch::nn::Conv2dOptions(16, 32, 5).padding(2).bias(false)};
  torch::nn::BatchNorm2d bn1{16}, bn2{32};
  torch::nn::Linear fc1{32 * 2 * 2, 128}, fc2{128, 3};

  Reference() {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("conv2", conv2);
    register_module("bn2", bn2);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
    to(torch::kFloat64);
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(torch::relu(bn1(conv1(x))), 2);
    x = torch::max_pool2d(torch::relu(bn2(conv2(x))), 2);
    return fc2(torch::relu(fc1(x.flatten(1))));
  }
};

// Proves that the layout has exactly PyTorch's parameters and floating-point buffers, so that a
// state_dict fits, and that only the four of each normalisation are marked.
TEST(CnnBn, HasPyTorchsNamesAndShapes) {
  const auto network = cnn_bn();
  Reference reference;
  std::map<std::string, std::vector<int64_t>> expected, found;
  for (const auto& item : reference.named_parameters()) expected[item.key()] = item->sizes().vec();
  for (const auto& item : reference.named_buffers()) {
    if (!item.key().ends_with("num_batches_tracked")) expected[item.key()] = item->sizes().vec();
  }
  for (const Parameter& parameter : network->layout().parameters()) {
    found[parameter.name] = parameter.shape;
    EXPECT_EQ(parameter.normalisation, parameter.name.starts_with("bn")) << parameter.name;
  }
  EXPECT_EQ(found, expected);
  EXPECT_THAT(network->head(), testing::ElementsAre("fc2.weight", "fc2.bias"));
}

// Proves that a training pass and an evaluation agree with PyTorch's modules in double precision,
// running statistics included.
TEST(CnnBn, AgreesWithPyTorch) {
  const auto network = cnn_bn();
  const ParameterLayout& layout = network->layout();
  const Trial trial(*network, {4}, {2, 9, 8});
  Reference reference;
  auto tensors = reference.named_parameters();
  auto buffers = reference.named_buffers();
  const auto slot = [&](const std::string& name) {
    return tensors.contains(name) ? tensors[name] : buffers[name];
  };
  {
    torch::NoGradGuard no_grad;
    for (size_t i = 0; i < layout.parameters().size(); ++i) {
      slot(layout.parameters()[i].name).copy_(layout.view(trial.rows, static_cast<int64_t>(i))[0]);
    }
  }
  reference.eval();
  const torch::Tensor x = trial.samples.select(1, 0);
  EXPECT_LT(largest(trial.evaluate().select(1, 0) - reference.forward(x)), 1e-11);
  reference.train();
  const Trial::Result result = trial.train();
  EXPECT_LT(largest(result.output.select(1, 0) - reference.forward(x)), 1e-11);
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const Parameter& parameter = layout.parameters()[i];
    if (parameter.trainable) continue;
    EXPECT_LT(largest(layout.view(result.rows, static_cast<int64_t>(i))[0] - slot(parameter.name)),
              1e-12)
        << parameter.name;
  }
}

// Proves that each of three clients in a stack, two with short batches, gets the outputs, gradients
// and statistics that it gets alone.
TEST(CnnBn, AStackIsItsClients) {
  const auto network = cnn_bn();
  const Trial stack(*network, {4, 2, 3}, {2, 9, 8});
  const Trial::Result together = stack.train();
  for (int64_t c = 0; c < 3; ++c) {
    const Trial::Result alone = stack.alone(c).train();
    const int64_t real = stack.counts[static_cast<size_t>(c)];
    EXPECT_LT(largest(together.output.select(1, c).narrow(0, 0, real) - alone.output.select(1, 0)),
              1e-11);
    EXPECT_LT(largest(together.gradients[c] - alone.gradients[0]), 1e-10);
    EXPECT_LT(largest(together.rows[c] - alone.rows[0]), 1e-12);
  }
}

// Proves that the representation is what the head sees.
TEST(CnnBn, RepresentsAndClassifies) {
  const auto network = cnn_bn();
  ASSERT_TRUE(network->has_representation());
  Rng rng(1, "weights");
  const Weights weights(network->layout(), network->initial_row(rng).unsqueeze(0));
  const torch::Tensor x = torch::rand({5, 2, 9, 8});
  const torch::Tensor z = network->represent(weights, x);
  EXPECT_EQ(z.sizes(), (std::vector<int64_t>{5, 128}));
  EXPECT_TRUE(torch::equal(network->classify(weights, z), network->forward(weights, x)));
}

TEST(CnnBn, NeedsImages) {
  EXPECT_ERROR(cnn_bn({60}), "model cnn-bn needs images");
  EXPECT_ERROR(cnn_bn({1, 3, 28}), "at least 4 x 4; the data's samples are [1, 3, 28]");
}

}  // namespace
}  // namespace fl_sim
