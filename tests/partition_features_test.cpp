// Partitioners that go by the inputs, and those that change what a client sees of them.
#include <gmock/gmock.h>

#include <numbers>
#include <numeric>

#include "data/k_means.h"
#include "partition_trial.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;

std::unique_ptr<Partitioner> partitioner(const std::string& name, const std::string& lines = "") {
  const Job job = any_job("partitioner = " + name + "\n" + lines);
  return make<Partitioner>(name, {job});
}

torch::Tensor tensor_of(const std::vector<double>& values, const std::vector<int64_t>& shape) {
  return torch::tensor(values, torch::kFloat64).to(torch::kFloat32).reshape(shape);
}

// Client i of N has noise sigma i / (N - 1), or the root of sigma (i + 1) / N where sigma is a
// variance, and an equal part of the samples.
TEST(FeatureNoise, GrowsAlongTheClients) {
  const auto noise = partitioner("feature-noise");
  EXPECT_TRUE(noise->has_views());
  for (int64_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(noise->view(i, 10, {3}).noise, 0.1 * static_cast<double>(i) / 9, 1e-15);
    EXPECT_FALSE(noise->view(i, 10, {3}).mask.defined());
  }
  EXPECT_EQ(noise->view(0, 1, {3}).noise, 0);
  EXPECT_EQ(partitioner("feature-noise", "feature-noise.sigma = 2")->view(3, 4, {3}).noise, 2);
  const auto variance = partitioner("feature-noise", "feature-noise.scale = variance");
  EXPECT_NEAR(std::pow(variance->view(0, 10, {3}).noise, 2), 0.01, 1e-15);
  EXPECT_NEAR(std::pow(variance->view(9, 10, {3}).noise, 2), 0.1, 1e-15);
  const std::vector<int64_t> labels = even_labels(10, 10);
  const Partition p = split("feature-noise", "", {labels, 10, 7});
  EXPECT_TRUE(covers(p, labels));
  for (int64_t k = 0; k < 7; ++k) EXPECT_EQ(p.size(k), k < 2 ? 15 : 14);
  EXPECT_ERROR(split("feature-noise", "", {labels, 10, 101}), "feature-noise: clients is 101");
}

// Blocks are contiguous, disjoint, and together all columns; their sizes differ by at most one.
TEST(Vertical, BlocksCoverTheColumns) {
  for (const auto& [clients, lines] : {std::pair{5, ""}, std::pair{8, "vertical.blocks = 5"}}) {
    const auto vertical = partitioner("vertical", lines);
    EXPECT_TRUE(vertical->has_views());
    torch::Tensor seen = torch::zeros({4, 3});
    for (int64_t k = 0; k < 5; ++k) {
      const ClientView view = vertical->view(k, clients, {4, 3});
      EXPECT_EQ(view.noise, 0);
      ASSERT_EQ(view.mask.sizes(), (std::vector<int64_t>{4, 3}));
      EXPECT_EQ(view.mask.sum().item<double>(), k < 2 ? 3 : 2);  // 12 = 2 * 3 + 3 * 2
      seen += view.mask;
    }
    EXPECT_TRUE(seen.equal(torch::ones({4, 3})));
  }
  const auto again = partitioner("vertical", "vertical.blocks = 5");
  EXPECT_TRUE(again->view(6, 8, {12}).mask.equal(again->view(1, 8, {12}).mask));
  EXPECT_EQ(again->view(0, 8, {12}).mask.nonzero().numel(), 3);
}

TEST(Vertical, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(2, 20);
  const torch::Tensor inputs = torch::zeros({40, 3});
  EXPECT_TRUE(covers(split("vertical", "", {labels, 2, 3, {}, {}, inputs}), labels));
  EXPECT_ERROR(split("vertical", "", {labels, 2, 4, {}, {}, inputs}),
               "vertical: there are 3 columns for 4 blocks of them (each block needs one); set "
               "--vertical.blocks to at most 3 or lower the number of clients");
  EXPECT_ERROR(split("vertical", "vertical.blocks = 3", {labels, 2, 2, {}, {}, inputs}),
               "vertical: there are 3 blocks of columns for 2 clients");
  EXPECT_ERROR(split("vertical", "", {labels, 2, 2}), "vertical: there are no inputs");
}

