// Layers: stacks against single clients, gradients against finite differences, dropout, the layout.
#include "network/layers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "any_job.h"
#include "layer_trial.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

// A layer of sequences: samples [T, width].
template <class Layer>
class AtPositions final : public Network {
 public:
  template <class... Arguments>
  explicit AtPositions(int64_t width, Arguments... arguments)
      : width_(width), layer_(layout_, "layer", arguments...) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return layer_(weights, x.reshape({x.size(0), -1, width_}));
  }

 private:
  int64_t width_;
  Layer layer_;
};

class LastState final : public Network {
 public:
  LastState(int64_t in, int64_t hidden) : in_(in), lstm_(layout_, "lstm", in, hidden) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return Lstm::last(weights, lstm_(weights, x.reshape({x.size(0), -1, in_})));
  }

 private:
  int64_t in_;
  Lstm lstm_;
};

// Every function of channels between two convolutions: 2·out channels, shuffled, cut in halves,
// joined the other way round, and one channel of zeros before and two behind them.
class ChannelFunctions final : public Network {
 public:
  ChannelFunctions(int64_t in, int64_t out)
      : conv1_(layout_, "conv1", in, 2 * out, 1), conv2_(layout_, "conv2", 2 * out + 3, 2, 1) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = shuffle_channels(weights, torch::tanh(conv1_(weights, x)), 2);
    const auto [first, second] = halve_channels(weights, x);
    x = join_channels(weights, second, first.square());
    return conv2_(weights, pad_channels(weights, x, 1, 2));
  }

 private:
  Conv2d conv1_, conv2_;
};

struct LayerCase {
  const char* name;
  std::shared_ptr<Network> network;
  std::vector<int64_t> shape;
};

std::vector<LayerCase> layer_cases() {
  return {
      {"Linear", std::make_shared<One<Linear>>(4, 3), {4}},
      {"Conv",
       std::make_shared<One<Conv2d>>(2, 3, 3, Conv2d::Options{.stride = 2, .padding = 1}),
       {2, 5, 4}},
      {"ConvWithoutBias",
       std::make_shared<One<Conv2d>>(3, 2, 2, Conv2d::Options{.bias = false}),
       {3, 3, 4}},
      {"ConvInGroups",
       std::make_shared<One<Conv2d>>(4, 2, 3, Conv2d::Options{.padding = 1, .groups = 2}),
       {4, 2, 3}},
      {"Depthwise",
       std::make_shared<One<Conv2d>>(
           3, 3, 3, Conv2d::Options{.stride = 2, .padding = 1, .groups = 3, .bias = false}),
       {3, 5, 4}},
      {"LinearAtPositions", std::make_shared<AtPositions<Linear>>(4, 4, 3), {5, 4}},
      {"Lstm", std::make_shared<AtPositions<Lstm>>(2, 2, 2), {3, 2}},
      {"LstmOfTwoLayers", std::make_shared<AtPositions<Lstm>>(2, 2, 2, 2), {3, 2}},
      {"LstmsLastState", std::make_shared<LastState>(2, 2), {3, 2}},
      {"Channels", std::make_shared<ChannelFunctions>(2, 2), {2, 1, 2}},
      {"GroupNorm", std::make_shared<One<GroupNorm>>(2, 4), {4, 3, 2}},
      {"BatchNorm", std::make_shared<One<BatchNorm>>(3), {3}},
      {"BatchNorm2d", std::make_shared<One<BatchNorm>>(3), {3, 2, 2}},
      {"ConvNet", std::make_shared<SmallConvNet>(2, 3), {2, 8, 8}},
      {"NormMlp", std::make_shared<NormDropoutMlp>(4, 5, 3, 0), {4}},
  };
}

class Layers : public testing::TestWithParam<LayerCase> {
 protected:
  Trial trial(std::vector<int64_t> counts) const {
    return Trial(*GetParam().network, std::move(counts), GetParam().shape);
  }
};

