// The server's evaluation: what a job asks for is what is counted by hand.
#include "learning/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pointwise;

// Scores are the inputs themselves, of four classes.
class Scores final : public Network {
 public:
  Scores() { layout_.add("unused", {1}, 0); }
  torch::Tensor forward(const Weights&, torch::Tensor x) const override { return x; }
};

// Labels 0 0 0 1 1 2, taken for 0 0 1 1 2 2; nobody is of class 3.
Samples six() {
  const std::vector<int64_t> labels = {0, 0, 0, 1, 1, 2}, taken = {0, 0, 1, 1, 2, 2};
  torch::Tensor x = torch::zeros({6, 4});
  for (int64_t i = 0; i < 6; ++i) {
    x[i][taken[static_cast<size_t>(i)]] = 2 + 0.25 * static_cast<double>(i);
    x[i][labels[static_cast<size_t>(i)]] += 1;
  }
  return {x, torch::tensor(labels)};
}

TestResult evaluated(const MetricChoice& choice, const Samples& samples = six()) {
  const Scores network;
  TestResult last;
  Evaluator evaluator(network, samples, 1, 0, false, choice,
                      [&](const TestResult& result) { last = result; });
  evaluator.add(3, torch::zeros({1, 1}));
  evaluator.finish();
  EXPECT_EQ(last.round, 3);
  EXPECT_GT(evaluator.seconds(), 0);
  return last;
}

TEST(Evaluator, MeasuresWhatIsAskedFor) {
  const Samples samples = six();
  const torch::Tensor p = torch::softmax(samples.inputs.to(torch::kFloat64), 1);
  double loss = 0;
  for (int64_t i = 0; i < 6; ++i)
    loss -= std::log(p[i][samples.labels[i].item<int64_t>()].item<double>()) / 6;
  // The share of pairs, one of a class and one of another, whose odds of the class are in order.
  double areas = 0;
  for (int64_t c = 0; c < 3; ++c) {
    double right = 0, pairs = 0;
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t j = 0; j < 6; ++j) {
        if (samples.labels[i].item<int64_t>() != c || samples.labels[j].item<int64_t>() == c)
          continue;
        const double a = p[i][c].item<double>(), b = p[j][c].item<double>();
        right += a > b ? 1 : a == b ? 0.5 : 0;
        ++pairs;
      }
    }
    areas += right / pairs / 3;
  }
  const TestResult all = evaluated({.balanced_accuracy = true,
                                    .area_under_curve = true,
                                    .class_accuracy = true,
                                    .macro_f1 = true,
                                    .class_f1 = true,
                                    .confusion = true,
                                    .perplexity = true,
                                    .classes = 4});
  const Metrics& m = all.metrics;
  EXPECT_NEAR(all.loss, loss, 1e-6);
  EXPECT_NEAR(all.accuracy, 4.0 / 6, 1e-12);
  EXPECT_NEAR(m.balanced_accuracy, (2.0 / 3 + 1.0 / 2 + 1) / 3, 1e-12);
  EXPECT_NEAR(m.area_under_curve, areas, 1e-9);
  EXPECT_LT(areas, 0.99);
  EXPECT_NEAR(m.macro_f1, (0.8 + 0.5 + 2.0 / 3) / 3, 1e-12);
  EXPECT_NEAR(m.perplexity, std::exp(loss), 1e-5);
  EXPECT_THAT(m.confusion, ElementsAre(2, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0));
  ASSERT_EQ(m.class_accuracy.size(), 4u);
  EXPECT_TRUE(std::isnan(m.class_accuracy[3]));
  ASSERT_EQ(m.class_f1.size(), 4u);
  EXPECT_TRUE(std::isnan(m.class_f1[3]));
  EXPECT_THAT((std::vector<double>{m.class_accuracy.begin(), m.class_accuracy.begin() + 3}),
              Pointwise(DoubleNear(1e-12), {2.0 / 3, 1.0 / 2, 1.0}));
  EXPECT_THAT((std::vector<double>{m.class_f1.begin(), m.class_f1.begin() + 3}),
              Pointwise(DoubleNear(1e-12), {0.8, 0.5, 2.0 / 3}));
}

// One model's samples are ranked by its scores, not by probabilities, which are 1 for both.
TEST(Evaluator, RanksByScores) {
  const Samples sure{torch::tensor({{0.0F, 800.0F}, {0.0F, 790.0F}}),
                     torch::tensor(std::vector<int64_t>{1, 0})};
  EXPECT_EQ(evaluated({.area_under_curve = true, .classes = 2}, sure).metrics.area_under_curve, 1);
}

TEST(Evaluator, MeasuresNothingElse) {
  const Metrics none = evaluated({.classes = 4}).metrics;
  EXPECT_TRUE(std::isnan(none.balanced_accuracy) && std::isnan(none.area_under_curve) &&
              std::isnan(none.macro_f1) && std::isnan(none.perplexity));
  EXPECT_THAT(none.class_accuracy, IsEmpty());
  EXPECT_THAT(none.class_f1, IsEmpty());
  EXPECT_THAT(none.confusion, IsEmpty());
  const Metrics one = evaluated({.perplexity = true, .classes = 4}).metrics;
  EXPECT_FALSE(std::isnan(one.perplexity));
  EXPECT_TRUE(std::isnan(one.macro_f1));
}

}  // namespace
}  // namespace fl_sim
