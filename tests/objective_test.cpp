#include "network/objective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "any_job.h"
#include "learning/evaluation.h"
#include "learning/scorer.h"
#include "network/sequential.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

using Kind = Objective::Kind;

// Scores far from 0 too, where exp() would overflow.
const std::vector<float> kScores = {-200, -3.5, -0.25, 0, 0.5, 4, 200};

// Proves that the losses of tensors and of plain memory are the formulas in the header, and that
// the gradients are their derivatives, by autograd.
TEST(Objective, BinaryAndSquaredLossesAreTheirFormulas) {
  for (const Kind kind : {Kind::kBinary, Kind::kSquared}) {
    const Objective objective(
        kind, kind == Kind::kSquared ? std::vector<double>{-1.5, 2.25} : std::vector<double>());
    for (const float s : kScores) {
      for (const int64_t label : {0, 1}) {
        const double value = label == 0 ? -1.5 : 2.25, score = s;
        const double expected =
            kind == Kind::kBinary
                ? (score > 0 ? score + std::log1p(std::exp(-score)) : std::log1p(std::exp(score))) -
                      static_cast<double>(label) * score
                : (score - value) * (score - value);
        const torch::Tensor scores = torch::full({1, 1}, score, torch::kFloat64).requires_grad_();
        const torch::Tensor loss = objective.losses(scores, torch::full({1, 1}, label));
        EXPECT_NEAR(loss.item<double>(), expected, 1e-12 * (1 + std::abs(expected)));
        loss.sum().backward();
        EXPECT_NEAR(objective.loss(std::span(&s, 1), label), expected,
                    1e-12 * (1 + std::abs(expected)));
        float gradient = 0;
        objective.loss(std::span(&s, 1), label, 0.25F, std::span(&gradient, 1));
        EXPECT_NEAR(gradient, 0.25 * scores.grad().item<double>(), 2e-5) << s << " " << label;
      }
    }
  }
}

// Proves that a binary model with score s is the softmax of (0, s): the same loss, prediction and
// probabilities.
TEST(Objective, BinaryIsTheSoftmaxOfTwoScoresOneOfThemZero) {
  const Objective binary(Kind::kBinary), softmax;
  for (const float s : kScores) {
    if (s == 0) continue;  // a tie
    const std::vector<float> one = {s}, two = {0, s};
    for (const int64_t label : {0, 1})
      EXPECT_NEAR(binary.loss(one, label), softmax.loss(two, label), 1e-4);
    EXPECT_EQ(binary.predicted(one), softmax.predicted(two));
    const auto p = binary.predictions(one), q = softmax.predictions(two);
    ASSERT_EQ(p.size(), 2U);
    EXPECT_NEAR(p[1], q[1], 1e-12);
    EXPECT_NEAR(p[0] + p[1], 1, 1e-12);
  }
}

// Proves that a sequence's loss is the mean over the positions that have a label, and that ignored
// ones are neither hits nor misses.
TEST(Objective, IgnoredPositionsDoNotCount) {
  const Objective objective;
  torch::manual_seed(1);
  const torch::Tensor scores = torch::randn({2, 3 * 4}, torch::kFloat64);  // 2 samples, T 3, C 4
  const torch::Tensor labels =
      torch::tensor(std::vector<int64_t>{1, Samples::kIgnored, 3, 0, 2, Samples::kIgnored})
          .view({2, 3});
  const torch::Tensor losses = objective.losses(scores, labels.unsqueeze(1));
  ASSERT_EQ(losses.sizes(), (std::vector<int64_t>{2, 1}));
  int64_t hits = 0;
  for (int64_t n = 0; n < 2; ++n) {
    double sum = 0, count = 0;
    for (int64_t t = 0; t < 3; ++t) {
      const int64_t label = labels[n][t].item<int64_t>();
      if (label == Samples::kIgnored) continue;
      const torch::Tensor s = scores[n].view({3, 4})[t];
      sum += (s.exp().sum().log() - s[label]).item<double>();
      hits += s.argmax().item<int64_t>() == label ? 1 : 0;
      ++count;
    }
    EXPECT_NEAR(losses[n][0].item<double>(), sum / count, 1e-12);
  }
  EXPECT_EQ(Objective::counted(labels).sum().item<int64_t>(), 4);
  EXPECT_EQ(objective.hits(scores, labels).sum().item<int64_t>(), hits);
  EXPECT_EQ(objective.losses(torch::zeros({1, 2}), torch::full({1, 1, 2}, Samples::kIgnored))
                .item<float>(),
            0);
}