// Gradients for weights and inputs against central differences in float64: one client, a full
// stack, and stacks with short batches.
TEST_P(Layers, GradientsEqualFiniteDifferences) {
  const double h = 1e-5;
  for (const std::vector<int64_t>& counts :
       std::vector<std::vector<int64_t>>{{4}, {4, 4, 4}, {4, 2, 3}}) {
    Trial t = trial(counts);
    const Trial::Result result = t.train();
    const auto check = [&](torch::Tensor values, const torch::Tensor& gradient, const char* what) {
      double* v = values.data_ptr<double>();
      const torch::Tensor g = gradient.contiguous();
      ASSERT_GT(largest(g), 0.01);
      const int64_t columns = values.size(1), of_gradient = g.size(1);
      // Large tensors are sampled; the stride is odd, so that it meets every column.
      const int64_t stride = values.numel() / 400 * 2 + 1;
      for (int64_t i = 0; i < values.numel(); i += stride) {
        if (i % columns >= of_gradient) continue;  // a buffer
        const double before = v[i];
        v[i] = before + h;
        const double above = t.train().loss;
        v[i] = before - h;
        const double below = t.train().loss;
        v[i] = before;
        EXPECT_NEAR(g.data_ptr<double>()[i / columns * of_gradient + i % columns],
                    (above - below) / (2 * h), 1e-7)
            << what << " " << i << " of " << values.sizes() << " in a stack of " << counts.size();
      }
    };
    check(t.rows, result.gradients, "weight");
    check(t.samples.view({t.batch(), -1}), result.inputs.flatten(1), "input");
  }
}

// A stack computes for each client what the client computes alone: outputs, gradients and running
// statistics, for full and for short batches, in training and in evaluation.
TEST_P(Layers, StackEqualsOneAtATime) {
  for (const std::vector<int64_t>& counts :
       std::vector<std::vector<int64_t>>{{4, 4, 4}, {5, 3, 1}, {2, 6, 5}}) {
    const Trial t = trial(counts);
    const Trial::Result stack = t.train();
    const torch::Tensor evaluated = t.evaluate();
    for (int64_t c = 0; c < t.clients(); ++c) {
      const Trial single = t.alone(c);
      const Trial::Result alone = single.train();
      EXPECT_LT(largest(stack.output.select(1, c).narrow(0, 0, single.batch()) -
                        alone.output.select(1, 0)),
                1e-12);
      EXPECT_LT(largest(stack.gradients[c] - alone.gradients[0]), 1e-11);
      EXPECT_LT(largest(stack.rows[c] - alone.rows[0]), 1e-13);
      EXPECT_LT(largest(evaluated.select(1, c).narrow(0, 0, single.batch()) -
                        single.evaluate().select(1, 0)),
                1e-12);
    }
  }
}

// What stands in place of a missing sample influences nothing, not by a bit.
TEST_P(Layers, MaskedSamplesInfluenceNothing) {
  Trial t = trial({5, 3, 2});
  const Trial::Result before = t.train();
  const torch::Tensor missing = 1 - t.mask();
  const torch::Tensor old = t.samples.clone();
  for (int64_t b = 0; b < t.batch(); ++b) {
    for (int64_t c = 0; c < 3; ++c) {
      if (missing[b][c].item<double>() > 0) t.samples[b][c].fill_(1000).add_(old[b][c] * 100);
    }
  }
  ASSERT_GT(largest(t.samples - old), 100);
  const Trial::Result after = t.train();
  EXPECT_TRUE(torch::equal(before.output, after.output));
  EXPECT_TRUE(torch::equal(before.gradients, after.gradients));
  EXPECT_TRUE(torch::equal(before.rows, after.rows));
  EXPECT_EQ(largest(after.inputs.flatten(2) * missing.unsqueeze(2)), 0);
}