// sigma = 1 sorts by the attribute: every value of a client is at most any of the next one's.
TEST(Continuous, IsStrictAtSigmaOne) {
  constexpr int64_t n = 1000;
  Rng rng(3, "values");
  std::vector<double> values(2 * n);
  for (double& value : values) value = 100 + 7 * rng.normal();
  const torch::Tensor inputs = tensor_of(values, {n, 2});
  const std::vector<int64_t> labels(n, 0);
  const Partition p = split("continuous", "continuous.sigma = 1\ncontinuous.column = 1",
                            {labels, 1, 7, {}, {}, inputs});
  EXPECT_TRUE(covers(p, labels));
  double before = -1e9;
  for (int64_t k = 0; k < 7; ++k) {
    EXPECT_EQ(p.size(k), k < 6 ? 143 : 142);
    double low = 1e9, high = -1e9;
    for (const int64_t index : p.of(k)) {
      low = std::min<double>(low, static_cast<float>(values[static_cast<size_t>(2 * index + 1)]));
      high = std::max<double>(high, static_cast<float>(values[static_cast<size_t>(2 * index + 1)]));
    }
    EXPECT_GE(low, before);
    before = high;
  }
  // By the label: classes in their order.
  const std::vector<int64_t> classes = even_labels(4, 30);
  const auto counts =
      histogram(split("continuous", "continuous.sigma = 1", {classes, 4, 4}), classes, 4);
  for (size_t k = 0; k < 4; ++k) EXPECT_EQ(counts[k][k], 30);
}

// With normal z, key = sigma z + (1 - sigma) e and the upper half of the keys, the mean of z is
// rho sqrt(2 / pi), where rho = sigma / sqrt(sigma^2 + (1 - sigma)^2) is the correlation of z and
// key. sigma = 0 is IID. Whatever unit and zero the attribute has.
TEST(Continuous, BlendsWithNoise) {
  constexpr int64_t n = 20'000;
  Rng rng(4, "values");
  std::vector<double> values(n), elsewhere(n);
  for (double& value : values) value = rng.normal();
  std::transform(values.begin(), values.end(), elsewhere.begin(),
                 [](double z) { return 30 - 0.01 * z; });
  const std::vector<int64_t> labels(n, 0);
  const torch::Tensor far = tensor_of(elsewhere, {n, 1}), inputs = tensor_of(values, {n, 1});
  for (const double sigma : {0.3, 0.8}) {
    const Partition p =
        split("continuous", message("continuous.sigma = ", sigma, "\ncontinuous.column = 0"),
              {labels, 1, 2, {}, {}, far});
    double mean = 0;
    for (const int64_t index : p.of(1)) mean -= values[static_cast<size_t>(index)] / (n / 2.0);
    const double rho = sigma / std::sqrt(sigma * sigma + (1 - sigma) * (1 - sigma));
    EXPECT_NEAR(mean, rho * std::sqrt(2 / std::numbers::pi), kErrors / std::sqrt(n / 2)) << sigma;
  }
  for (const double sigma : {0.0, 0.3, 0.5, 0.8}) {
    const Partition p =
        split("continuous", message("continuous.sigma = ", sigma, "\ncontinuous.column = 0"),
              {labels, 1, 2, {}, {}, inputs});
    double mean = 0;
    for (const int64_t index : p.of(1)) mean += values[static_cast<size_t>(index)] / (n / 2.0);
    const double rho = sigma / std::sqrt(sigma * sigma + (1 - sigma) * (1 - sigma));
    EXPECT_NEAR(mean, rho * std::sqrt(2 / std::numbers::pi), kErrors / std::sqrt(n / 2)) << sigma;
  }
}

TEST(Continuous, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(2, 20), same(40, 1);
  const torch::Tensor inputs = torch::zeros({40, 3});
  const std::string lines = "continuous.sigma = 1\n";
  EXPECT_ERROR(split("continuous", lines, {labels, 2, 41}), "continuous: clients is 41");
  EXPECT_ERROR(split("continuous", lines, {same, 2, 4}),
               "continuous: the label is the same for all samples (1)");
  EXPECT_ERROR(split("continuous", lines + "continuous.column = 3", {labels, 2, 4, {}, {}, inputs}),
               "continuous.column is 3 (must be -1 to 2: a sample has 3 values)");
  EXPECT_ERROR(split("continuous", lines + "continuous.column = 2", {labels, 2, 4, {}, {}, inputs}),
               "continuous: column 2 is the same for all samples (0)");
  EXPECT_ERROR(split("continuous", lines + "continuous.column = 2", {labels, 2, 4}),
               "continuous: there are no inputs with a column 2");
}

// Blobs around points far apart, 50 samples each in turn: [50 * blobs, 2]
torch::Tensor blobs(int64_t count, double scale = 1) {
  Rng rng(5, "blobs");
  std::vector<double> values;
  for (int64_t i = 0; i < 50 * count; ++i) {
    const double angle =
        2 * std::numbers::pi * static_cast<double>(i % count) / static_cast<double>(count);
    values.push_back(10 * std::cos(angle) + 0.3 * rng.normal());
    values.push_back(scale * (10 * std::sin(angle) + 0.3 * rng.normal()));
  }
  return tensor_of(values, {50 * count, 2});
}

