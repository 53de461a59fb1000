#include "data/input_changes.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>
#include <vector>

#include "any_job.h"
#include "base/check.h"

namespace fl_sim {
namespace {

// Client k adds noise of deviation k; the last client does not see the first number of a sample.
class Views final : public Partitioner {
 public:
  Partition split(const PartitionRequest&, Rng&) const override { return {}; }
  bool has_views() const override { return true; }
  ClientView view(int64_t client, int64_t clients,
                  const std::vector<int64_t>& shape) const override {
    ClientView view{.noise = static_cast<double>(client)};
    if (client + 1 == clients) {
      view = {.mask = torch::ones(shape)};
      view.mask.flatten()[0] = 0;
    }
    return view;
  }
};

class NoViews final : public Partitioner {
 public:
  Partition split(const PartitionRequest&, Rng&) const override { return {}; }
};

std::vector<Rng> streams(int64_t n) {
  std::vector<Rng> all;
  for (int64_t i = 0; i < n; ++i) all.emplace_back(5, "test", 1, i);
  return all;
}

// Proves that noise has the client's deviation (4.5 standard errors), that it is drawn anew at each
// access, and that others than the client's real samples stay as they are.
TEST(InputChanges, NoiseHasTheClientsDeviation) {
  const InputChanges changes(any_job(""), Views(), 4, {3, 100});
  const torch::Tensor x = torch::zeros({2 * 30, 3, 100});  // 30 samples of each of two clients
  const std::vector<int64_t> ids = {1, 2}, counts = {30, 20};
  std::vector<Rng> rngs = streams(2);
  const torch::Tensor first = changes.apply(x, ids, rngs, counts);
  const torch::Tensor by_client = first.view({30, 2, 300});
  for (const int64_t k : {0, 1}) {
    const int64_t n = counts[static_cast<size_t>(k)] * 300;
    const torch::Tensor noise = by_client.select(1, k).narrow(0, 0, n / 300).to(torch::kFloat64);
    const double deviation = static_cast<double>(k + 1);
    EXPECT_NEAR(noise.mean().item<double>(), 0, 4.5 * deviation / std::sqrt(n));
    EXPECT_NEAR(noise.std().item<double>(), deviation, 4.5 * deviation / std::sqrt(2.0 * n));
  }
  EXPECT_EQ(by_client.select(1, 1).narrow(0, 20, 10).abs().sum().item<float>(), 0);
  EXPECT_GT((changes.apply(x, ids, rngs, counts) - first).abs().sum().item<float>(), 0);
  std::vector<Rng> again = streams(2);
  EXPECT_TRUE(torch::equal(changes.apply(x, ids, again, counts), first));
}

// Proves that masked numbers are 0, in training and in evaluation, of that client only.
TEST(InputChanges, MasksHideNumbersFromTheirClient) {
  const InputChanges changes(any_job(""), Views(), 4, {3, 2});
  EXPECT_TRUE(changes.evaluation());
  const torch::Tensor x = torch::ones({5, 3, 2});
  const torch::Tensor seen = changes.masked(x, 3);
  EXPECT_EQ(seen.sum().item<float>(), 25);
  EXPECT_EQ(seen.flatten(1).select(1, 0).abs().sum().item<float>(), 0);
  EXPECT_TRUE(torch::equal(changes.masked(x, 1), x));
  std::vector<Rng> rngs = streams(1);
  const std::vector<int64_t> last = {3};
  EXPECT_TRUE(torch::equal(changes.apply(x, last, rngs), seen));
}

// Proves that a crop moves an image by at most so many pixels each way and fills with zeros, that
// all moves occur, and that about half of the images are mirrored.
TEST(InputChanges, CropsMoveAndFlipsMirror) {
  const InputChanges crop(any_job("augment.crop = 1"), NoViews(), 2, {1, 5, 5});
  EXPECT_FALSE(crop.evaluation());
  torch::Tensor x = torch::zeros({200, 1, 5, 5});
  x.select(2, 2).select(2, 2).fill_(1);  // the middle pixel
  std::vector<Rng> rngs = streams(1);
  const std::vector<int64_t> ids = {0};
  const torch::Tensor moved = crop.apply(x, ids, rngs);
  std::set<int64_t> places;
  for (int64_t n = 0; n < 200; ++n) {
    const torch::Tensor place = moved[n].flatten().nonzero();
    ASSERT_EQ(place.size(0), 1);
    places.insert(place.item<int64_t>());
  }
  EXPECT_EQ(places, (std::set<int64_t>{6, 7, 8, 11, 12, 13, 16, 17, 18}));

  const InputChanges flip(any_job("augment.flip = true"), NoViews(), 2, {1, 1, 2});
  const torch::Tensor y = torch::tensor({1.0F, 0.0F}).expand({400, 1, 1, 2}).contiguous();
  const double mirrored = flip.apply(y, ids, rngs).flatten(1).select(1, 1).sum().item<double>();
  EXPECT_NEAR(mirrored, 200, 4.5 * 10);
}

// Proves that changes that a data set does not allow are refused.
TEST(InputChanges, AreRefusedWhereThereAreNoImages) {
  EXPECT_THROW(InputChanges(any_job("augment.flip = true"), NoViews(), 2, {60}), Error);
  EXPECT_THROW(InputChanges(any_job("augment.crop = 5"), NoViews(), 2, {1, 5, 5}), Error);
  EXPECT_FALSE(InputChanges(any_job(""), NoViews(), 2, {60}).training());
}

}  // namespace
}  // namespace fl_sim
