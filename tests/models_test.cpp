// The networks of papers: their sizes, the same function as the paper's network written down with
// PyTorch's functions, the same in every stack, and that they learn.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "any_job.h"
#include "layer_trial.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

std::unique_ptr<Network> model(const std::string& name, const std::string& options,
                               const std::vector<int64_t>& shape, int64_t outputs,
                               int64_t positions = 1) {
  const Job job = any_job(message("model = ", name, "\n", options));
  return make<Network>(name, {job, "", shape, outputs, positions});
}

// Rows [G, P] float64 of initial values with some noise, so that nothing is exactly 0 or 1, and
// with running variances near those that convolutions with such weights have: signals keep their
// size.
torch::Tensor rows_of(const Network& network, int64_t clients) {
  std::vector<torch::Tensor> rows;
  for (int64_t c = 0; c < clients; ++c) {
    Rng rng(static_cast<uint64_t>(c + 1), "weights");
    rows.push_back(network.initial_row(rng));
  }
  const ParameterLayout& layout = network.layout();
  torch::Tensor all =
      torch::stack(rows).to(torch::kFloat64) + normal({clients, layout.row()}, 1) / 50;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    if (layout.parameters()[i].name.ends_with("running_var"))
      layout.view(all, static_cast<int64_t>(i)).div_(6);
  }
  return all;
}

// Sizes ---------------------------------------------------------------------------------------

// Trainable numbers, against what papers and reference implementations count.
TEST(Models, HaveThePapersSizes) {
  const std::vector<int64_t> cifar = {3, 32, 32}, emnist = {1, 28, 28};
  const auto count = [](const std::string& name, const std::string& options,
                        const std::vector<int64_t>& shape, int64_t outputs, int64_t positions = 1) {
    return model(name, options, shape, outputs, positions)->layout().count();
  };
  // He et al. 2016, table 6: 0.27M; exactly in implementations with option A.
  EXPECT_EQ(count("resnet20", "resnet20.norm = batch", cifar, 10), 269722);
  EXPECT_EQ(count("resnet20", "", cifar, 10), 269722);
  // The version for CIFAR that everyone uses; torchvision's 11,689,512 has a 7x7 kernel in place of
  // the 3x3 one and a thousand classes.
  EXPECT_EQ(count("resnet18", "resnet18.norm = batch", cifar, 10), 11173962);
  EXPECT_EQ(count("resnet18", "", cifar, 1000) + 64 * 3 * (49 - 9), 11689512);
  // Convolutions 9,220,480, hidden layers 2 · 262,656, head 5,130.
  EXPECT_EQ(count("vgg11", "", cifar, 10), 9220480 + 2 * 262656 + 5130);
  // torchvision's, and the paper's 3.4M, for ImageNet.
  EXPECT_EQ(count("mobilenetv2", "", cifar, 1000), 3504872);
  // A popular version for CIFAR has 2,296,922: it adds projections to shortcuts that the paper does
  // not have (32 to 16, 16 to 24, 64 to 96 and 160 to 320 channels, with normalisation) and a 1x1
  // convolution of 32 channels, with normalisation, to the first block.
  EXPECT_EQ(count("mobilenetv2", "", cifar, 10), 2296922 - (32 * 16 + 2 * 16) - (16 * 24 + 2 * 24) -
                                                     (64 * 96 + 2 * 96) - (160 * 320 + 2 * 320) -
                                                     (32 * 32 + 2 * 32));
  // torchvision's models, and the paper's table 5: 1.4M, 2.3M, 3.5M, 7.4M for ImageNet.
  EXPECT_EQ(count("shufflenetv2", "shufflenetv2.width = 0.5", cifar, 1000), 1366792);
  EXPECT_EQ(count("shufflenetv2", "", cifar, 1000), 2278604);
  EXPECT_EQ(count("shufflenetv2", "shufflenetv2.width = 1.5", cifar, 1000), 3503624);
  EXPECT_EQ(count("shufflenetv2", "shufflenetv2.width = 2.0", cifar, 1000), 7393996);
  EXPECT_EQ(count("shufflenetv2", "", cifar, 10), 1263854);
  // Reddi et al. 2021: 1,206,590; TensorFlow Federated's too.
  EXPECT_EQ(count("emnist-cnn", "", emnist, 62), 1206590);
  // TensorFlow Federated counts 820,522; PyTorch's LSTM has a second bias for each of the gates.
  EXPECT_EQ(count("char-lstm", "", {80}, 90, 80), 820522 + 2 * 4 * 256);
  EXPECT_EQ(count("char-lstm", "", {80}, 90), 820522 + 2 * 4 * 256);
  // NIID-Bench's tabular network for FCUBE: 3 -> 32 -> 16 -> 8 -> 2.
  EXPECT_EQ(count("mlp", "mlp.hidden = 32,16,8", {3}, 2),
            3 * 32 + 32 + 32 * 16 + 16 + 16 * 8 + 8 + 8 * 2 + 2);
  // McMahan et al. 2017.
  EXPECT_EQ(count("2nn", "", emnist, 10), 199210);
  EXPECT_EQ(count("mlp", "mlp.hidden = 200,200", emnist, 10), 199210);
  EXPECT_EQ(count("cnn", "", emnist, 10), 1663370);
  // A binary model has one output.
  EXPECT_EQ(count("logistic", "", {13}, 1), 14);
  EXPECT_EQ(count("mlp", "mlp.hidden = 4", {13}, 1), 13 * 4 + 4 + 4 + 1);
}

