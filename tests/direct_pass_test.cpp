// The direct pass of sequential networks against autograd in double precision, with losses of the
// caller's own too, and local training by it against local training by autograd.
#include "network/direct_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "any_job.h"
#include "learning/local_training.h"
#include "network/sequential.h"
#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

// Sequential networks put together by the test.
class DirectLine final : public Sequential {
 public:
  DirectLine(std::vector<int64_t> shape, const std::function<void(DirectLine&)>& build)
      : Sequential(std::move(shape)) {
    build(*this);
  }
  using Sequential::conv2d;
  using Sequential::linear;
  using Sequential::max_pool2d;
  using Sequential::relu;
};

struct Case {
  const char* name;
  std::vector<int64_t> shape;
  std::function<void(DirectLine&)> build;
};

std::vector<Case> cases() {
  return {
      {"Logistic", {7}, [](DirectLine& n) { n.linear("fc", 3); }},
      {"ImageAsLine", {2, 4, 3}, [](DirectLine& n) { n.linear("fc", 3); }},
      {"Perceptron",
       {1, 5, 5},
       [](DirectLine& n) {
         n.linear("a", 37);
         n.relu();
         n.linear("b", 61);
         n.relu();
         n.linear("c", 10);
       }},
      {"PoolThenRelu",
       {1, 12, 12},
       [](DirectLine& n) {
         n.conv2d("a", 6, 5);
         n.max_pool2d(2);
         n.relu();
         n.conv2d("b", 20, 3);
         n.relu();
         n.linear("c", 4);
       }},
      {"ReluThenPool",
       {3, 9, 8},
       [](DirectLine& n) {
         n.conv2d("a", 5, 3, {.padding = 1});
         n.relu();
         n.max_pool2d(2);  // a row of pixels is left over
         n.conv2d("b", 17, 3, {.padding = 2});
         n.relu();
         n.max_pool2d(3);
         n.linear("c", 5);
       }},
      {"StrideAndNoBias",
       {2, 9, 9},
       [](DirectLine& n) {
         n.conv2d("a", 4, 3, {.stride = 2, .padding = 1});
         n.relu();
         n.conv2d("b", 33, 3, {.stride = 2, .padding = 1, .bias = false});
         n.linear("c", 3);
       }},
      {"ConvAfterConv",
       {1, 6, 6},
       [](DirectLine& n) {
         n.conv2d("a", 3, 3, {.padding = 1});
         n.conv2d("b", 4, 3, {.padding = 1});
         n.max_pool2d(2);
         n.relu();
         n.linear("c", 3);
       }},
      {"PoolThenPool",
       {1, 12, 12},
       [](DirectLine& n) {
         n.conv2d("a", 3, 3);
         n.max_pool2d(2);
         n.max_pool2d(2);
         n.linear("c", 3);
       }},
      {"PoolFirst",
       {2, 6, 6},
       [](DirectLine& n) {
         n.max_pool2d(2);
         n.conv2d("a", 3, 2);
         n.relu();
         n.linear("c", 3);
       }},
  };
}

class Direct : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kSamples = 13;
  Direct()
      : network_(GetParam().shape, GetParam().build),
        classes_(std::get<Linear>(network_.layers().back()).out()),
        samples_(random_samples(kSamples, GetParam().shape, classes_)) {
    Rng rng(5, "weights");
    row_ = network_.initial_row(rng);
  }

  // Mean loss of the samples and its gradient [T], in double precision.
  std::pair<double, torch::Tensor> reference(const torch::Tensor& inputs,
                                             const torch::Tensor& labels) const {
    const torch::Tensor rows = row_.to(torch::kFloat64).unsqueeze(0);
    torch::Tensor gradients = torch::zeros({1, network_.layout().trainable()}, torch::kFloat64);
    const Weights weights(network_.layout(), rows, gradients);
    const torch::Tensor scores = network_.forward(weights, inputs.to(torch::kFloat64));
    const torch::Tensor loss = network_.loss(scores, labels.unsqueeze(1)).mean();
    weights.backward(loss);
    return {loss.item<double>(), gradients[0]};
  }

  DirectLine network_;
  int64_t classes_;
  Samples samples_;
  torch::Tensor row_;
};

