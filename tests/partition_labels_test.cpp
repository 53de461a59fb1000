// Partitioners whose clients differ in the classes that they hold.
#include <gmock/gmock.h>

#include <fstream>
#include <numeric>
#include <set>

#include "partition_trial.h"

namespace fl_sim {
namespace {

// Every client has exactly k classes, and the holders of a class equal parts of all of it.
void expect_equal_parts(const std::vector<std::vector<int64_t>>& counts, int64_t k) {
  for (const auto& row : counts) EXPECT_EQ(std::ssize(row) - empty_classes(row), k);
  for (size_t c = 0; c < counts[0].size(); ++c) {
    int64_t low = INT64_MAX, high = 0;
    for (const auto& row : counts) {
      if (row[c] > 0) low = std::min(low, row[c]);
      high = std::max(high, row[c]);
    }
    if (high > 0) {
      EXPECT_LE(high - low, 1) << "class " << c;
    }
  }
}

TEST(Pathological, ModesAreWhatFlwrDatasetsDefines) {
  const std::vector<int64_t> labels = even_labels(10, 101);
  for (const int64_t k : {1, 2, 3, 10}) {
    for (const std::string mode : {"random", "deterministic", "first-deterministic"}) {
      SCOPED_TRACE(message(mode, " ", k));
      const Partition p =
          split("pathological", message("pathological.k = ", k, "\npathological.mode = ", mode),
                {labels, 10, 25});
      const auto counts = histogram(p, labels, 10);
      expect_equal_parts(counts, k);
      for (int64_t client = 0; client < 25; ++client) {
        const auto& row = counts[static_cast<size_t>(client)];
        const int64_t given = mode == "random" ? 0 : mode == "deterministic" ? k : 1;
        for (int64_t i = 0; i < given; ++i)
          EXPECT_GT(row[static_cast<size_t>((client + i) % 10)], 0) << client;
      }
      if (mode != "random") {
        EXPECT_TRUE(covers(p, labels));  // 25 clients name every class
      }
    }
  }
}

// At random every class is as likely as any: k / K, over 2,000 clients. So are the others of
// first-deterministic.
TEST(Pathological, ChoicesAreUniform) {
  const std::vector<int64_t> labels = even_labels(10, 2000);
  for (const bool first : {false, true}) {
    const std::string lines =
        message("pathological.k = 3", first ? "\npathological.mode = first-deterministic" : "");
    const auto counts = histogram(split("pathological", lines, {labels, 10, 2000}), labels, 10);
    for (size_t c = first ? 1 : 0; c < 10; ++c) {
      double holders = 0, clients = 0;
      for (size_t k = 0; k < counts.size(); k += first ? 10 : 1) {  // those whose first class is 0
        holders += counts[k][c] > 0 ? 1 : 0;
        ++clients;
      }
      const double p = first ? 2.0 / 9 : 0.3;
      EXPECT_NEAR(holders / clients, p, kErrors * std::sqrt(p * (1 - p) / clients)) << c;
    }
  }
}

// Classes that do not occur are no classes.
TEST(Pathological, CopesWithAnEmptyClass) {
  std::vector<int64_t> labels = even_labels(3, 100);
  for (int64_t& label : labels) label = label == 2 ? 3 : label;
  const Partition p = split("pathological", "pathological.k = 3", {labels, 5, 6});
  EXPECT_TRUE(covers(p, labels));
  EXPECT_ERROR(split("pathological", "pathological.k = 4", {labels, 5, 6}),
               "pathological.k is 4 (must be 1 to 3, the number of classes that occur)");
}

TEST(Pathological, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(10, 2);
  EXPECT_ERROR(split("pathological", "pathological.k = 1\npathological.mode = deterministic",
                     {labels, 10, 25}),
               "pathological: a class with 2 samples would have 3 holders of 25 clients at k=1");
}

// A matrix as a file that is gone with the object.
class MatrixFile {
 public:
  explicit MatrixFile(const std::string& text)
      : path_(testing::TempDir() + "fl_sim_matrix_" +
              testing::UnitTest::GetInstance()->current_test_info()->name() + ".csv") {
    std::ofstream(path_) << text;
  }
  ~MatrixFile() { std::remove(path_.c_str()); }
  std::string lines(const std::string& more = "") const {
    return "distribution.file = " + path_ + "\n" + more;
  }

