// Partitioners whose clients differ in size, and those that go by the order of the file.
#include <gmock/gmock.h>

#include <chrono>
#include <numeric>

#include "partition_trial.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;

std::vector<int64_t> sizes_of(const Partition& p) {
  std::vector<int64_t> sizes;
  for (int64_t k = 0; k < p.clients(); ++k) sizes.push_back(p.size(k));
  return sizes;
}

TEST(Contiguous, CutsTheFileInOrder) {
  const std::vector<int64_t> labels = even_labels(2, 5);
  const Partition p = split("contiguous", "", {labels, 2, 3});
  EXPECT_THAT(p.offsets, ElementsAre(0, 4, 7, 10));  // numpy.array_split(range(10), 3)
  std::vector<int64_t> all(10);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_THAT(p.indices, testing::ElementsAreArray(all));
  EXPECT_ERROR(split("contiguous", "", {labels, 2, 11}),
               "contiguous: clients is 11 (must be at most 10");
}

// Sizes are within one of their exact shares of all samples.
void expect_sizes(const std::string& name, int64_t clients,
                  const std::function<double(int64_t)>& weight) {
  const std::vector<int64_t> labels = even_labels(10, 1000);
  const Partition p = split(name, "", {labels, 10, clients});
  EXPECT_TRUE(covers(p, labels));
  double total = 0;
  for (int64_t i = 1; i <= clients; ++i) total += weight(i);
  for (int64_t i = 1; i <= clients; ++i)
    EXPECT_LT(std::abs(static_cast<double>(p.size(i - 1)) - 10'000 * weight(i) / total), 1)
        << name << i;
}

TEST(BySize, FollowsTheDefinition) {
  expect_sizes("linear", 30, [](int64_t i) { return static_cast<double>(i); });
  expect_sizes("square", 20, [](int64_t i) { return static_cast<double>(i * i); });
  expect_sizes("exponential", 8, [](int64_t i) { return std::exp(static_cast<double>(i)); });
}

// Refusals say how many clients would do, at once even where e^i is beyond any number; and so many
// do.
TEST(BySize, RefusesEmptyClients) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  EXPECT_ERROR(
      split("exponential", "", {labels, 10, 5000}),
      "exponential: 4992 of 5000 clients would hold no sample of 1000; lower the number of "
      "clients (7 would do)");
  EXPECT_NO_THROW(split("exponential", "", {labels, 10, 7}));
  EXPECT_ERROR(split("linear", "", {labels, 10, 400}), "(44 would do)");  // 44 * 45 / 2 = 990
  EXPECT_NO_THROW(split("linear", "", {labels, 10, 44}));
  EXPECT_ERROR(split("square", "", {labels, 10, 400}), "(13 would do)");  // 13 * 14 * 27 / 6 = 819
  EXPECT_NO_THROW(split("square", "", {labels, 10, 13}));
}

// The labels of a large client are those of all.
TEST(BySize, LabelsAreMixed) {
  const std::vector<int64_t> labels = even_labels(10, 1000);
  const auto counts = histogram(split("linear", "", {labels, 10, 4}), labels, 10);
  for (const int64_t count : counts[3])  // 4000 samples: standard deviation sqrt(4000 * 0.09 * 0.6)
    EXPECT_NEAR(static_cast<double>(count), 400, kErrors * 14.7);
}

TEST(Sizes, AreAsListed) {
  const std::vector<int64_t> labels = even_labels(2, 50);
  const Partition p = split("sizes", "sizes.list = 40, 5*3,1", {labels, 2, 5});
  EXPECT_THAT(sizes_of(p), ElementsAre(40, 5, 5, 5, 1));
  EXPECT_EQ(own_clients("sizes", "sizes.list = 40, 5*3,1"), 5);
  EXPECT_ERROR(split("sizes", "sizes.list = 40", {labels, 2, 2}),
               "sizes: clients is 2 (must be 1, the number of sizes in sizes.list, or auto)");
  EXPECT_ERROR(split("sizes", "sizes.list = 60*2", {labels, 2, 2}),
               "sizes: the sizes add up to 120, but there are 100 training samples");
  for (const char* wrong : {"3, x", "3,,4", "0", "-1", "2*0", "1.5", "3*4*5", "99999999999"})
    EXPECT_ERROR(own_clients("sizes", message("sizes.list = ", wrong)), "sizes.list has '");
}

// Without a fixed total, log(size - least) is normal(mu, sigma), but for the rounding of a size.
TEST(Lognormal, SizesAreLognormal) {
  const std::vector<int64_t> labels(2'000'000, 0);
  constexpr int64_t clients = 400;
  const Partition p = split("lognormal",
                            "lognormal.sigma = 0.5\nlognormal.all = false\nlognormal.mu = 8\n"
                            "partition.min-samples = 50",
                            {labels, 1, clients});
  double mean = 0, squares = 0;
  for (int64_t k = 0; k < clients; ++k) {
    const double log = std::log(static_cast<double>(p.size(k)) - 50 + 0.5);
    mean += log / clients;
    squares += (log - 8) * (log - 8) / clients;
  }
  EXPECT_NEAR(mean, 8, kErrors * 0.5 / std::sqrt(clients));
  EXPECT_NEAR(squares, 0.25, kErrors * 0.25 * std::sqrt(2.0 / clients));
}

// With all samples dealt out: complete, at least min-samples each, and proportions as drawn.
TEST(Lognormal, DealsAllOut) {
  const std::vector<int64_t> labels(1'000'000, 0);
  constexpr int64_t clients = 400;
  const Partition p = split("lognormal", "lognormal.sigma = 0.5", {labels, 1, clients});
  EXPECT_TRUE(covers(p, labels));
  double mean = 0, squares = 0;
  for (int64_t k = 0; k < clients; ++k) {
    EXPECT_GE(p.size(k), 10);
    const double log = std::log(static_cast<double>(p.size(k)) - 10 + 0.5);
    mean += log / clients;
    squares += log * log / clients;
  }
  EXPECT_NEAR(squares - mean * mean, 0.25, kErrors * 0.25 * std::sqrt(2.0 / clients));
  for (const int64_t size : sizes_of(split("lognormal", "lognormal.sigma = 0", {labels, 1, 8})))
    EXPECT_EQ(size, 125'000);
}

TEST(Lognormal, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 100);
  EXPECT_ERROR(split("lognormal", "lognormal.sigma = 1", {labels, 10, 101}),
               "lognormal: 101 clients cannot hold 10 samples each, there are 1000; lower "
               "--partition.min-samples");
  EXPECT_ERROR(split("lognormal", "lognormal.sigma = 1\nlognormal.all = false\nlognormal.mu = 20",
                     {labels, 10, 10}),
               "samples, there are 1000; lower --lognormal.mu");
  EXPECT_ERROR(any_job("partitioner = lognormal\nlognormal.sigma = 1\nlognormal.mu = 1"),
               "lognormal.mu is set, but lognormal.all is true");
}

// Weights u^(1/a) have mean a / (a + 1) and variance a / ((a + 1)^2 (a + 2)); the largest of many
// is 1, so sizes beyond min-samples, over the largest, have them too.
TEST(Powerlaw, SizesFollowTheLaw) {
  const std::vector<int64_t> labels(1'000'000, 0);
  constexpr int64_t clients = 2000;
  for (const double a : {0.5, 1.0, 3.0}) {
    const Partition p = split("powerlaw", message("powerlaw.exponent = ", a), {labels, 1, clients});
    EXPECT_TRUE(covers(p, labels));
    const std::vector<int64_t> sizes = sizes_of(p);
    const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
    EXPECT_GE(*least, 10);
    double mean = 0;
    for (const int64_t size : sizes)
      mean += static_cast<double>(size - 10) / static_cast<double>(*most - 10) / clients;
    const double deviation = std::sqrt(a / ((a + 1) * (a + 1) * (a + 2)));
    EXPECT_NEAR(mean, a / (a + 1), kErrors * deviation / std::sqrt(clients) + 0.01) << a;
  }
  // So small an exponent gives one client nearly all; plain arithmetic ends in 0 / 0.
  const Partition p = split("powerlaw", "powerlaw.exponent = 1e-4", {labels, 1, 20});
  EXPECT_EQ(sizes_of(p).at(static_cast<size_t>(
                std::max_element(p.offsets.begin(), p.offsets.end()) - p.offsets.begin() - 1)) > 0,
            true);
  EXPECT_ERROR(split("powerlaw", "powerlaw.exponent = 1", {labels, 1, 100'001}),
               "powerlaw: 100001 clients cannot hold 10 samples each, there are 1000000");
}

struct Large {
  const char* name;
  const char* lines;
  bool refused;  // 60,000 samples do not suffice for 10,000 clients
};

class PartitionSpeed : public testing::TestWithParam<Large> {};

// 60,000 images over 10,000 clients, split or refused. A second is meant; the limit leaves room for
// slow and shared machines.
TEST_P(PartitionSpeed, TenThousandClients) {
  const Large& trial = GetParam();
  const std::vector<int64_t> labels = even_labels(10, 6000);
  std::vector<int64_t> coarse, owners;
  for (size_t i = 0; i < labels.size(); ++i) {
    coarse.push_back(labels[i] / 2);
    owners.push_back(static_cast<int64_t>(i) % 10'000);
  }
  torch::Tensor inputs = torch::zeros({60'000, 28, 28}, torch::kUInt8);
  uint8_t* pixel = inputs.data_ptr<uint8_t>();
  for (int64_t i = 0; i < inputs.numel(); ++i)
    pixel[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  const PartitionRequest request{labels, 10, 10'000, owners, coarse, inputs};
  const Job job = any_job(message("partitioner = ", trial.name, "\n", trial.lines));
  Rng rng(0, "partition");
  const auto start = std::chrono::steady_clock::now();
  if (trial.refused) {
    EXPECT_THROW(make<Partitioner>(trial.name, {job})->split(request, rng), Error);
  } else {
    EXPECT_EQ(make<Partitioner>(trial.name, {job})->split(request, rng).clients(), 10'000);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("milliseconds", static_cast<int>(1000 * seconds));
  EXPECT_LT(seconds, 10) << trial.name;
}

INSTANTIATE_TEST_SUITE_P(
    All, PartitionSpeed,
    testing::Values(Large{"iid", "", false}, Large{"contiguous", "", false},
                    Large{"linear", "", true}, Large{"square", "", true},
                    Large{"exponential", "", true}, Large{"sizes", "sizes.list = 6*10000", false},
                    Large{"shards", "", false},
                    Large{"dirichlet", "dirichlet.alpha = 0.5\npartition.min-samples = 1", true},
                    Large{"dirichlet", "dirichlet.alpha = 1000\npartition.min-samples = 1", false},
                    Large{"inner-dirichlet", "inner-dirichlet.alpha = 0.5", false},
                    Large{"label-count", "label-count.k = 2", false},
                    Large{"pathological", "pathological.k = 2", false},
                    Large{"quantity-dirichlet",
                          "quantity-dirichlet.beta = 0.5\npartition.min-samples = 1", true},
                    Large{"quantity-dirichlet",
                          "quantity-dirichlet.beta = 1000\npartition.min-samples = 1", false},
                    Large{"lognormal", "lognormal.sigma = 2\npartition.min-samples = 1", false},
                    Large{"powerlaw", "powerlaw.exponent = 0.5\npartition.min-samples = 1", false},
                    Large{"feature-noise", "", false}, Large{"natural", "", false},
                    Large{"distribution", "distribution.preset = fedprox", true},
                    Large{"continuous", "continuous.sigma = 0.5\ncontinuous.column = 300", false},
                    Large{"semantic",
                          "semantic.k = 10\nsemantic.alpha = 1000\npartition.min-samples = 1",
                          false},
                    Large{"pachinko", "pachinko.alpha = 0.1\npachinko.beta = 10", false},
                    Large{"vertical", "vertical.blocks = 4", false}),
    [](const auto& trial) {
      std::string name = message(trial.param.name, "_", trial.index);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace fl_sim