// torchvision's narrow and wide versions round channels to multiples of 8: the figures of its
// mobilenet_v2(width_mult = 0.5 and 1.4).
TEST(Models, MobileNetsWidthRoundsAsTorchvisions) {
  const auto count = [](const std::string& width) {
    return model("mobilenetv2", "mobilenetv2.width = " + width, {3, 32, 32}, 1000)
        ->layout()
        .count();
  };
  EXPECT_EQ(count("0.5"), 1968680);
  EXPECT_EQ(count("1.4"), 6108776);
}

// References ----------------------------------------------------------------------------------

// One client's numbers by PyTorch's names, and layers that use them as PyTorch's modules do in
// evaluation.
class Parameters {
 public:
  Parameters(const Network& network, const torch::Tensor& rows) : layout_(network.layout()) {
    for (size_t i = 0; i < layout_.parameters().size(); ++i) {
      tensors_[layout_.parameters()[i].name] = layout_.view(rows, static_cast<int64_t>(i))[0];
    }
  }
  torch::Tensor operator[](const std::string& name) const { return tensors_.at(name); }

  torch::Tensor conv(const std::string& name, const torch::Tensor& x, int64_t stride = 1,
                     int64_t padding = 0, int64_t groups = 1) const {
    const auto bias = tensors_.find(name + ".bias");
    return torch::conv2d(x, (*this)[name + ".weight"],
                         bias == tensors_.end() ? torch::Tensor() : bias->second, stride, padding,
                         1, groups);
  }
  torch::Tensor batch(const std::string& name, const torch::Tensor& x) const {
    return torch::batch_norm(x, (*this)[name + ".weight"], (*this)[name + ".bias"],
                             (*this)[name + ".running_mean"], (*this)[name + ".running_var"], false,
                             0.1, 1e-5, false);
  }
  torch::Tensor norm(const std::string& name, const torch::Tensor& x, int64_t groups) const {
    if (groups == 0) return batch(name, x);
    return torch::group_norm(x, groups, (*this)[name + ".weight"], (*this)[name + ".bias"]);
  }
  torch::Tensor linear(const std::string& name, const torch::Tensor& x) const {
    return torch::linear(x, (*this)[name + ".weight"], (*this)[name + ".bias"]);
  }

 private:
  const ParameterLayout& layout_;
  std::map<std::string, torch::Tensor> tensors_;
};