// Proves that the area under the curve is the share of pairs that are ranked right, ties one half,
// by counting all pairs; and that balanced accuracy is the mean recall.
TEST(Detail, MetricsCountPairsAndRecalls) {
  Rng rng(3, "test");
  for (const size_t classes : {size_t{2}, size_t{3}}) {
    Detail detail;
    detail.class_samples.assign(classes, 0);
    detail.class_correct.assign(classes, 0);
    for (int i = 0; i < 60; ++i) {
      const auto label = static_cast<size_t>(rng.below(static_cast<int64_t>(classes)));
      const bool hit = rng.below(3) > 0;
      detail.labels.push_back(static_cast<int64_t>(label));
      detail.class_samples[label] += 1;
      detail.class_correct[label] += hit ? 1 : 0;
      for (size_t c = 0; c < classes; ++c)  // few different values: many ties
        detail.log_odds.push_back(static_cast<double>(rng.below(5)) / 4);
    }
    double areas = 0, counted = 0, recalls = 0;
    for (size_t c = 0; c < classes; ++c) {
      double right = 0, pairs = 0;
      for (size_t i = 0; i < detail.labels.size(); ++i) {
        for (size_t j = 0; j < detail.labels.size(); ++j) {
          const auto of_class = static_cast<int64_t>(c);
          if (detail.labels[i] != of_class || detail.labels[j] == of_class) continue;
          const double a = detail.log_odds[i * classes + c], b = detail.log_odds[j * classes + c];
          right += a > b ? 1 : a == b ? 0.5 : 0;
          ++pairs;
        }
      }
      recalls += detail.class_correct[c] / detail.class_samples[c] / static_cast<double>(classes);
      if (classes == 2 && c == 0) continue;
      areas += right / pairs;
      ++counted;
    }
    EXPECT_NEAR(detail.area_under_curve(), areas / counted, 1e-12);
    EXPECT_NEAR(detail.balanced_accuracy(), recalls, 1e-12);
  }
}

// Proves that samples are ranked by the odds of their class, which are told apart where the
// probability is 1 in double precision; that they are those of the probabilities where these say
// enough; and that a mixture's odds come from the other classes' probabilities.
TEST(Objective, LogOddsDoNotSaturate) {
  const Objective classes;
  for (const float top : {1.0F, 50.0F, 300.0F}) {
    const std::vector<float> less{top, 0, 1}, more{top + 1, 0, 1};
    const std::vector<double> a = classes.log_odds(less), b = classes.log_odds(more);
    EXPECT_NEAR(b[0] - a[0], 1, 1e-9);
    EXPECT_NEAR(a[0], top - std::log(1 + std::exp(1.0)), 1e-9);
    const std::vector<double> p = classes.predictions(less);
    if (top == 1) {
      for (size_t c = 0; c < 3; ++c) EXPECT_NEAR(a[c], std::log(p[c] / (1 - p[c])), 1e-9);
      EXPECT_THAT(Objective::mixed_log_odds(p), testing::Pointwise(testing::DoubleNear(1e-9), a));
    }
  }
  const Objective binary(Objective::Kind::kBinary);
  EXPECT_THAT(binary.log_odds(std::vector<float>{70}), testing::ElementsAre(-70, 70));
  EXPECT_NEAR(Objective::mixed_log_odds(binary.predictions(std::vector<float>{70}))[1], 70, 1e-9);
}

// Proves that a class of one sample has an area as others have, and one that all are of has none.
TEST(Detail, AClassOfOneSampleCounts) {
  Detail detail{.class_samples = {3, 1},
                .class_correct = {0, 0},
                .log_odds = {0, 0.1, 0, 0.2, 0, 0.4, 0, 0.3},
                .labels = {0, 0, 0, 1}};
  EXPECT_NEAR(detail.area_under_curve(), 2.0 / 3, 1e-12);
  detail.class_samples = {0, 4};
  detail.labels = {1, 1, 1, 1};
  EXPECT_TRUE(std::isnan(detail.area_under_curve()));
}