// Clusters are blobs, whatever the features' units are, and a feature that never changes does not
// matter.
TEST(KMeans, FindsBlobs) {
  for (const double scale : {1.0, 1e6}) {
    Rng rng(0, "k-means");
    const torch::Tensor inputs = torch::cat({blobs(5, scale), torch::full({250, 1}, 1e20f)}, 1);
    const std::vector<int64_t> clusters = k_means(inputs, 5, rng);
    std::vector<int64_t> of_blob(clusters.begin(), clusters.begin() + 5);
    for (size_t i = 0; i < clusters.size(); ++i) EXPECT_EQ(clusters[i], of_blob[i % 5]);
    std::sort(of_blob.begin(), of_blob.end());
    EXPECT_THAT(of_blob, ElementsAre(0, 1, 2, 3, 4));
  }
}

// What Lloyd's algorithm ends in: each sample is nearest to the mean of its own cluster, in
// standardised features; computed here independently.
TEST(KMeans, EndsInAFixedPoint) {
  constexpr int64_t n = 300, d = 4, k = 6;
  Rng values(1, "values");
  std::vector<double> rows(n * d);
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i] = std::round(20 * values.normal() * static_cast<double>(i % d + 1));
  Rng rng(0, "k-means");
  const std::vector<int64_t> clusters = k_means(tensor_of(rows, {n, d}), k, rng);
  for (int64_t j = 0; j < d; ++j) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) mean += rows[i * d + j] / n;
    for (int64_t i = 0; i < n; ++i) squares += std::pow(rows[i * d + j] - mean, 2) / n;
    for (int64_t i = 0; i < n; ++i) rows[i * d + j] = (rows[i * d + j] - mean) / std::sqrt(squares);
  }
  std::vector<double> centres(k * d), sizes(k);
  for (int64_t i = 0; i < n; ++i) ++sizes[clusters[i]];
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < d; ++j)
      centres[clusters[i] * d + j] += rows[i * d + j] / sizes[clusters[i]];
  }
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> distances(k);
    for (int64_t c = 0; c < k; ++c) {
      for (int64_t j = 0; j < d; ++j)
        distances[c] += std::pow(rows[i * d + j] - centres[c * d + j], 2);
    }
    const double least = *std::min_element(distances.begin(), distances.end());
    EXPECT_LE(distances[clusters[i]], least + 1e-9) << "sample " << i;
  }
}

// More clusters than different samples: some stay empty, equal samples share one.
TEST(KMeans, CopesWithEqualSamples) {
  Rng rng(0, "k-means");
  const std::vector<int64_t> clusters = k_means(tensor_of({1, 1, 2, 2, 1}, {5, 1}), 4, rng);
  EXPECT_EQ(clusters[0], clusters[1]);
  EXPECT_EQ(clusters[0], clusters[4]);
  EXPECT_EQ(clusters[2], clusters[3]);
  EXPECT_NE(clusters[0], clusters[2]);
}

// As alpha falls to 0, with as many clients as blobs of one size, each client gets one blob: the
// labels, all the same, say nothing.
TEST(Semantic, DealsClustersOut) {
  const std::vector<int64_t> labels(250, 0);
  const torch::Tensor inputs = blobs(5);
  const Partition p =
      split("semantic", "semantic.k = 5\nsemantic.alpha = 1e-5", {labels, 1, 5, {}, {}, inputs});
  EXPECT_TRUE(covers(p, labels));
  for (int64_t k = 0; k < 5; ++k) {
    EXPECT_EQ(p.size(k), 50);
    for (const int64_t index : p.of(k)) EXPECT_EQ(index % 5, p.of(k)[0] % 5);
  }
  EXPECT_TRUE(covers(
      split("semantic", "semantic.k = 1\nsemantic.alpha = 5", {labels, 1, 5, {}, {}, inputs}),
      labels));
}

TEST(Semantic, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels(250, 0);
  const torch::Tensor inputs = blobs(5);
  const PartitionRequest request{labels, 1, 5, {}, {}, inputs};
  EXPECT_ERROR(split("semantic", "semantic.k = 251\nsemantic.alpha = 1", request),
               "semantic.k is 251 (must be at most 250");
  EXPECT_ERROR(split("semantic", "semantic.k = 2\nsemantic.alpha = 1", {labels, 1, 5}),
               "semantic: there are no inputs to cluster");
  EXPECT_ERROR(
      split("semantic", "semantic.k = 2\nsemantic.alpha = 1", {labels, 1, 26, {}, {}, inputs}),
      "semantic: 26 clients cannot hold 10 samples each, there are 250");
  EXPECT_ERROR(
      split("semantic", "semantic.k = 1\nsemantic.alpha = 1e-3\npartition.retries = 5", request),
      " of 5 clients would hold fewer than 10 samples after 5 draws at alpha=0.001");
}

}  // namespace
}  // namespace fl_sim