torch::Tensor resnet(const Parameters& s, torch::Tensor x, const std::vector<int64_t>& blocks,
                     bool projection, int64_t groups) {
  x = torch::relu(s.norm("bn1", s.conv("conv1", x, 1, 1), groups));
  for (size_t stage = 1; stage <= blocks.size(); ++stage) {
    for (int64_t i = 0; i < blocks[stage - 1]; ++i) {
      const std::string name = message("layer", stage, ".", i, ".");
      const bool first = stage > 1 && i == 0;
      torch::Tensor y = s.conv(name + "conv1", x, first ? 2 : 1, 1);
      y = torch::relu(s.norm(name + "bn1", y, groups));
      y = s.norm(name + "bn2", s.conv(name + "conv2", y, 1, 1), groups);
      if (first && projection) {
        x = s.norm(name + "downsample.1", s.conv(name + "downsample.0", x, 2), groups);
      } else if (first) {  // every other pixel, between as many channels of zeros
        x = torch::max_pool2d(x, 1, 2);
        const torch::Tensor zeros =
            torch::zeros({x.size(0), x.size(1) / 2, x.size(2), x.size(3)}, x.options());
        x = torch::cat({zeros, x, zeros}, 1);
      }
      x = torch::relu(y + x);
    }
  }
  return s.linear("fc", torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
}

torch::Tensor vgg11(const Parameters& s, torch::Tensor x) {
  for (const auto& [number, pool] : std::vector<std::pair<int, bool>>{{0, true},
                                                                      {3, true},
                                                                      {6, false},
                                                                      {8, true},
                                                                      {11, false},
                                                                      {13, true},
                                                                      {16, false},
                                                                      {18, true}}) {
    x = torch::relu(s.conv(message("features.", number), x, 1, 1));
    if (pool) x = torch::max_pool2d(x, 2);
  }
  x = torch::relu(s.linear("classifier.1", x.flatten(1)));
  return s.linear("classifier.6", torch::relu(s.linear("classifier.4", x)));
}

torch::Tensor mobilenetv2(const Parameters& s, torch::Tensor x) {
  x = torch::relu6(s.batch("features.0.1", s.conv("features.0.0", x, 1, 1)));
  struct Stage {
    int64_t expansion, channels, blocks, stride;
  };
  int module = 1;
  for (const Stage& stage :
       {Stage{1, 16, 1, 1}, Stage{6, 24, 2, 1}, Stage{6, 32, 3, 2}, Stage{6, 64, 4, 2},
        Stage{6, 96, 3, 1}, Stage{6, 160, 3, 2}, Stage{6, 320, 1, 1}}) {
    for (int64_t i = 0; i < stage.blocks; ++i) {
      const std::string name = message("features.", module++, ".conv.");
      torch::Tensor y = x;
      int part = 0;
      if (stage.expansion > 1) {
        y = torch::relu6(s.batch(name + "0.1", s.conv(name + "0.0", y)));
        ++part;
      }
      y = s.conv(message(name, part, ".0"), y, i == 0 ? stage.stride : 1, 1, y.size(1));
      y = torch::relu6(s.batch(message(name, part, ".1"), y));
      y = s.batch(message(name, part + 2), s.conv(message(name, part + 1), y));
      x = x.sizes() == y.sizes() ? x + y : y;
    }
  }
  x = torch::relu6(s.batch("features.18.1", s.conv("features.18.0", x)));
  return s.linear("classifier.1", torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
}

torch::Tensor shufflenetv2(const Parameters& s, torch::Tensor x) {
  const auto step = [&](const std::string& name, int module, const torch::Tensor& in,
                        int64_t stride = 1, bool depthwise = false) {
    return s.batch(
        message(name, module + 1),
        s.conv(message(name, module), in, stride, depthwise ? 1 : 0, depthwise ? in.size(1) : 1));
  };
  x = torch::relu(s.batch("conv1.1", s.conv("conv1.0", x, 1, 1)));
  const int units[] = {4, 8, 4};
  for (int stage = 2; stage <= 4; ++stage) {
    for (int i = 0; i < units[stage - 2]; ++i) {
      const std::string name = message("stage", stage, ".", i, ".");
      torch::Tensor first, second = x;
      if (i == 0) {
        first = step(name + "branch1.", 0, x, 2, true);
        first = torch::relu(step(name + "branch1.", 2, first));
      } else {
        first = x.slice(1, 0, x.size(1) / 2);
        second = x.slice(1, x.size(1) / 2);
      }
      second = torch::relu(step(name + "branch2.", 0, second));
      second = step(name + "branch2.", 3, second, i == 0 ? 2 : 1, true);
      second = torch::relu(step(name + "branch2.", 5, second));
      x = torch::stack({first, second}, 2).flatten(1, 2);  // one channel of each in turn
    }
  }
  x = torch::relu(s.batch("conv5.1", s.conv("conv5.0", x)));
  return s.linear("fc", torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
}

torch::Tensor emnist_cnn(const Parameters& s, torch::Tensor x) {
  x = torch::max_pool2d(torch::relu(s.conv("conv2", torch::relu(s.conv("conv1", x)))), 2);
  return s.linear("fc2", torch::relu(s.linear("fc1", x.flatten(1))));
}

// Predictions at each position; the last one's are those of the network that predicts only there.
torch::Tensor char_lstm(const Parameters& s, const torch::Tensor& x) {
  const torch::Tensor embedded = s["embeddings.weight"].index({x.to(torch::kInt64)});
  std::vector<torch::Tensor> parameters;
  for (const char* layer : {"_l0", "_l1"}) {
    for (const char* kind : {"weight_ih", "weight_hh", "bias_ih", "bias_hh"})
      parameters.push_back(s[message("lstm.", kind, layer)]);
  }
  const torch::Tensor zeros =
      torch::zeros({2, x.size(0), s["lstm.weight_hh_l0"].size(1)}, embedded.options());
  return s.linear("fc", std::get<0>(torch::lstm(embedded, {zeros, zeros}, parameters, true, 2, 0,
                                                false, false, true)));
}

torch::Tensor mlp(const Parameters& s, torch::Tensor x) {
  x = torch::relu(s.linear("fc2", torch::relu(s.linear("fc1", x.flatten(1)))));
  return s.linear("fc3", x);
}

// Every model, small ----------------------------------------------------------------------------

struct ModelCase {
  const char* label;
  const char* name;
  const char* options;
  std::vector<int64_t> shape;
  int64_t outputs;
  std::vector<std::string> head;
  std::function<torch::Tensor(const Parameters&, const torch::Tensor&)> reference;
  const char* training;  // lines of a job
  int64_t positions = 1;
  bool large = false;  // millions of parameters: gradients are left to the smaller ones
};

void PrintTo(const ModelCase& c, std::ostream* out) { *out << c.label; }

std::vector<ModelCase> model_cases() {
  const std::vector<std::string> fc = {"fc.weight", "fc.bias"};
  return {
      {"Resnet20",
       "resnet20",
       "",
       {3, 9, 8},
       4,
       fc,
       [](const Parameters& s, const torch::Tensor& x) {
         return resnet(s, x, {3, 3, 3}, false, 2);
       },
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.02\nlocal.momentum = 0.5"},
      {"Resnet20Batch",
       "resnet20",
       "resnet20.norm = batch",
       {3, 8, 8},
       4,
       fc,
       [](const Parameters& s, const torch::Tensor& x) {
         return resnet(s, x, {3, 3, 3}, false, 0);
       },
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.02\nlocal.momentum = 0.5"},
      {"Resnet20FourGroups",
       "resnet20",
       "resnet20.groups = 4",
       {1, 8, 11},
       4,
       fc,
       [](const Parameters& s, const torch::Tensor& x) {
         return resnet(s, x, {3, 3, 3}, false, 4);
       },
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.02\nlocal.momentum = 0.5"},
      {"Resnet18",
       "resnet18",
       "",
       {3, 8, 8},
       4,
       fc,
       [](const Parameters& s, const torch::Tensor& x) {
         return resnet(s, x, {2, 2, 2, 2}, true, 2);
       },
       "rounds = 2\nlocal.epochs = 3\nlocal.lr = 0.001",
       1,
       true},
      {"Vgg11",
       "vgg11",
       "vgg11.dropout = 0.1",
       {3, 32, 32},
       4,
       {"classifier.6.weight", "classifier.6.bias"},
       vgg11,
       "rounds = 3\nlocal.epochs = 6\nlocal.lr = 0.05",
       1,
       true},
      {"MobileNetV2",
       "mobilenetv2",
       "mobilenetv2.width = 0.25",
       {3, 9, 10},
       4,
       {"classifier.1.weight", "classifier.1.bias"},
       mobilenetv2,
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.02\nlocal.momentum = 0.5"},
      {"ShuffleNetV2",
       "shufflenetv2",
       "shufflenetv2.width = 0.5",
       {3, 9, 10},
       4,
       fc,
       shufflenetv2,
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.02\nlocal.momentum = 0.5"},
      {"EmnistCnn",
       "emnist-cnn",
       "",
       {1, 9, 8},
       4,
       {"fc2.weight", "fc2.bias"},
       emnist_cnn,
       "rounds = 8\nlocal.epochs = 2\nlocal.lr = 0.1\nlocal.momentum = 0.5"},
      {"CharLstmLast",
       "char-lstm",
       "char-lstm.hidden = 6\nchar-lstm.characters = 9",
       {7},
       4,
       fc,
       [](const Parameters& s, const torch::Tensor& x) { return char_lstm(s, x).select(1, -1); },
       "rounds = 10\nlocal.epochs = 2\nlocal.lr = 1\nlocal.momentum = 0.9"},
      {"CharLstmEach",
       "char-lstm",
       "char-lstm.hidden = 6",
       {7},
       9,
       fc,
       [](const Parameters& s, const torch::Tensor& x) { return char_lstm(s, x).flatten(1); },
       "rounds = 10\nlocal.epochs = 2\nlocal.lr = 1\nlocal.momentum = 0.9",
       7},
      {"Mlp",
       "mlp",
       "mlp.hidden = 9, 7",
       {2, 3},
       4,
       {"fc3.weight", "fc3.bias"},
       mlp,
       "rounds = 6\nlocal.epochs = 2\nlocal.lr = 0.2\nlocal.momentum = 0.9"},
  };
}

class EveryModel : public testing::TestWithParam<ModelCase> {
 protected:
  EveryModel()
      : network_(model(GetParam().name, GetParam().options, GetParam().shape, GetParam().outputs,
                       GetParam().positions)) {}

  // [n, shape...] or [batch, clients, shape...] float64; codes 0 to 8 for those who read them.
  torch::Tensor samples(std::vector<int64_t> sizes) const {
    sizes.insert(sizes.end(), GetParam().shape.begin(), GetParam().shape.end());
    const torch::Tensor x = normal(sizes, 2);
    return reads_codes() ? x.mul(1000).floor().remainder(9) : x;
  }
  bool reads_codes() const { return GetParam().name == std::string("char-lstm"); }

  std::unique_ptr<Network> network_;
};

// Proves that it is the paper's network under PyTorch's names, to rounding.
TEST_P(EveryModel, IsTheReference) {
  const torch::Tensor rows = rows_of(*network_, 1), x = samples({3});
  const torch::Tensor actual = network_->forward(Weights(network_->layout(), rows), x);
  const torch::Tensor expected = GetParam().reference(Parameters(*network_, rows), x);
  ASSERT_EQ(actual.sizes(), torch::IntArrayRef({3, GetParam().positions * GetParam().outputs}));
  EXPECT_GT(largest(actual[0] - actual[1]), 1e-4 * largest(actual));
  EXPECT_LT(largest(actual - expected), 1e-11 * (1 + largest(expected)));
}

// Proves that a stack, with short batches too, computes for each client what it computes alone: in
// evaluation, and outputs, gradients, running statistics and dropout in training.
TEST_P(EveryModel, AStackIsItsClients) {
  const std::vector<int64_t> counts = {4, 2, 3};
  const Trial stack(*network_, counts, rows_of(*network_, 3), samples({4, 3}));
  const torch::Tensor evaluated = stack.evaluate();
  const Trial::Result together = GetParam().large ? Trial::Result() : stack.train();
  for (int64_t c = 0; c < 3; ++c) {
    const Trial single = stack.alone(c);
    const int64_t real = single.batch();
    const torch::Tensor expected = single.evaluate().select(1, 0);
    EXPECT_LT(largest(evaluated.select(1, c).narrow(0, 0, real) - expected),
              1e-10 * (1 + largest(expected)));
    if (GetParam().large) continue;
    const Trial::Result alone = single.train();
    EXPECT_GT(largest(alone.gradients), 1e-3);
    EXPECT_LT(largest(together.output.select(1, c).narrow(0, 0, real) - alone.output.select(1, 0)),
              1e-10 * (1 + largest(alone.output)));
    EXPECT_LT(largest(together.gradients[c] - alone.gradients[0]),
              1e-10 * (1 + largest(alone.gradients)));
    EXPECT_LT(largest(together.rows[c] - alone.rows[0]), 1e-10);
  }
}

// Proves that in float32, where one client's images lie channels last, loss and gradient are those
// of float64.
TEST_P(EveryModel, SinglePrecisionAgrees) {
  const torch::Tensor rows = rows_of(*network_, 1);
  std::vector<int64_t> sizes = {4, 1};
  if (GetParam().positions > 1) sizes.push_back(GetParam().positions);
  const torch::Tensor x = samples({4});
  const torch::Tensor labels =
      torch::arange(4 * GetParam().positions).remainder(GetParam().outputs).view(sizes);
  const auto gradient = [&](torch::ScalarType type) {
    torch::Tensor gradients = torch::zeros({1, network_->layout().trainable()}, type);
    Weights weights(network_->layout(), rows.to(type).clone(), gradients);
    std::vector<Rng> streams = {Rng(1, "dropout")};
    weights.streams = streams;
    const torch::Tensor loss =
        network_->loss(network_->forward(weights, x.to(type)), labels).mean();
    weights.backward(loss);
    return std::make_pair(loss.item<double>(), gradients[0].to(torch::kFloat64));
  };
  const auto expected = gradient(torch::kFloat64), actual = gradient(torch::kFloat32);
  EXPECT_NEAR(actual.first, expected.first, 1e-4 * (1 + expected.first));
  // A ReLU whose input is zero but for rounding switches, which moves a deep network's gradient by
  // some percent; values in wrong places move it by all of its length.
  EXPECT_LT((actual.second - expected.second).norm().item<double>(),
            5e-2 * expected.second.norm().item<double>());
}

// Proves that the representation is what the head sees, for one client and for a stack, and which
// parameters make the head.
TEST_P(EveryModel, RepresentsAndClassifies) {
  ASSERT_TRUE(network_->has_representation());
  EXPECT_EQ(network_->head(), GetParam().head);
  for (const int64_t clients : {1, GetParam().large ? 1 : 3}) {
    const Weights weights(network_->layout(), rows_of(*network_, clients));
    const torch::Tensor x = stack_inputs(samples({2, clients}).flatten(0, 1), clients);
    const torch::Tensor z = network_->represent(weights, x);
    EXPECT_EQ(z.dim(), 2);
    EXPECT_EQ(z.size(1) % clients, 0);
    EXPECT_TRUE(torch::equal(network_->classify(weights, z), network_->forward(weights, x)));
  }
}

// Proves that the parameters of normalisations, and only they, are marked, which FedBN keeps: those
// that PyTorch's names show to stand beside running statistics, or that are called bn or follow a
// shortcut's convolution.
TEST_P(EveryModel, MarksNormalisations) {
  std::set<std::string> norms;
  for (const Parameter& parameter : network_->layout().parameters()) {
    const std::string layer = parameter.name.substr(0, parameter.name.rfind('.'));
    if (!parameter.trainable || layer.find("bn") != std::string::npos ||
        layer.ends_with("downsample.1")) {
      norms.insert(layer);
    }
  }
  for (const Parameter& parameter : network_->layout().parameters()) {
    EXPECT_EQ(parameter.normalisation,
              norms.contains(parameter.name.substr(0, parameter.name.rfind('.'))))
        << parameter.name;
  }
}

// Proves that local training through the real round loop makes the loss fall, with dropout and with
// short batches.
TEST_P(EveryModel, Learns) {
  const int64_t n = GetParam().large ? 4 : 11;
  Samples data;
  data.inputs = samples({n}).to(torch::kFloat32);
  data.labels = torch::arange(n).remainder(GetParam().outputs);
  if (GetParam().positions > 1) data.labels = data.inputs.to(torch::kInt64);
  auto experiment = selftest::hand_made_experiment(
      message("cohort = 2\nlocal.batch-size = ", GetParam().large ? 2 : 3, "\n",
              GetParam().training),
      data, GetParam().outputs, consecutive({n / 2, n - n / 2}), std::move(network_));
  experiment.dtype = torch::kFloat32;
  const auto finished = selftest::run_recorded(experiment);
  const double first = finished.rounds.front().train_loss, last = finished.rounds.back().train_loss;
  EXPECT_LT(last, 0.8 * first);
}

INSTANTIATE_TEST_SUITE_P(All, EveryModel, testing::ValuesIn(model_cases()),
                         [](const auto& info) { return std::string(info.param.label); });

// What is refused -----------------------------------------------------------------------------

// Proves that data of another shape are refused with the model's name, what it needs and what was
// found.
TEST(Models, RefuseOtherShapes) {
  for (const std::string name : {"cnn", "cnn-bn", "emnist-cnn", "lenet", "mobilenetv2", "resnet18",
                                 "resnet20", "shufflenetv2", "vgg11"}) {
    EXPECT_ERROR(model(name, "", {60}, 4),
                 message("model ", name, " needs images [channels, height, width] of at least "));
    EXPECT_ERROR(model(name, "", {3, 3, 40}, 4), "the data's samples are [3, 3, 40]");
  }
  EXPECT_ERROR(model("vgg11", "", {1, 28, 28}, 4), "at least 32 x 32");
  EXPECT_ERROR(model("char-lstm", "", {1, 28, 28}, 4), "model char-lstm needs sequences [length]");
  EXPECT_ERROR(model("char-lstm", "", {80}, 4, 20), "labels at 20 positions");
  EXPECT_ERROR(model("char-lstm", "", {80}, 1), "set char-lstm.characters");
  const auto lstm = model("char-lstm", "char-lstm.hidden = 2", {7}, 9);
  EXPECT_ERROR(lstm->forward(Weights(lstm->layout(), rows_of(*lstm, 1)), torch::full({1, 7}, 9.0)),
               "layer embeddings: the data's numbers are from 9 to 9");
}

// Proves that lists of widths are read in full or refused in full.
TEST(Models, MlpReadsWidths) {
  for (const char* hidden : {"", "0", "4,", ",4", "4,,4", "4;4", "4 4", "-3", "2.5", "wide",
                             "99999999999999999999", "1000001"}) {
    EXPECT_ERROR(model("mlp", message("mlp.hidden = ", hidden), {3}, 2), "mlp.hidden");
  }
  const auto network = model("mlp", "mlp.hidden = 5 , 4", {3}, 2);
  std::vector<std::string> names;
  for (const Parameter& parameter : network->layout().parameters()) names.push_back(parameter.name);
  EXPECT_THAT(names, testing::ElementsAre("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
                                          "fc3.weight", "fc3.bias"));
  EXPECT_NE(network->direct_pass(4), nullptr);
}

// Proves that dropout is drawn from the client's stream alone: the same stream gives the same loss,
// another one another.
TEST(Models, DropoutFollowsTheStream) {
  for (const std::string name : {"emnist-cnn", "vgg11"}) {
    const std::vector<int64_t> shape = {1, 32, 32};
    const auto network = model(name, "", shape, 4);
    const torch::Tensor rows = rows_of(*network, 1).to(torch::kFloat32),
                        x = torch::rand({2, 1, 32, 32});
    const auto scores = [&](int64_t round) {
      torch::NoGradGuard no_grad;
      Weights weights = Weights::for_descent(network->layout(), rows);
      std::vector<Rng> streams = {Rng(1, "dropout", round)};
      weights.streams = streams;
      return network->forward(weights, x);
    };
    EXPECT_TRUE(torch::equal(scores(1), scores(1))) << name;
    EXPECT_FALSE(torch::equal(scores(1), scores(2))) << name;
  }
}

}  // namespace
}  // namespace fl_sim