INSTANTIATE_TEST_SUITE_P(All, Layers, testing::ValuesIn(layer_cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// A single value has no variance: the client's batch is normalised by its running statistics, which
// then stay, alone and beside others.
TEST(BatchNorm, OneValueUsesTheRunningStatistics) {
  const One<BatchNorm> network(3);
  for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{{1}, {1, 4, 1}}) {
    const Trial t(network, counts, {3});
    const Trial::Result result = t.train();
    const torch::Tensor evaluated = t.evaluate();
    for (int64_t c = 0; c < t.clients(); ++c) {
      const bool single = counts[static_cast<size_t>(c)] == 1;
      EXPECT_EQ(torch::equal(result.rows[c], t.rows[c]), single);
      EXPECT_EQ(largest(result.output[0][c] - evaluated[0][c]) < 1e-12, single);
    }
  }
}

// Dropout -------------------------------------------------------------------------------------

// Dropout has no parameters: behind a linear layer it has a gradient to get right.
class DroppedLinear final : public Network {
 public:
  DroppedLinear(int64_t in, int64_t out, double p) : fc_(layout_, "fc", in, out), dropout_(p) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return dropout_(weights, fc_(weights, x));
  }

 private:
  Linear fc_;
  Dropout dropout_;
};

// A layer of ones shows the mask itself. [B, G, values]
torch::Tensor dropout_mask(double p, const std::vector<int64_t>& counts, int64_t values,
                           int64_t round = 1, const std::vector<int64_t>& ids = {0, 1, 2}) {
  const int64_t clients = static_cast<int64_t>(counts.size());
  const int64_t batch = *std::max_element(counts.begin(), counts.end());
  const ParameterLayout none;
  const torch::Tensor rows = torch::zeros({clients, 0});
  Weights weights(none, rows, rows);
  std::vector<Rng> streams;
  for (int64_t c = 0; c < clients; ++c)
    streams.emplace_back(1, "dropout", round, ids[static_cast<size_t>(c)]);
  weights.streams = streams;
  weights.counts = counts;
  return Dropout(p)(weights, torch::ones({batch, clients * values})).view({batch, clients, values});
}

// A share p is dropped, within four standard deviations; what is kept is scaled by 1/(1-p).
TEST(Dropout, DropsTheShareAndScalesTheRest) {
  for (const double p : {0.1, 0.5, 0.75}) {
    const torch::Tensor mask = dropout_mask(p, {100, 100}, 500);
    const double dropped = mask.eq(0).to(torch::kFloat64).mean().item<double>();
    EXPECT_NEAR(dropped, p, 4 * std::sqrt(p * (1 - p) / 1e5));
    EXPECT_TRUE(
        mask.masked_select(mask.ne(0)).eq(static_cast<float>(1 / (1 - p))).all().item<bool>());
  }
}

// A client's mask comes from its own stream, for its real samples: the same in every stack, another
// one for another client or round.
TEST(Dropout, MasksAreTheSameInEveryStack) {
  const torch::Tensor stack = dropout_mask(0.5, {4, 2, 3}, 50);
  for (int64_t c = 0; c < 3; ++c) {
    const int64_t count = std::vector<int64_t>{4, 2, 3}[static_cast<size_t>(c)];
    const torch::Tensor own = stack.select(1, c).narrow(0, 0, count);
    EXPECT_TRUE(torch::equal(own, dropout_mask(0.5, {count}, 50, 1, {c}).select(1, 0)));
    EXPECT_FALSE(torch::equal(own, dropout_mask(0.5, {count}, 50, 2, {c}).select(1, 0)));
    EXPECT_FALSE(torch::equal(own, dropout_mask(0.5, {count}, 50, 1, {c + 1}).select(1, 0)));
  }
  EXPECT_FALSE(torch::equal(stack[0][0], stack[1][0]));
}

// Gradients pass through the mask: against finite differences under the same streams.
TEST(Dropout, GradientsEqualFiniteDifferences) {
  const DroppedLinear network(4, 6, 0.4);
  Trial t(network, {4, 2, 3}, {4});
  const Trial::Result result = t.train();
  EXPECT_GT(result.output.eq(0).sum().item<int64_t>(), 9 * 6 / 5);
  double* v = t.rows.data_ptr<double>();
  for (int64_t i = 0; i < t.rows.numel(); ++i) {
    const double before = v[i];
    v[i] = before + 1e-5;
    const double above = t.train().loss;
    v[i] = before - 1e-5;
    const double below = t.train().loss;
    v[i] = before;
    EXPECT_NEAR(result.gradients.flatten()[i].item<double>(), (above - below) / 2e-5, 1e-7);
  }
}