double largest(const torch::Tensor& tensor) { return tensor.abs().max().item<double>(); }

TEST_P(Direct, LossAndGradientAreAutogradsInDoublePrecision) {
  const auto pass = network_.direct_pass(11);
  // Several batches through the same buffers: nothing of one is left in the next.
  for (const std::vector<int64_t>& batch : std::vector<std::vector<int64_t>>{
           {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {12, 3}, {11, 11, 2}}) {
    const torch::Tensor indices = torch::tensor(batch);
    const auto [loss, gradient] = reference(samples_.inputs.index_select(0, indices),
                                            samples_.labels.index_select(0, indices));
    pass->load(samples_, batch, 1, 0);
    pass->forward(row_.data_ptr<float>());
    EXPECT_NEAR(pass->loss(), loss, 1e-5);
    torch::Tensor actual = torch::zeros({network_.layout().trainable()});
    pass->backward(row_.data_ptr<float>(), {.row = actual.data_ptr<float>()});
    EXPECT_GT(largest(gradient), 1e-3);
    EXPECT_LT(largest(actual.to(torch::kFloat64) - gradient), 2e-6 * (1 + largest(gradient)));
  }
}

// row += plus - decay * row - lr * gradient, in place.
TEST_P(Direct, AFoldedStepIsTheStepByHand) {
  const std::vector<int64_t> batch = {0, 1, 2, 3, 4};
  const int64_t trainable = network_.layout().trainable();
  const torch::Tensor plus = torch::rand({trainable});
  const auto pass = network_.direct_pass(5);
  torch::Tensor gradient = torch::zeros({trainable}), row = row_.clone();
  for (float* target : {gradient.data_ptr<float>(), row.data_ptr<float>()}) {
    pass->load(samples_, batch, 1, 0);
    pass->forward(row.data_ptr<float>());
    pass->loss();
    if (target != row.data_ptr<float>()) {
      pass->backward(row.data_ptr<float>(), {.row = target});
    } else {
      pass->backward(target, {.row = target,
                              .scale = -0.25,
                              .plus = plus.data_ptr<float>(),
                              .add = true,
                              .decay = 0.5});
    }
  }
  const ParameterLayout& layout = network_.layout();
  const torch::Tensor expected = row_ * 0.5 + plus - gradient * 0.25;
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_LT(largest(layout.view(row.unsqueeze(0), at) - layout.view(expected.unsqueeze(0), at)),
              2e-6)
        << layout.parameters()[i].name;
  }
}

// Bytes are scaled and shifted as fetch_inputs() does it.
TEST_P(Direct, BytesAreScaledAndShifted) {
  Samples bytes = samples_;
  bytes.inputs = samples_.inputs.mul(40).add(128).clamp(0, 255).to(torch::kUInt8);
  const double scale = 1 / 100.0, shift = -1.2;
  const std::vector<int64_t> batch = {4, 0, 9};
  const torch::Tensor indices = torch::tensor(batch);
  const auto [loss, gradient] =
      reference(fetch_inputs(bytes, indices, scale, shift, torch::kFloat64),
                bytes.labels.index_select(0, indices));
  const auto pass = network_.direct_pass(3);
  pass->load(bytes, batch, scale, shift);
  pass->forward(row_.data_ptr<float>());
  EXPECT_NEAR(pass->loss(), loss, 1e-5);
  torch::Tensor actual = torch::zeros({network_.layout().trainable()});
  pass->backward(row_.data_ptr<float>(), {.row = actual.data_ptr<float>()});
  EXPECT_LT(largest(actual.to(torch::kFloat64) - gradient), 3e-6 * (1 + largest(gradient)));
}