// Proves that a diverged model has no area under the curve, and that asking for it ends.
TEST(Detail, ADivergedModelHasNoArea) {
  const double nan = std::nan("");
  Detail detail{.class_samples = {1, 1},
                .class_correct = {0, 0},
                .log_odds = {nan, nan, nan, nan},
                .labels = {0, 1}};
  EXPECT_TRUE(std::isnan(detail.area_under_curve()));
}

// Proves F1 on a matrix of samples by label and prediction: 3 0 1 / 2 1 0 / none of the last class,
// which is predicted once; and that a class which is nowhere does not count.
TEST(Detail, F1IsOfRecallAndPrecision) {
  Detail detail{.class_samples = {4, 3, 0, 0},
                .class_correct = {3, 1, 0, 0},
                .class_predicted = {5, 1, 1, 0}};
  const std::vector<double> f1 = detail.class_f1();
  const auto harmonic = [](double recall, double precision) {
    return 2 * recall * precision / (recall + precision);
  };
  EXPECT_NEAR(f1[0], harmonic(3.0 / 4, 3.0 / 5), 1e-12);
  EXPECT_NEAR(f1[1], harmonic(1.0 / 3, 1), 1e-12);
  EXPECT_EQ(f1[2], 0);
  EXPECT_TRUE(std::isnan(f1[3]));
  EXPECT_NEAR(detail.macro_f1(), (f1[0] + f1[1]) / 3, 1e-12);
}

// Proves that the direct pass and autograd measure the same loss, accuracy and details of a binary
// model, alone and in a mixture.
TEST(Scorer, DirectAndAutogradAgreeOnABinaryModel) {
  class Linear2 final : public Sequential {
   public:
    Linear2() : Sequential({4}) {
      linear("fc1", 5);
      relu();
      linear("fc2", 1);
    }
  } network;
  network.set_objective(Objective(Kind::kBinary), 1);
  torch::manual_seed(2);
  const Samples samples = {torch::randn({50, 4}), torch::randint(2, {50}, torch::kInt64)};
  std::vector<int64_t> indices(30);
  for (int64_t i = 0; i < 30; ++i) indices[static_cast<size_t>(i)] = i + 7;
  for (const int64_t models : {1, 3}) {
    const torch::Tensor rows = torch::randn({models, network.layout().row()});
    std::vector<Score> scores[2];
    Detail details[2];
    for (const bool direct : {false, true}) {
      Scorer scorer(network, 1, 0, direct);
      Scorer::Totals totals(models);
      totals.keep_detail(2, true, true);
      scorer.add(samples, indices, rows, {}, totals);
      scores[direct] = totals.scores();
      details[direct] = totals.detail();
    }
    for (size_t i = 0; i < scores[0].size(); ++i) {
      EXPECT_NEAR(scores[0][i].mean_loss(), scores[1][i].mean_loss(), 1e-5);
      EXPECT_EQ(scores[0][i].accuracy(), scores[1][i].accuracy());
    }
    EXPECT_EQ(details[0].class_correct, details[1].class_correct);
    EXPECT_EQ(details[0].class_predicted, details[1].class_predicted);
    EXPECT_EQ(details[0].confusion, details[1].confusion);
    EXPECT_EQ(std::accumulate(details[0].confusion.begin(), details[0].confusion.end(), int64_t{0}),
              30);
    EXPECT_EQ(details[0].labels, details[1].labels);
    ASSERT_EQ(details[0].log_odds.size(), 60U);
    for (size_t i = 0; i < 60; ++i)
      EXPECT_NEAR(details[0].log_odds[i], details[1].log_odds[i], 1e-4);
  }
}

// Proves that metrics without a meaning are refused, and unknown ones named.
TEST(Metrics, AreRefusedWhereTheyHaveNoMeaning) {
  SmallMlp network(4, 3, 2);
  const auto refusal = [&](const std::string& metrics) -> std::string {
    try {
      choose_metrics(any_job("metrics = " + metrics), network, 2);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal("auc, balanced-accuracy,perplexity"), "");
  EXPECT_NE(refusal("auc,f2").find("'f2' is not known"), std::string::npos);
  network.set_objective(Objective(Kind::kSquared), 1);
  EXPECT_NE(refusal("auc").find("predicts a number"), std::string::npos);
  network.set_objective(Objective(), 5);
  EXPECT_NE(refusal("class-accuracy").find("sequences"), std::string::npos);
  EXPECT_EQ(refusal("perplexity"), "");
}

}  // namespace
}  // namespace fl_sim
