// What partitioners share: sizes, NIID-Bench's Dirichlet rule, draws that are repeated.
#include <gmock/gmock.h>

#include <numeric>

#include "data/dealing.h"
#include "partition_trial.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;

TEST(Dealing, EqualSizes) {
  EXPECT_THAT(equal_sizes(10, 4), ElementsAre(3, 3, 2, 2));
  EXPECT_THAT(equal_sizes(3, 3), ElementsAre(1, 1, 1));
  EXPECT_THAT(equal_sizes(2, 3), ElementsAre(1, 1, 0));
}

// By hand: 10 in proportion to 1, 2, 3 is 1.67, 3.33, 5: the rest goes to the largest remainder. Of
// equal remainders the first is served.
TEST(Dealing, SizesInProportion) {
  EXPECT_THAT(sizes_in_proportion(std::vector<double>{1, 2, 3}, 10), ElementsAre(2, 3, 5));
  EXPECT_THAT(sizes_in_proportion(std::vector<double>{1, 1, 1}, 10), ElementsAre(4, 3, 3));
  EXPECT_THAT(sizes_in_proportion(std::vector<double>{0, 5, 0}, 7), ElementsAre(0, 7, 0));
  EXPECT_THAT(sizes_in_proportion(std::vector<double>{1, 3}, 10, 3), ElementsAre(4, 6));
}

// Sizes sum to n, are less than one away from their exact shares, and nobody is below the least.
TEST(Dealing, SizesAreWithinOneOfTheirShares) {
  Rng rng(0, "test");
  for (int64_t trial = 0; trial < 200; ++trial) {
    const int64_t count = 1 + rng.below(50), least = rng.below(5);
    const int64_t n = count * least + rng.below(10'000);
    std::vector<double> weights(static_cast<size_t>(count));
    for (double& weight : weights) weight = std::exp(5 * rng.normal());
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    const std::vector<int64_t> sizes = sizes_in_proportion(weights, n, least);
    EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), n);
    for (size_t i = 0; i < sizes.size(); ++i) {
      const double share = weights[i] / total * static_cast<double>(n - count * least);
      EXPECT_GE(sizes[i], least);
      EXPECT_LT(std::abs(static_cast<double>(sizes[i] - least) - share), 1 + 1e-9);
    }
  }
}

TEST(Dealing, CutLeavesTheRestToNobody) {
  const Partition p = cut(std::vector<int64_t>{4, 2, 0, 3, 1}, std::vector<int64_t>{2, 1, 1});
  EXPECT_THAT(p.of(0), ElementsAre(2, 4));
  EXPECT_THAT(p.of(1), ElementsAre(0));
  EXPECT_THAT(p.of(2), ElementsAre(3));
}

// A sequence of Dirichlet draws over all clients, the same for both sides.
class Draws {
 public:
  Draws(uint64_t seed, double alpha, int64_t clients)
      : rng_(seed, "draws"), alpha_(alpha), clients_(clients) {}
  std::vector<double> next() { return rng_.dirichlet(alpha_, clients_); }

 private:
  Rng rng_;
  double alpha_;
  int64_t clients_;
};

// NIID-Bench's noniid-labeldir (partition_data in its utils.py), counts instead of index lists, in
// its own order of steps: for each class p ~ Dir; p = 0 for parties with N / parties samples or
// more; p / sum(p); cumsum(p) * len(class), as integers, are the cuts of numpy.split; all again
// while the smallest party has fewer than 10. numpy.split gives the last party what rounding leaves
// of a cumsum that ends below 1, even a party whose p is 0; here the last with p > 0 takes it.
std::vector<std::vector<int64_t>> niid_bench(const std::vector<int64_t>& class_sizes,
                                             int64_t parties, bool balanced, Draws& draws,
                                             int64_t retries) {
  const auto n =
      static_cast<double>(std::accumulate(class_sizes.begin(), class_sizes.end(), int64_t{0}));
  for (int64_t attempt = 0; attempt < retries; ++attempt) {
    std::vector<std::vector<int64_t>> batch(static_cast<size_t>(parties));  // [party][class]
    std::vector<int64_t> held(static_cast<size_t>(parties));
    for (const int64_t size : class_sizes) {
      std::vector<double> p = draws.next();
      double sum = 0;
      size_t last = 0;
      for (size_t j = 0; j < p.size(); ++j) {
        const bool open =
            !balanced || static_cast<double>(held[j]) < n / static_cast<double>(parties);
        p[j] *= open ? 1 : 0;
        sum += p[j];
        if (open) last = j;
      }
      double cumsum = 0;
      int64_t begin = 0;
      for (size_t j = 0; j < p.size(); ++j) {
        cumsum += p[j] / sum;
        const auto mark = static_cast<int64_t>(cumsum * static_cast<double>(size));
        const int64_t end = j >= last ? size : std::min(mark, size);
        batch[j].push_back(end - begin);
        held[j] += end - begin;
        begin = end;
      }
    }
    if (*std::min_element(held.begin(), held.end()) >= 10) return batch;
  }
  return {};
}