// Evaluation drops nothing; nor does p = 0. A p that leaves nothing is refused.
TEST(Dropout, OffInEvaluation) {
  const ParameterLayout none;
  const torch::Tensor x = torch::randn({3, 4});
  EXPECT_TRUE(torch::equal(Dropout(0.5)(Weights(none, torch::zeros({2, 0})), x), x));
  EXPECT_EQ(largest(dropout_mask(0, {4, 4}, 50) - 1), 0);
  EXPECT_ERROR(Dropout(1), "dropout probability is 1");
  EXPECT_ERROR(Dropout(-0.1), "dropout probability is -0.1");
}

// The layout ----------------------------------------------------------------------------------

// Trainable parameters lie first, offsets and lengths are multiples of 16, views share memory.
TEST(ParameterLayout, LaysOutRows) {
  ParameterLayout layout;
  const int64_t a = layout.add("a", {3, 4}, 0), buffer = layout.add_buffer("b", {5}, 2);
  const int64_t c = layout.add("c", {17}, 1), scalar = layout.add("d", {}, 3);
  EXPECT_EQ(layout.trainable(), 16 + 32 + 16);
  EXPECT_EQ(layout.row(), 16 + 32 + 16 + 16);
  EXPECT_EQ(layout.count(), 12 + 17 + 1);
  EXPECT_EQ(layout.offset(a), 0);
  EXPECT_EQ(layout.offset(c), 16);
  EXPECT_EQ(layout.offset(scalar), 48);
  EXPECT_EQ(layout.offset(buffer), 64);
  torch::Tensor rows = torch::zeros({2, layout.row()});
  layout.view(rows, a)[1][2][3] = 7;
  EXPECT_EQ(rows[1][11].item<float>(), 7);
  EXPECT_EQ(layout.view(rows, scalar).dim(), 1);
  EXPECT_ERROR(layout.add("a", {1}, 0), "two parameters are named a");
}

// A parameter that the loss does not depend on has gradient 0, not what was there before.
TEST(Weights, UnusedParametersHaveGradientZero) {
  ParameterLayout layout;
  const int64_t used = layout.add("used", {2}, 0), unused = layout.add("unused", {2}, 0);
  const torch::Tensor rows = torch::ones({2, layout.row()});
  torch::Tensor gradients = torch::full({2, layout.trainable()}, 5.0);
  const Weights weights(layout, rows, gradients);
  weights.backward((weights[used] * 3).sum());
  EXPECT_TRUE(layout.view(gradients, used).eq(3).all().item<bool>());
  EXPECT_TRUE(layout.view(gradients, unused).eq(0).all().item<bool>());
}