 private:
  std::string path_;
};

using Counts = std::vector<std::vector<int64_t>>;

// By hand: 10 of each of 3 classes.
TEST(Distribution, FollowsTheMatrix) {
  const std::vector<int64_t> labels = even_labels(3, 10);
  const MatrixFile file("# three classes, two clients\n1, 1\n3 1\n\n0;0.5\n");
  const Partition shares = split("distribution", file.lines(), {labels, 3, 2});
  EXPECT_TRUE(covers(shares, labels));
  EXPECT_EQ(histogram(shares, labels, 3), (Counts{{5, 8, 0}, {5, 2, 10}}));  // 7.5, 2.5 rounded
  EXPECT_EQ(own_clients("distribution", file.lines()), 2);
}

TEST(Distribution, GivesWhatTheMatrixCounts) {
  const std::vector<int64_t> labels = even_labels(3, 10);
  const MatrixFile file("4,6\n0,1\n10,0\n");
  const Partition p =
      split("distribution", file.lines("distribution.entries = samples"), {labels, 3, 2});
  EXPECT_EQ(histogram(p, labels, 3), (Counts{{4, 0, 10}, {6, 1, 0}}));
}

TEST(Distribution, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(3, 10);
  const auto wrong = [&](const std::string& text, const std::string& more, const char* part) {
    const MatrixFile file(text);
    EXPECT_ERROR(split("distribution", file.lines(more), {labels, 3, 2}), part);
  };
  wrong("1,1\n1,1\n", "", "has 2 rows of numbers (must be 3, the number of classes)");
  wrong("1\n1\n1\n", "", "has 1 columns, clients is 2");
  wrong("1,1\n1\n1,1\n", "", "line 2: has 1 numbers, the rows before it have 2");
  wrong("1,1\n1,x\n1,1\n", "", "line 2: 'x' (must be numbers of at least 0");
  wrong("1,1\n1,-1\n1,1\n", "", "line 2: '-1'");
  wrong("1,1\n1,nan\n1,1\n", "", "line 2: 'nan'");
  wrong("1,1\n1,1e999\n1,1\n", "", "line 2: '1e999'");
  wrong("1e308,1e308\n1,1\n1,1\n", "", "the row of class 0 adds up to more");
  wrong("", "", "has no numbers");
  wrong("1,0\n1,0\n1,0\n", "", "distribution: 1 of 2 clients would hold no sample");
  wrong("11,0\n1,1\n1,1\n", "distribution.entries = samples",
        "asks for 11 samples of class 0, which has 10");
  wrong("1.5,0\n1,1\n1,1\n", "distribution.entries = samples", "asks for 1.5 samples of class 0");
  const MatrixFile of_nothing("1,1\n1,1\n1,0\n");
  EXPECT_ERROR(split("distribution", of_nothing.lines("distribution.entries = samples"),
                     {even_labels(2, 10), 3, 2}),
               "asks for 1 samples of class 2, which has 0");
  EXPECT_ERROR(split("distribution", "distribution.file = /nowhere.csv", {labels, 3, 2}),
               "/nowhere.csv: cannot be read");
}

// FedProx's power-law MNIST: client i has classes i and i + 1 mod 10, 5 samples of both beforehand,
// and lognormal(0, 2) shares of what is left; all samples are dealt out.
TEST(Distribution, FedproxPreset) {
  const std::vector<int64_t> labels = even_labels(10, 20'000);
  constexpr int64_t clients = 100;
  const Partition p = split("distribution", "distribution.preset = fedprox", {labels, 10, clients});
  EXPECT_TRUE(covers(p, labels));
  double mean = 0, squares = 0;
  const auto counts = histogram(p, labels, 10);
  for (int64_t k = 0; k < clients; ++k) {
    for (int64_t c = 0; c < 10; ++c) {
      const int64_t count = counts[static_cast<size_t>(k)][static_cast<size_t>(c)];
      const bool holds = c == k % 10 || c == (k + 1) % 10;
      EXPECT_EQ(count >= 5, holds);
      EXPECT_EQ(count > 0, holds);
      if (!holds) continue;
      // Against the class's mean, which takes up its random total.
      const double log = std::log(static_cast<double>(count) - 5 + 0.5);
      mean += log / (2 * clients);
      squares += log * log / (2 * clients);
    }
  }
  const double variance = squares - mean * mean;
  EXPECT_NEAR(variance, 4, kErrors * 4 * std::sqrt(2.0 / (2 * clients)));
  EXPECT_EQ(own_clients("distribution", "distribution.preset = fedprox"), 1000);
  EXPECT_ERROR(split("distribution", "distribution.preset = fedprox", {labels, 10, 20'001}),
               "distribution: preset fedprox gives each of 4001 clients 5 samples of class 0, "
               "which has 20000; lower the number of clients");
  EXPECT_ERROR(any_job("partitioner = distribution\ndistribution.preset = fedprox\n"
                       "distribution.file = x"),
               "distribution.file is set, but distribution.preset is fedprox");
}

// 4 coarse classes with 3 fine ones each.
std::vector<int64_t> coarse_of(const std::vector<int64_t>& labels) {
  std::vector<int64_t> coarse;
  for (const int64_t label : labels) coarse.push_back(label / 3);
  return coarse;
}

TEST(Pachinko, SizesAreExact) {
  const std::vector<int64_t> labels = even_labels(12, 101), coarse = coarse_of(labels);
  for (const double concentration : {1e-5, 0.1, 100.0}) {
    const std::string lines =
        message("pachinko.alpha = ", concentration, "\npachinko.beta = ", concentration);
    const Partition whole = split("pachinko", lines, {labels, 12, 12, {}, coarse});
    EXPECT_TRUE(covers(whole, labels));  // 1212 / 12, to the last sample
    const Partition part =
        split("pachinko", lines + "\npachinko.size = 7", {labels, 12, 20, {}, coarse});
    for (int64_t k = 0; k < 12; ++k) EXPECT_EQ(whole.size(k), 101);
    for (int64_t k = 0; k < 20; ++k) EXPECT_EQ(part.size(k), 7);
  }
}

// While no class runs out, a client's count of a coarse class is Dirichlet-multinomial: with m
// samples, K coarse classes and p = 1 / K its variance is m p (1 - p) (m + K alpha) / (1 + K
// alpha). Within a coarse class, given n samples of it, the same holds for its k fine classes with
// beta. 500 clients are 500 draws.
TEST(Pachinko, CountsAreDirichletMultinomialOnBothLevels) {
  constexpr int64_t clients = 500, m = 20;
  const std::vector<int64_t> labels = even_labels(12, 8000), coarse = coarse_of(labels);
  constexpr double alpha = 0.3, beta = 2;
  const auto counts = histogram(split("pachinko",
                                      message("pachinko.alpha = ", alpha,
                                              "\npachinko.beta = ", beta, "\npachinko.size = ", m),
                                      {labels, 12, clients, {}, coarse}),
                                labels, 12);
  double squares = 0, fourth = 0;  // of the first coarse class
  double excess = 0,
         excess_squares = 0;  // of fine class 0's squared deviation over its expectation
  for (const auto& row : counts) {
    const double n = static_cast<double>(row[0] + row[1] + row[2]);
    squares += std::pow(n - m / 4.0, 2) / clients;
    fourth += std::pow(n - m / 4.0, 4) / clients;
    const double expected = n * (1.0 / 3) * (2.0 / 3) * (n + 3 * beta) / (1 + 3 * beta);
    const double difference = std::pow(static_cast<double>(row[0]) - n / 3, 2) - expected;
    excess += difference / clients;
    excess_squares += difference * difference / clients;
  }
  const double variance = m * 0.25 * 0.75 * (m + 4 * alpha) / (1 + 4 * alpha);
  EXPECT_NEAR(squares, variance, kErrors * std::sqrt((fourth - squares * squares) / clients));
  EXPECT_NEAR(excess, 0, kErrors * std::sqrt(excess_squares / clients));
}

// A tiny alpha leaves a client one coarse class, a tiny beta one fine class in each, large ones all
// of them evenly.
TEST(Pachinko, Limits) {
  const std::vector<int64_t> labels = even_labels(12, 1000), coarse = coarse_of(labels);
  const auto trial = [&](double alpha, double beta) {
    return histogram(split("pachinko",
                           message("pachinko.alpha = ", alpha, "\npachinko.beta = ", beta,
                                   "\npachinko.size = 40"),
                           {labels, 12, 20, {}, coarse}),
                     labels, 12);
  };
  for (const auto& row : trial(1e-5, 1e8)) {
    std::set<size_t> held;
    for (size_t c = 0; c < 12; ++c) {
      if (row[c] > 0) held.insert(c / 3);
    }
    EXPECT_EQ(held.size(), 1u);
    EXPECT_EQ(empty_classes(row), 9);
  }
  for (const auto& row : trial(1e8, 1e-5)) EXPECT_EQ(empty_classes(row), 8);
}

TEST(Pachinko, RefusesWhatCannotBe) {
  const std::vector<int64_t> labels = even_labels(12, 10), coarse = coarse_of(labels);
  const std::string lines = "pachinko.alpha = 0.1\npachinko.beta = 10\n";
  EXPECT_ERROR(split("pachinko", lines, {labels, 12, 4}),
               "pachinko: this data set has no coarse classes");
  EXPECT_ERROR(split("pachinko", lines, {labels, 12, 121, {}, coarse}),
               "pachinko: clients is 121 (must be at most 120");
  EXPECT_ERROR(split("pachinko", lines + "pachinko.size = 31", {labels, 12, 4, {}, coarse}),
               "pachinko: 4 clients cannot hold 31 samples each, there are 120");
  std::vector<int64_t> mixed = coarse;
  mixed[0] = 1;
  EXPECT_ERROR(split("pachinko", lines, {labels, 12, 4, {}, mixed}),
               "pachinko: samples of class 0 are in coarse classes");
}

}  // namespace
}  // namespace fl_sim
