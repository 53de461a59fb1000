#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "any_job.h"
#include "data/dataset.h"

namespace fl_sim {
namespace {

constexpr double kDeviations = 4.5;  // standard errors; see rng_test.cpp

Dataset generate(const std::string& name, const std::string& lines = "") {
  const Job job = any_job("dataset = " + name + "\n" + lines);
  return make<DatasetSource>(name, {job, ""})->read();
}

// Four samples of two features, two classes.
Dataset small() {
  Dataset data;
  data.classes = 2;
  data.train = {torch::arange(8, torch::kFloat32).reshape({4, 2}),
                torch::tensor({0, 1, 0, 1}, torch::kInt64)};
  data.test = {torch::ones({1, 2}), torch::tensor({1}, torch::kInt64)};
  data.owner = {0, 1, 1, 0};
  return data;
}

bool same(const Dataset& a, const Dataset& b) {
  return torch::equal(a.train.inputs, b.train.inputs) &&
         torch::equal(a.train.labels, b.train.labels) &&
         torch::equal(a.test.inputs, b.test.inputs) && torch::equal(a.test.labels, b.test.labels) &&
         a.owner == b.owner;
}

TEST(CheckDataset, AcceptsWhatIsWhole) {
  EXPECT_NO_THROW(check_dataset(small(), "small"));
  Dataset data = small();
  data.owner.clear();
  EXPECT_NO_THROW(check_dataset(data, "small"));
}

// Each way of being broken is found, and the message says which.
TEST(CheckDataset, RefusesWhatIsBroken) {
  const auto expect = [](const char* part, const std::function<void(Dataset&)>& damage) {
    Dataset data = small();
    damage(data);
    EXPECT_ERROR(check_dataset(data, "small"), part);
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  expect("classes is 0", [](Dataset& d) { d.classes = 0; });
  expect("test set: inputs and labels differ in number (0 inputs, 0 labels)",
         [](Dataset& d) { d.test = {}; });
  expect("test set: there are no samples", [](Dataset& d) {
    d.test = {torch::ones({0, 2}), torch::ones({0}, torch::kInt64)};
  });
  expect("training set: inputs and labels differ in number (3 inputs, 4 labels)", [](Dataset& d) {
    d.train.inputs = torch::ones({3, 2});
  });
  expect("inputs are of type Double",
         [](Dataset& d) { d.train.inputs = d.train.inputs.to(torch::kFloat64); });
  expect("labels are of type Int",
         [](Dataset& d) { d.train.labels = d.train.labels.to(torch::kInt32); });
  expect("label 2 occurs (labels must be 0 to 1)", [](Dataset& d) { d.train.labels[1] = 2; });
  expect("label -1 occurs", [](Dataset& d) { d.train.labels[1] = -1; });
  expect("the inputs of 1 samples are NaN or infinite, the first is sample 2",
         [&](Dataset& d) { d.train.inputs[2][1] = kNan; });
  expect("the inputs of 2 samples", [](Dataset& d) {
    d.train.inputs[0][0] = std::numeric_limits<double>::infinity();
    d.train.inputs[3][0] = -std::numeric_limits<double>::infinity();
  });
  expect("training samples are [2], test samples [3]", [](Dataset& d) {
    d.test.inputs = torch::ones({1, 3});
  });
  expect("scale is nan", [&](Dataset& d) { d.scale = kNan; });
  expect("3 owners for 4 training samples", [](Dataset& d) { d.owner.pop_back(); });
  expect("owner -1 occurs", [](Dataset& d) { d.owner[0] = -1; });
  expect("owner 9 occurs", [](Dataset& d) { d.owner[0] = 9; });
  expect("owner 1 of 3 has no training sample", [](Dataset& d) { d.owner = {0, 2, 2, 0}; });
}

// Sequences: a label at each position, or kIgnored; but not nowhere, and as many in both parts.
TEST(CheckDataset, KnowsSequences) {
  const auto sequences = [] {
    Dataset data = small();
    data.train.labels = torch::tensor({0, 1, -1, 1, 1, -1, 0, -1}, torch::kInt64).reshape({4, 2});
    data.test.labels = torch::tensor({1, 0}, torch::kInt64).reshape({1, 2});
    return data;
  };
  EXPECT_NO_THROW(check_dataset(sequences(), "small"));
  Dataset data = sequences();
  data.train.labels[0][0] = -2;
  EXPECT_ERROR(check_dataset(data, "small"), "label -2 occurs (labels must be 0 to 1, or -1 where");
  data = sequences();
  data.train.labels[3][0] = -1;
  EXPECT_ERROR(check_dataset(data, "small"),
               "1 samples have nothing to predict at any position, the first is sample 3");
  data = sequences();
  data.test.labels = torch::tensor({1}, torch::kInt64);
  EXPECT_ERROR(check_dataset(data, "small"),
               "training samples have labels at 2 positions, test samples at 1");
  data = sequences();
  data.train.labels = data.train.labels.reshape({4, 2, 1});
  EXPECT_ERROR(check_dataset(data, "small"), "labels are [4, 2, 1]");
}

TEST(CheckDataset, KnowsCoarseClassesValuesAndNames) {
  Dataset data = small();
  data.coarse = {0, 1, 1, 0};
  data.values = {-1.5, 2};
  data.class_names = {"a", "b"};
  EXPECT_NO_THROW(check_dataset(data, "small"));
  const auto expect = [&](const char* part, const std::function<void(Dataset&)>& damage) {
    Dataset broken = data;
    damage(broken);
    EXPECT_ERROR(check_dataset(broken, "small"), part);
  };
  expect("3 coarse classes for 4 training samples", [](Dataset& d) { d.coarse.pop_back(); });
  expect("coarse class 1 of 3 has no training sample", [](Dataset& d) { d.coarse = {0, 2, 2, 0}; });
  expect("coarse class -1 occurs", [](Dataset& d) { d.coarse[0] = -1; });
  expect("1 values for 2 classes", [](Dataset& d) { d.values = {1}; });
  expect("value 1 is 2, after 2 (values must be finite and ascend)", [](Dataset& d) {
    d.values = {2, 2};
  });
  expect("value 0 is nan", [](Dataset& d) { d.values[0] = std::nan(""); });
  expect("3 names for 2 classes", [](Dataset& d) { d.class_names.emplace_back("c"); });
}

TEST(FetchInputs, SelectsConvertsAndScales) {
  Samples samples;
  samples.inputs = torch::tensor({0, 51, 102, 255}, torch::kUInt8).reshape({2, 1, 1, 2});
  const torch::Tensor x =
      fetch_inputs(samples, torch::tensor({1, 0, 1}, torch::kInt64), 1.0 / 255, 0, torch::kFloat64);
  EXPECT_EQ(x.sizes(), (std::vector<int64_t>{3, 1, 1, 2}));
  EXPECT_TRUE(torch::allclose(
      x.flatten(), torch::tensor({0.4, 1.0, 0.0, 0.2, 0.4, 1.0}, torch::kFloat64), 0, 1e-15));
  const torch::Tensor shifted =
      fetch_inputs(samples, torch::tensor({0}, torch::kInt64), 2, -1, torch::kFloat32);
  EXPECT_TRUE(torch::equal(shifted.flatten(), torch::tensor({-1.0f, 101.0f})));
}

// Scaling happens in place on the batch, never on the samples, whose type may be the batch's.
TEST(FetchInputs, LeavesTheSamplesAsTheyAre) {
  const Dataset data = small();
  const torch::Tensor before = data.train.inputs.clone();
  fetch_inputs(data.train, torch::arange(4), 3, 1, torch::kFloat32);
  EXPECT_TRUE(torch::equal(data.train.inputs, before));
}

TEST(Fcube, IsWhatNiidBenchDefines) {
  const Dataset data = generate("fcube");
  check_dataset(data, "fcube");
  ASSERT_EQ(data.train.size(), 4000);
  ASSERT_EQ(data.test.size(), 1000);
  EXPECT_EQ(data.classes, 2);
  const auto x = data.train.inputs.accessor<float, 2>();
  const auto y = data.train.labels.accessor<int64_t, 1>();
  for (int64_t i = 0; i < 4000; ++i) {
    const int64_t party = i / 1000;
    EXPECT_EQ(data.owner[i], party);
    EXPECT_EQ(y[i], i % 2);
    const float turn = y[i] == 1 ? -1 : 1;  // odd points are mirrored at the origin
    EXPECT_GE(turn * x[i][0], 0);
    EXPECT_GE(turn * x[i][1] * (party > 1 ? -1 : 1), 0);
    EXPECT_GE(turn * x[i][2] * (party % 2 == 1 ? -1 : 1), 0);
  }
  // |x| is uniform on [0, 1]: mean 1/2, variance 1/12.
  const torch::Tensor size = data.train.inputs.abs();
  EXPECT_LE(size.max().item<double>(), 1);
  for (int64_t j = 0; j < 3; ++j) {
    EXPECT_NEAR(size.select(1, j).mean().item<double>(), 0.5,
                kDeviations * std::sqrt(1.0 / 12 / 4000));
  }
  EXPECT_TRUE(
      torch::equal(data.test.labels, (data.test.inputs.select(1, 0) <= 0).to(torch::kInt64)));
  for (int64_t j = 0; j < 3; ++j) {  // uniform on [-1, 1]: mean 0, variance 1/3
    const torch::Tensor column = data.test.inputs.select(1, j);
    EXPECT_NEAR(column.mean().item<double>(), 0, kDeviations * std::sqrt(1.0 / 3 / 1000));
    EXPECT_NEAR(column.square().mean().item<double>(), 1.0 / 3,
                kDeviations * std::sqrt((1.0 / 5 - 1.0 / 9) / 1000));
  }
}

TEST(Fcube, IsAFunctionOfTheSeed) {
  EXPECT_TRUE(same(generate("fcube", "seed = 3"), generate("fcube", "seed = 3")));
  EXPECT_FALSE(same(generate("fcube", "seed = 3"), generate("fcube", "seed = 4")));
}

// Samples of each user in the training set.
std::vector<int64_t> user_sizes(const Dataset& data) {
  std::vector<int64_t> sizes;
  for (const int64_t owner : data.owner) {
    sizes.resize(std::max<size_t>(sizes.size(), owner + 1));
    ++sizes[owner];
  }
  return sizes;
}

// Every user has 1 to `samples` samples, equally often; classes are even; a class's inputs lie
// within 2 of one centre, but for the rounding to bytes, and fill that cube.
TEST(Population, HasUsersOfAFewSamples) {
  const std::string lines =
      "population.users = 3000\npopulation.samples = 3\npopulation.features = 4\n"
      "population.classes = 5";
  const Dataset data = generate("population", lines);
  check_dataset(data, "population");
  EXPECT_EQ(data.classes, 5);
  EXPECT_EQ(data.test.size(), 1000);
  EXPECT_EQ(data.train.sample_shape(), std::vector<int64_t>{4});
  EXPECT_EQ(data.train.inputs.scalar_type(), torch::kUInt8);
  const std::vector<int64_t> sizes = user_sizes(data);
  ASSERT_EQ(sizes.size(), 3000u);
  for (int64_t size = 1; size <= 3; ++size) {
    EXPECT_NEAR(static_cast<double>(std::count(sizes.begin(), sizes.end(), size)), 1000,
                kDeviations * std::sqrt(3000 * 2.0 / 9));
  }
  const torch::Tensor x = fetch_inputs(data.train, torch::arange(data.train.size()), data.scale,
                                       data.shift, torch::kFloat32);
  for (int64_t c = 0; c < 5; ++c) {
    const torch::Tensor rows = x.index_select(0, data.train.labels.eq(c).nonzero().squeeze(1));
    const auto n = static_cast<double>(data.train.size());
    EXPECT_NEAR(static_cast<double>(rows.size(0)), n / 5, kDeviations * std::sqrt(n * 0.16));
    const torch::Tensor width = std::get<0>(rows.max(0)) - std::get<0>(rows.min(0));
    EXPECT_LE(width.max().item<double>(), 4 + data.scale);
  }
  EXPECT_GT((std::get<0>(x.max(0)) - std::get<0>(x.min(0))).min().item<double>(), 3.9);
}

TEST(Population, IsAFunctionOfTheSeed) {
  const std::string lines = "population.users = 100\nseed = ";
  EXPECT_TRUE(same(generate("population", lines + "3"), generate("population", lines + "3")));
  EXPECT_FALSE(same(generate("population", lines + "3"), generate("population", lines + "4")));
}

// More users change nobody's samples.
TEST(Population, EachUserHasAStreamOfItsOwn) {
  const Dataset few = generate("population", "population.users = 10");
  const Dataset many = generate("population", "population.users = 20");
  const int64_t n = few.train.size();
  EXPECT_TRUE(torch::equal(few.train.inputs, many.train.inputs.narrow(0, 0, n)));
  EXPECT_TRUE(torch::equal(few.train.labels, many.train.labels.narrow(0, 0, n)));
  EXPECT_TRUE(torch::equal(few.test.inputs, many.test.inputs));
}

TEST(Synthetic, HasThePapersShape) {
  const Dataset data = generate("synthetic", "synthetic.alpha = 1\nsynthetic.beta = 1");
  check_dataset(data, "synthetic");
  EXPECT_EQ(data.classes, 10);
  EXPECT_EQ(data.train.sample_shape(), std::vector<int64_t>{60});
  EXPECT_EQ(data.train.inputs.scalar_type(), torch::kFloat32);
  const std::vector<int64_t> sizes = user_sizes(data);
  ASSERT_EQ(sizes.size(), 30u);
  for (const int64_t size : sizes) EXPECT_GE(size, 45);  // int(0.9 * 50)
  const double all = static_cast<double>(data.train.size() + data.test.size());
  EXPECT_GE(static_cast<double>(data.test.size()), 0.1 * all);  // each user's share is rounded up
  EXPECT_LE(static_cast<double>(data.test.size()), 0.1 * all + 30);
}

// n = int(lognormal(4, 2)) + 50: n < 105 exactly if a normal variate is below (ln 55 - 4) / 2, and
// then 0.9 n < 94; likewise n < 450 and 0.9 n < 405.
TEST(Synthetic, UsersHaveLognormalSizes) {
  const Dataset data = generate("synthetic", "synthetic.iid = true\nsynthetic.users = 400");
  const std::vector<int64_t> sizes = user_sizes(data);
  ASSERT_EQ(sizes.size(), 400u);
  // Sizes 50 and 51 give 45; nobody of 400 has them (lognormal < 2) in one of 10^8 sets.
  EXPECT_EQ(*std::min_element(sizes.begin(), sizes.end()), 45);
  for (const auto& [bound, lognormal] : {std::pair{94, 55.0}, std::pair{405, 400.0}}) {
    double below = 0;
    for (const int64_t size : sizes) below += size < bound ? 1 : 0;
    const double p = std::erfc(-(std::log(lognormal) - 4) / 2 / std::sqrt(2.0)) / 2;
    EXPECT_NEAR(below / 400, p, kDeviations * std::sqrt(p * (1 - p) / 400));
  }
}

// IID: x_j ~ N(0, j^-1.2) for everybody.
TEST(Synthetic, IidInputsHaveTheStatedMoments) {
  const Dataset data = generate("synthetic", "synthetic.iid = true\nsynthetic.users = 100");
  const double n = static_cast<double>(data.train.size());
  for (const int64_t j : {1, 2, 10, 60}) {
    const torch::Tensor column = data.train.inputs.select(1, j - 1).to(torch::kFloat64);
    const double variance = std::pow(j, -1.2);
    EXPECT_NEAR(column.mean().item<double>(), 0, kDeviations * std::sqrt(variance / n));
    EXPECT_NEAR(column.square().mean().item<double>(), variance,
                kDeviations * variance * std::sqrt(2 / n));
  }
}

// Labels are the argmax of one linear model, so softmax regression on training samples predicts
// test labels; chance gives the most frequent class only. Inputs are scaled to unit variance, or
// the fit would take far longer.
TEST(Synthetic, IidLabelsComeFromOneLinearModel) {
  const Dataset data = generate("synthetic", "synthetic.iid = true\nsynthetic.users = 30");
  const auto features = [](const torch::Tensor& x) {
    return torch::cat(
        {x * torch::arange(1, 61).to(torch::kFloat32).pow(0.6), torch::ones({x.size(0), 1})}, 1);
  };
  const torch::Tensor x = features(data.train.inputs);
  const torch::Tensor target = torch::one_hot(data.train.labels, 10).to(torch::kFloat32);
  torch::Tensor w = torch::zeros({61, 10});
  for (int step = 0; step < 400; ++step) {
    w -= 4 * x.t().mm(torch::softmax(x.mm(w), 1) - target) / x.size(0);
  }
  const torch::Tensor right = features(data.test.inputs).mm(w).argmax(1).eq(data.test.labels);
  EXPECT_GT(right.to(torch::kFloat64).mean().item<double>(), 0.9);
}

// The mean of user k's inputs is v_k plus noise of variance j^-1.2 / n_k, v_k ~ N(B_k, 1) and B_k ~
// N(0, std beta). So over users, coordinate 60 has variance beta^2 + 1 (+ 0.0073 / n_k).
TEST(Synthetic, BetaIsTheDeviationOfUsersInputs) {
  for (const double beta : {0.0, 2.0}) {
    constexpr int64_t users = 200;
    const Dataset data = generate(
        "synthetic",
        message("synthetic.alpha = 0\nsynthetic.beta = ", beta, "\nsynthetic.users = ", users));
    const std::vector<int64_t> sizes = user_sizes(data);
    double squares = 0, spread = 0;
    int64_t begin = 0;
    for (const int64_t size : sizes) {
      const torch::Tensor x = data.train.inputs.slice(0, begin, begin + size).to(torch::kFloat64);
      begin += size;
      squares += std::pow(x.select(1, 59).mean().item<double>(), 2) / users;
      // Over a user's coordinates v_k scatters by 1 around B_k, whatever beta is.
      spread += x.mean(0).slice(0, 20).var().item<double>() / users;
    }
    const double variance = beta * beta + 1;
    EXPECT_NEAR(squares, variance, kDeviations * variance * std::sqrt(2.0 / users) + 0.0073 / 45)
        << beta;
    // Variance of 40 coordinates: error sqrt(2 / 39) a user; noise at most 21^-1.2 / 45 < 0.001.
    EXPECT_NEAR(spread, 1, kDeviations * std::sqrt(2.0 / 39 / users) + 0.001) << beta;
  }
}

// u_k is added to the scores of all ten classes alike, so alpha changes no label: this is a
// property of the definition.
TEST(Synthetic, AlphaCancelsInTheArgmax) {
  const Dataset none = generate("synthetic", "synthetic.alpha = 0\nsynthetic.beta = 1");
  const Dataset much = generate("synthetic", "synthetic.alpha = 1\nsynthetic.beta = 1");
  EXPECT_TRUE(torch::equal(none.train.inputs, much.train.inputs));
  EXPECT_TRUE(torch::equal(none.train.labels, much.train.labels));
}

TEST(Synthetic, IsAFunctionOfTheSeed) {
  const std::string options = "synthetic.alpha = 0.5\nsynthetic.beta = 0.5\nseed = ";
  EXPECT_TRUE(same(generate("synthetic", options + "1"), generate("synthetic", options + "1")));
  EXPECT_FALSE(same(generate("synthetic", options + "1"), generate("synthetic", options + "2")));
}

// Papers differ in alpha and beta, so a job must say them, unless it asks for the IID variant.
TEST(Synthetic, AsksForAlphaAndBeta) {
  EXPECT_ERROR(any_job("dataset = synthetic\nsynthetic.beta = 1"), "synthetic.alpha");
  EXPECT_ERROR(any_job("dataset = synthetic\nsynthetic.alpha = 1"), "synthetic.beta");
  EXPECT_ERROR(any_job("dataset = synthetic\nsynthetic.alpha = -1\nsynthetic.beta = 1"),
               "synthetic.alpha is -1");
  EXPECT_NO_THROW(any_job("dataset = synthetic\nsynthetic.iid = true"));
}

}  // namespace
}  // namespace fl_sim