// Channels of one client by hand, in a tensor whose memory lies channels last too: numbers 0 to 5
// are two groups of three.
TEST(Channels, AreShuffledHalvedJoinedAndPadded) {
  const ParameterLayout none;
  const Weights weights(none, torch::zeros({1, 0}));
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const torch::Tensor x = torch::arange(6, torch::kFloat32)
                                .view({1, 6, 1, 1})
                                .expand({2, 6, 3, 2})
                                .contiguous(format);
    const auto channels = [](const torch::Tensor& images) {
      EXPECT_EQ(largest(images - images.narrow(2, 0, 1).narrow(3, 0, 1).narrow(0, 0, 1)), 0);
      std::vector<int> values;
      for (int64_t c = 0; c < images.size(1); ++c) values.push_back(images[0][c][0][0].item<int>());
      return values;
    };
    using Values = std::vector<int>;
    EXPECT_EQ(channels(shuffle_channels(weights, x, 2)), (Values{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(channels(shuffle_channels(weights, x, 3)), (Values{0, 2, 4, 1, 3, 5}));
    const auto [first, second] = halve_channels(weights, x);
    EXPECT_EQ(channels(first), (Values{0, 1, 2}));
    EXPECT_EQ(channels(second), (Values{3, 4, 5}));
    EXPECT_EQ(channels(join_channels(weights, second, x.narrow(1, 1, 1))), (Values{3, 4, 5, 1}));
    EXPECT_EQ(channels(pad_channels(weights, x.narrow(1, 4, 2), 1, 2)), (Values{0, 4, 5, 0, 0}));
  }
}

// Embedding -----------------------------------------------------------------------------------

// A code is replaced by its row of the client's own table, in the client's own gradient too:
// against a product with one-hot vectors.
TEST(Embedding, LooksUpTheClientsOwnTable) {
  constexpr int64_t kCodes = 5, kWidth = 3, kBatch = 4, kLength = 6;
  const One<Embedding> network(kCodes, kWidth);
  for (const int64_t clients : {1, 3}) {
    const torch::Tensor rows = normal({clients, network.layout().row()}, 1);
    const torch::Tensor codes =
        torch::arange(kBatch * clients * kLength).mul(7).remainder(kCodes).view({kBatch, -1});
    const torch::Tensor one_hot =
        torch::one_hot(codes, kCodes).to(torch::kFloat64).view({kBatch, clients, kLength, kCodes});
    const torch::Tensor factors = normal({kBatch, clients, kLength, kWidth}, 2);
    torch::Tensor gradients = torch::zeros({clients, network.layout().trainable()}, rows.options());
    const Weights weights(network.layout(), rows, gradients);
    const torch::Tensor output = network.forward(weights, codes.to(torch::kFloat32));
    ASSERT_EQ(output.sizes(), torch::IntArrayRef({kBatch, clients * kLength, kWidth}));
    weights.backward((output.view(factors.sizes()) * factors).sum());
    for (int64_t c = 0; c < clients; ++c) {
      const torch::Tensor table = network.layout().view(rows, 0)[c];
      const torch::Tensor own = one_hot.select(1, c).reshape({-1, kCodes});
      EXPECT_TRUE(torch::equal(output.view(factors.sizes()).select(1, c).reshape({-1, kWidth}),
                               own.matmul(table)));
      EXPECT_LT(largest(network.layout().view(gradients, 0)[c] -
                        own.t().matmul(factors.select(1, c).reshape({-1, kWidth}))),
                1e-13);
    }
  }
}

// Numbers that are no codes are refused with what the data have, in a stack too, where a code
// beyond the table would be one of the next client's.
TEST(Embedding, RefusesWhatIsNoCode) {
  const One<Embedding> network(5, 3);
  for (const int64_t clients : {1, 2}) {
    const Weights weights(network.layout(), torch::zeros({clients, network.layout().row()}));
    const auto look_up = [&](double number) {
      torch::Tensor x = torch::zeros({3, clients * 4});
      x[1][2] = number;
      network.forward(weights, x);
    };
    look_up(4);
    EXPECT_ERROR(look_up(5),
                 "layer layer: the data's numbers are from 0 to 5, but codes must be whole numbers "
                 "from 0 to 4");
    EXPECT_ERROR(look_up(-1), "from -1 to 0");
    EXPECT_ERROR(look_up(0.5), "from 0 to 0.5");
    EXPECT_ERROR(look_up(std::nan("")), "codes must be whole numbers");
  }
}

// Nothing is no layer.
TEST(Lstm, HasLayersAndUnits) {
  EXPECT_ERROR(One<Lstm>(3, 0), "LSTM layer has 1 layers of 0 units");
  EXPECT_ERROR(One<Lstm>(3, 2, 0), "LSTM layer has 0 layers");
}

TEST(Conv2d, ChannelsDivideIntoGroups) {
  EXPECT_ERROR(One<Conv2d>(4, 6, 3, Conv2d::Options{.groups = 4}),
               "convolution layer: 4 and 6 channels do not divide into 4 groups");
}

// Channels that do not divide into groups are refused.
TEST(GroupNorm, ChannelsDivideIntoGroups) {
  EXPECT_ERROR(One<GroupNorm>(3, 4), "4 channels do not divide into 3 groups");
}

}  // namespace
}  // namespace fl_sim