// Proves that fed the same draws, `dirichlet` gives every client as many samples of every class as
// NIID-Bench does, repetitions included.
TEST(Dealing, DirichletIsNiidBenchsRuleOnTheSameDraws) {
  int64_t repeated = 0, compared = 0;
  for (const double alpha : {0.1, 0.5, 5.0}) {
    for (const int64_t clients : {3, 10, 30}) {
      for (const bool balanced : {true, false}) {
        for (uint64_t seed = 0; seed < 10; ++seed) {
          SCOPED_TRACE(message("alpha ", alpha, ", ", clients, " clients, seed ", seed));
          const std::vector<int64_t> class_sizes = {500, 333, 700, 1, 90, 400, 512, 77, 800, 250};
          constexpr int64_t kRetries = 50;
          Draws theirs(seed, alpha, clients), ours(seed, alpha, clients);
          const auto expected = niid_bench(class_sizes, clients, balanced, theirs, kRetries);

          std::vector<std::vector<Share>> shares;
          int64_t attempts = 0;
          const Redraw redraw{.partitioner = "dirichlet",
                              .parameter = "alpha",
                              .min_samples = 10,
                              .retries = kRetries};
          const auto attempt = [&] {
            ++attempts;
            shares = dirichlet_shares(class_sizes, clients, balanced,
                                      [&](std::span<const int64_t> open) {
                                        const std::vector<double> p = ours.next();
                                        double sum = 0;
                                        for (const int64_t k : open)
                                          sum += p[static_cast<size_t>(k)];
                                        std::vector<double> of_open;
                                        for (const int64_t k : open)
                                          of_open.push_back(p[static_cast<size_t>(k)] / sum);
                                        return of_open;
                                      });
            return short_of(shares, clients, 10);
          };
          if (expected.empty()) {
            EXPECT_THROW(redraw.until_enough(clients, attempt), Error);
            continue;
          }
          redraw.until_enough(clients, attempt);
          std::vector<std::vector<int64_t>> counts(static_cast<size_t>(clients),
                                                   std::vector<int64_t>(class_sizes.size()));
          for (size_t c = 0; c < shares.size(); ++c) {
            for (const Share& share : shares[c])
              counts[static_cast<size_t>(share.client)][c] = share.count;
          }
          EXPECT_EQ(counts, expected);
          ++compared;
          repeated += attempts > 1 ? 1 : 0;
        }
      }
    }
  }
  EXPECT_GT(compared, 100);
  EXPECT_GT(repeated, 10);  // the trial is about repetitions too
}

// What cannot come to an end does so after 20 draws, what may still succeed after all of them.
TEST(Dealing, RedrawsGiveUpInBoundedTime) {
  const Redraw redraw{.partitioner = "x", .parameter = "a=1", .min_samples = 10, .retries = 1000};
  int64_t draws = 0;
  const auto after = [&](int64_t short_clients) {
    draws = 0;
    return error_of([&] {
      redraw.until_enough(5000, [&] {
        ++draws;
        return short_clients;
      });
    });
  };
  EXPECT_NE(after(4000).find("x: 4000 of 5000 clients would hold fewer than 10 samples after 20 "
                             "draws at a=1, so far from enough that all 1000 of partition.retries "
                             "would hardly do; lower"),
            std::string::npos);
  EXPECT_EQ(draws, 20);
  after(15);
  EXPECT_EQ(draws, 1000);
  draws = 0;
  redraw.until_enough(100, [&] { return ++draws < 30 ? 5 : 0; });
  EXPECT_EQ(draws, 30);
}

}  // namespace
}  // namespace fl_sim