TEST_P(Direct, ScoresAreThoseOfForward) {
  const auto pass = network_.direct_pass(kSamples);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < kSamples; ++i) all.push_back(i);
  pass->load(samples_, all, 1, 0);
  pass->forward(row_.data_ptr<float>());
  const torch::Tensor expected =
      network_.forward(Weights(network_.layout(), row_.unsqueeze(0)), samples_.inputs);
  for (int64_t n = 0; n < kSamples; ++n) {
    const std::span<const float> scores = pass->scores(n);
    for (int64_t c = 0; c < classes_; ++c) {
      EXPECT_NEAR(scores[static_cast<size_t>(c)], expected[n][c].item<float>(), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, Direct, testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// What algorithms with losses of their own need, on the models that come with us.
class Heads : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kSamples = 6, kClasses = 10;
  Heads()
      : network_(make<Network>(GetParam(),
                               {hand_made_job("local.lr = 0.1"), "", {1, 28, 28}, kClasses})),
        pass_(network_->direct_pass(kSamples)),
        samples_(random_samples(kSamples, {1, 28, 28}, kClasses)) {
    torch::manual_seed(2);
    Rng rng(5, "weights");
    row_ = network_->initial_row(rng);
  }

  // Loads and sends the samples at `indices` through the pass.
  void forward(const std::vector<int64_t>& indices) {
    pass_->load(samples_, indices, 1, 0);
    pass_->forward(row_.data_ptr<float>());
    indices_ = torch::tensor(indices);
  }

  // The gradient [T] of the direct pass.
  torch::Tensor backward() {
    torch::Tensor gradient = torch::zeros({network_->layout().trainable()});
    pass_->backward(row_.data_ptr<float>(), {.row = gradient.data_ptr<float>()});
    return gradient;
  }

  // The gradient [T], by autograd in double precision, of a loss of the loaded samples'
  // representations [B, R], scores [B, classes] and labels [B].
  using Loss =
      std::function<torch::Tensor(torch::Tensor h, torch::Tensor scores, torch::Tensor labels)>;
  torch::Tensor reference(const Loss& loss) const {
    const torch::Tensor rows = row_.to(torch::kFloat64).unsqueeze(0);
    torch::Tensor gradients = torch::zeros({1, network_->layout().trainable()}, torch::kFloat64);
    const Weights weights(network_->layout(), rows, gradients);
    const torch::Tensor inputs = samples_.inputs.index_select(0, indices_).to(torch::kFloat64);
    const torch::Tensor h = network_->represent(weights, inputs);
    weights.backward(
        loss(h, network_->classify(weights, h), samples_.labels.index_select(0, indices_)));
    return gradients[0];
  }

  static void expect_equal(const torch::Tensor& actual, const torch::Tensor& expected) {
    EXPECT_GT(largest(expected), 1e-3);
    EXPECT_LT(largest(actual.to(torch::kFloat64) - expected), 2e-6 * (1 + largest(expected)));
  }

  static torch::Tensor cross_entropy(const torch::Tensor& scores, const torch::Tensor& labels) {
    return torch::nll_loss(torch::log_softmax(scores, 1), labels);
  }

  std::unique_ptr<Network> network_;
  std::unique_ptr<DirectPass> pass_;
  Samples samples_;
  torch::Tensor row_, indices_;
};

// Proves that the pass and represent() mean the same thing, in the same order, for each sample.
TEST_P(Heads, RepresentationsAreThoseOfTheNetwork) {
  forward({5, 0, 3, 1});
  EXPECT_EQ(pass_->batch(), 4);
  const torch::Tensor expected = network_->represent(Weights(network_->layout(), row_.unsqueeze(0)),
                                                     samples_.inputs.index_select(0, indices_));
  ASSERT_EQ(expected.sizes(), torch::IntArrayRef({4, pass_->representation_size()}));
  for (int64_t n = 0; n < 4; ++n) {
    EXPECT_EQ(pass_->label(n), samples_.labels[indices_[n].item<int64_t>()].item<int64_t>());
    const std::span<const float> h = pass_->representation(n);
    const torch::Tensor actual = torch::tensor(std::vector<float>(h.begin(), h.end()));
    EXPECT_GT(largest(actual), 0.1);
    EXPECT_LT(largest(actual - expected[n]), 1e-5);
  }
}

// Proves that forward() is classify() of represent(), bit by bit, for one client and for a stack.
TEST_P(Heads, TwoHalvesAreTheWhole) {
  ASSERT_TRUE(network_->has_representation());
  for (const int64_t clients : {1, 3}) {
    const torch::Tensor rows =
        row_ * torch::tensor({1.0F, 0.5F, 2.0F}).slice(0, 0, clients).unsqueeze(1);
    const Weights weights(network_->layout(), rows);
    const torch::Tensor x = stack_inputs(samples_.inputs, clients);
    const torch::Tensor h = network_->represent(weights, x);
    EXPECT_EQ(h.size(1), clients * pass_->representation_size());
    EXPECT_TRUE(torch::equal(network_->classify(weights, h), network_->forward(weights, x)));
  }
}

// Proves that the loss of each sample is the mean's share, and that asking changes no gradient.
TEST_P(Heads, SampleLossesMakeTheMean) {
  forward({0, 1, 2, 3, 4, 5});
  double total = 0;
  for (int64_t n = 0; n < kSamples; ++n) total += pass_->sample_loss(n);
  EXPECT_EQ(total / kSamples, pass_->loss());
  const std::vector<float> before(pass_->score_gradient(2).begin(), pass_->score_gradient(2).end());
  pass_->sample_loss(2);
  EXPECT_TRUE(std::ranges::equal(before, pass_->score_gradient(2)));
  EXPECT_NEAR(std::accumulate(before.begin(), before.end(), 0.0), 0, 1e-7);
  const auto label = static_cast<size_t>(pass_->label(2));
  EXPECT_NEAR(before[label], (std::exp(-pass_->sample_loss(2)) - 1) / kSamples, 1e-7);
}

// Proves that soft targets q and weights u of samples come down to changed gradients of scores:
// that of -sum(u q log softmax(s)) by s is u (softmax(s) - q), where sum(q) = 1.
TEST_P(Heads, ChangedScoreGradientsAreThoseOfAnotherLoss) {
  forward({4, 2, 0, 5, 1});
  const torch::Tensor q = torch::softmax(torch::randn({5, kClasses}, torch::kFloat64), 1);
  const torch::Tensor u = torch::tensor({0.5, 3.0, 0.0, 1.0, 2.0}, torch::kFloat64);
  pass_->loss();
  for (int64_t n = 0; n < pass_->batch(); ++n) {
    const std::span<float> gradient = pass_->score_gradient(n);
    gradient[static_cast<size_t>(pass_->label(n))] += 1.0F / 5;
    for (int64_t c = 0; c < kClasses; ++c) {
      float& g = gradient[static_cast<size_t>(c)];
      g = static_cast<float>(u[n].item<double>() * (g - q[n][c].item<double>() / 5));
    }
  }
  expect_equal(backward(), reference([&](const auto&, const auto& scores, const auto&) {
                 return -(u.unsqueeze(1) * q * torch::log_softmax(scores, 1)).sum() / 5;
               }));
}

// Proves that what pulls representations to given places is added to the loss's gradient, for the
// whole batch and for one sample of it, and that nothing of it is left in the next step.
TEST_P(Heads, RepresentationGradientsAreAdded) {
  const torch::Tensor place = torch::randn({pass_->representation_size()}, torch::kFloat64);
  for (const int64_t pulled : {5, 1, 0}) {  // samples
    forward({4, 2, 0, 5, 1});
    pass_->loss();
    for (int64_t n = 0; n < pulled; ++n) {
      const std::span<const float> h = pass_->representation(n);
      const std::span<float> gradient = pass_->representation_gradient(n);
      ASSERT_EQ(std::ssize(gradient), pass_->representation_size());
      for (size_t i = 0; i < h.size(); ++i) {
        EXPECT_EQ(gradient[i], 0);
        gradient[i] = h[i] - static_cast<float>(place.data_ptr<double>()[i]);
      }
    }
    expect_equal(backward(), reference([&](const auto& h, const auto& scores, const auto& labels) {
                   const torch::Tensor away = h.slice(0, 0, pulled) - place;
                   return cross_entropy(scores, labels) + away.square().sum() / 2;
                 }));
  }
}

INSTANTIATE_TEST_SUITE_P(, Heads, testing::Values("logistic", "2nn", "lenet", "cnn"),
                         [](const auto& info) { return "Of_" + std::string(info.param); });

// Proves that a network that names no representation says so.
TEST(Representation, IsOnlyThatOfALinearHead) {
  const DirectLine no_head({4}, [](DirectLine& n) {
    n.linear("fc", 3);
    n.relu();
  });
  const SmallMlp other(4, 3, 2);
  for (const Network* network : std::initializer_list<const Network*>{&no_head, &other}) {
    EXPECT_FALSE(network->has_representation());
    const Weights weights(network->layout(), torch::zeros({1, network->layout().row()}));
    EXPECT_ERROR(network->represent(weights, torch::zeros({1, 4})), "names no representation");
    EXPECT_ERROR(network->classify(weights, torch::zeros({1, 3})), "names no head");
  }
}

// Two epochs of local training with a job, by the direct pass, by autograd (which two threads make
// it take) and by the direct pass with a correction in the form of a hook, which cannot be folded.
struct Trained {
  torch::Tensor folded, autograd, hooked;
  Update update;
};

Trained train_three_ways(const std::string& lines, const AffineCorrection* affine) {
  const auto train = [&](const std::string& more, bool hook) {
    const Case image = cases()[3];
    const DirectLine network(image.shape, image.build);
    const Job job = hand_made_job(lines + "\nlocal.epochs = 2\nlocal.batch-size = 4" + more);
    const Samples samples = random_samples(10, image.shape, 4);
    const Partition partition = make_partition(consecutive({10}));
    const ClientData data{.train = samples, .partition = &partition};
    GlobalModel global{.round = 1, .weights = {}, .shared = {}};
    Rng rng(3, "weights");
    global.weights = network.initial_row(rng).unsqueeze(0);
    ClientGroup group{.ids = {0}, .data = data, .seed = 7};
    group.rows = global.weights.clone();
    group.squared_losses = true;
    const LocalTraining local({job, network, 1, 10});
    if (affine == nullptr && !hook) return local.train(group, global);
    if (!hook) return local.train(group, global, *affine);
    const GradientHook correct = [&](LocalStep& step) {
      if (affine == nullptr) return;
      if (affine->pull != 0) step.gradients.add_(step.rows - affine->anchor, affine->pull);
      if (affine->shift.defined()) step.gradients.add_(affine->shift);
    };
    return local.train(group, global, LocalRule{.gradient = correct});
  };
  Trained result;
  result.update = train("", false);
  result.folded = result.update.delta;
  const Update autograd = train("\nthreads = 2", false);
  result.autograd = autograd.delta;
  const Update hooked = train("", true);
  result.hooked = hooked.delta;
  EXPECT_NEAR(result.update.clients[0].squared_loss, autograd.clients[0].squared_loss, 1e-5);
  EXPECT_NEAR(result.update.clients[0].squared_loss, hooked.clients[0].squared_loss, 1e-5);
  EXPECT_NEAR(result.update.clients[0].loss, autograd.clients[0].loss, 1e-5);
  EXPECT_NEAR(result.update.clients[0].loss_after, autograd.clients[0].loss_after, 1e-5);
  EXPECT_EQ(result.update.clients[0].samples_seen, autograd.clients[0].samples_seen);
  return result;
}

void expect_three_equal(const std::string& lines, const AffineCorrection* affine) {
  const Trained trained = train_three_ways(lines, affine);
  EXPECT_GT(largest(trained.folded), 5e-3) << lines;
  EXPECT_LT(largest(trained.folded - trained.autograd), 5e-6) << lines;
  EXPECT_LT(largest(trained.folded - trained.hooked), 5e-6) << lines;
}

TEST(DirectTraining, EqualsAutogradAndTheHook) {
  for (const char* lines :
       {"", "local.weight-decay = 0.1", "local.momentum = 0.9", "local.clip-norm = 0.1",
        "local.momentum = 0.5\nlocal.nesterov = true\nlocal.weight-decay = 0.1"}) {
    expect_three_equal(message("local.lr = 0.1\n", lines), nullptr);
  }
}

// A row of numbers as large as weights, the layout's gaps zero as everywhere.
torch::Tensor small_row(uint64_t seed) {
  Rng rng(seed, "weights");
  const Case image = cases()[3];
  return DirectLine(image.shape, image.build).initial_row(rng).unsqueeze(0) / 10;
}

TEST(DirectTraining, FoldsAffineCorrections) {
  const torch::Tensor anchor = small_row(1), shift = small_row(2);
  for (const AffineCorrection& affine :
       std::vector<AffineCorrection>{{.pull = 0.5, .anchor = anchor},
                                     {.shift = shift},
                                     {.pull = 2, .anchor = anchor, .shift = shift}}) {
    for (const char* lines : {"", "local.weight-decay = 0.1", "local.momentum = 0.9"}) {
      expect_three_equal(message("local.lr = 0.1\n", lines), &affine);
    }
  }
}

// A decay of 1e-7 a step, less than the last bit of 1 - 1e-7 can say, is there after a thousand
// steps. The inputs are 0, so that weights have no gradient of their own.
TEST(DirectTraining, ASmallDecayIsNotRoundedAway) {
  const DirectLine network({4}, [](DirectLine& n) { n.linear("fc", 3); });
  const Job job = hand_made_job(
      "local.lr = 0.001\nlocal.weight-decay = 0.0001\nlocal.batch-size = 1\nlocal.epochs = 1000");
  const Samples samples{torch::zeros({1, 4}), torch::zeros({1}, torch::kInt64)};
  const Partition partition = make_partition({{0}});
  const ClientData data{.train = samples, .partition = &partition};
  // Weights of 0.75: there float32 has a last bit of 6e-8, and each change is rounded to it.
  const GlobalModel global{
      .round = 1, .weights = torch::full({1, network.layout().row()}, 0.75F), .shared = {}};
  ClientGroup group{.ids = {0}, .data = data, .seed = 7};
  group.rows = global.weights.clone();
  const Update update = LocalTraining({job, network, 1, 1}).train(group, global);
  const torch::Tensor change = network.layout().view(update.delta, 0);
  EXPECT_NEAR(change.max().item<double>(), -0.75e-4, 0.2e-4);
  EXPECT_NEAR(change.min().item<double>(), -0.75e-4, 0.2e-4);
}

// lr * pull = 1: nothing of a row is kept, it becomes the anchor minus a step.
TEST(DirectTraining, APullThatKeepsNothing) {
  const AffineCorrection affine{.pull = 4, .anchor = small_row(1)};
  expect_three_equal("local.lr = 0.25", &affine);
}

TEST(Sequential, SaysWhichLayerDoesNotFit) {
  const auto error = [](std::vector<int64_t> shape, const std::function<void(DirectLine&)>& build) {
    try {
      DirectLine(std::move(shape), build);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error({7}, [](DirectLine& n) { n.conv2d("conv1", 3, 3); }),
            "conv1 needs images [channels, height, width], but gets samples [7]");
  EXPECT_EQ(error({1, 4, 9}, [](DirectLine& n) { n.conv2d("conv1", 3, 5); }),
            "conv1: its windows of 5 x 5 do not fit images of shape [1, 4, 9]");
  EXPECT_EQ(error({1, 1, 9}, [](DirectLine& n) { n.max_pool2d(2); }),
            "max pooling: its windows of 2 x 2 do not fit images of shape [1, 1, 9]");
}

}  // namespace
}  // namespace fl_sim
