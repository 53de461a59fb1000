// Hidden groups of clients: who is in which, and what becomes of their samples.
#include "data/shift.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "any_job.h"

namespace fl_sim {
namespace {

Job shifted(const std::string& kind, int64_t groups, int64_t seed = 0) {
  return any_job(message("shift.kind = ", kind, "\nshift.groups = ", groups, "\nseed = ", seed));
}

// n samples, of which sample i belongs to client i mod 5, alternately as training, validation and
// test sample; the last one is nobody's.
struct ShiftWorld {
  Dataset data;
  Partition train, validation, test;

  ShiftWorld(int64_t n, torch::Tensor inputs, int64_t classes) {
    data.train = {std::move(inputs), torch::arange(n, torch::kInt64).remainder(classes)};
    data.test = {data.train.inputs.clone(), data.train.labels.clone()};
    data.classes = classes;
    std::vector<std::vector<int64_t>> lists[3];
    for (auto& list : lists) list.resize(5);
    for (int64_t i = 0; i + 1 < n; ++i) lists[i / 5 % 3][static_cast<size_t>(i % 5)].push_back(i);
    train = make_partition(lists[0]);
    validation = make_partition(lists[1]);
    test = make_partition(lists[2]);
  }

  // Returns each sample's group, 0 where it is nobody's.
  std::vector<int64_t> apply(const Job& job) {
    const std::vector<int64_t> groups = shift_groups(job, 5);
    check_shift(job, data, 5);
    apply_shift(job, groups, {&train, &validation, &test}, data);
    std::vector<int64_t> of_sample;
    for (int64_t i = 0; i < data.train.size(); ++i)
      of_sample.push_back(i + 1 < data.train.size() ? groups[static_cast<size_t>(i % 5)] : 0);
    return of_sample;
  }
};

torch::Tensor random_bytes(const std::vector<int64_t>& shape) {
  torch::Generator generator = torch::make_generator<torch::CPUGeneratorImpl>(1);
  return torch::randint(256, shape, generator, torch::kInt64).to(torch::kUInt8);
}

// Proves that groups are of equal size up to one, drawn by the seed, and none without a shift.
TEST(Shift, GroupsAreEqualAndRandom) {
  for (const auto& [clients, groups] : {std::pair{100, 2}, std::pair{101, 4}, std::pair{5, 5}}) {
    const std::vector<int64_t> group = shift_groups(shifted("labels", groups), clients);
    ASSERT_EQ(std::ssize(group), clients);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t size = std::count(group.begin(), group.end(), g);
      EXPECT_TRUE(size == clients / groups || size == (clients + groups - 1) / groups);
    }
  }
  EXPECT_EQ(shift_groups(shifted("labels", 2, 1), 100),
            shift_groups(shifted("rotation", 2, 1), 100));
  EXPECT_NE(shift_groups(shifted("labels", 2, 1), 100), shift_groups(shifted("labels", 2, 2), 100));
  EXPECT_TRUE(shift_groups(any_job(""), 100).empty());
}

// Proves that a label c of group g becomes (c + g) mod classes in all lists of its client, and that
// inputs, samples that are nobody's and the central test set stay.
TEST(Shift, LabelsMoveOn) {
  ShiftWorld world(10'000, random_bytes({10'000, 2}), 7);
  const ShiftWorld before = [&] {
    ShiftWorld copy = world;
    copy.data.train.labels = world.data.train.labels.clone();
    return copy;
  }();
  const std::vector<int64_t> groups = world.apply(shifted("labels", 3));
  for (int64_t i = 0; i < 10'000; ++i) {
    EXPECT_EQ(world.data.train.labels[i].item<int64_t>(),
              (i % 7 + groups[static_cast<size_t>(i)]) % 7)
        << i;
  }
  EXPECT_TRUE(torch::equal(world.data.test.labels, before.data.train.labels));
  EXPECT_TRUE(torch::equal(world.data.train.inputs, world.data.test.inputs));
}

// Proves that group g's images are turned by g quarter turns: pixel (y, x) of a turned image was
// pixel (x, S - 1 - y), once per turn. Bytes stay bytes.
TEST(Shift, ImagesAreTurned) {
  constexpr int64_t kSize = 5;
  ShiftWorld world(40, random_bytes({40, 2, kSize, kSize}), 4);
  const std::vector<int64_t> groups = world.apply(shifted("rotation", 4));
  const Samples &after = world.data.train, &before = world.data.test;
  EXPECT_EQ(after.inputs.scalar_type(), torch::kUInt8);
  for (int64_t i = 0; i < 40; ++i) {
    for (int64_t c = 0; c < 2; ++c) {
      for (int64_t y = 0; y < kSize; ++y) {
        for (int64_t x = 0; x < kSize; ++x) {
          int64_t from_y = y, from_x = x;
          for (int64_t turn = 0; turn < groups[static_cast<size_t>(i)]; ++turn) {
            const int64_t old_y = from_y;
            from_y = from_x;
            from_x = kSize - 1 - old_y;
          }
          EXPECT_EQ(after.inputs[i][c][y][x].item<uint8_t>(),
                    before.inputs[i][c][from_y][from_x].item<uint8_t>())
              << i << " in group " << groups[static_cast<size_t>(i)];
        }
      }
    }
  }
  EXPECT_TRUE(torch::equal(after.labels, before.labels));
}

// Proves the formulas of every group, for bytes up to half a step of rounding and for floats.
TEST(Shift, IntensityHasItsFormulas) {
  const auto formula = [](double x, int64_t group) {
    return group == 0 ? x : group == 1 ? 1 - x : group == 2 ? 0.5 + (x - 0.5) / 2 : x * x;
  };
  for (const bool bytes : {true, false}) {
    torch::Tensor inputs = random_bytes({200, 6});
    if (!bytes) inputs = inputs.to(torch::kFloat32) / 255;
    ShiftWorld world(200, inputs, 4);
    const std::vector<int64_t> groups = world.apply(shifted("intensity", 4));
    EXPECT_EQ(world.data.train.inputs.scalar_type(), inputs.scalar_type());
    const double scale = bytes ? 255 : 1;
    for (int64_t i = 0; i < 200; ++i) {
      for (int64_t j = 0; j < 6; ++j) {
        const double x = world.data.test.inputs[i][j].item<double>() / scale;
        EXPECT_NEAR(world.data.train.inputs[i][j].item<double>(),
                    scale * formula(x, groups[static_cast<size_t>(i)]), bytes ? 0.5 + 1e-9 : 1e-6);
      }
    }
  }
}

// Proves that a shift which does not fit the data is refused with the reason.
TEST(Shift, RefusesWhatDoesNotFit) {
  const ShiftWorld flat(20, torch::rand({20, 4}) * 2, 3), wide(20, random_bytes({20, 1, 4, 5}), 3);
  EXPECT_ERROR(check_shift(shifted("labels", 4), flat.data, 5),
               "shift.groups is 4 (must be at most 3, the number of classes");
  EXPECT_ERROR(check_shift(shifted("labels", 3), flat.data, 2),
               "shift.groups is 3 (must be at most 2, the number of clients)");
  EXPECT_ERROR(check_shift(shifted("rotation", 2), flat.data, 5), "samples are [4]");
  EXPECT_ERROR(check_shift(shifted("rotation", 2), wide.data, 5),
               "needs square images [channels, height, width]; the data's samples are [1, 4, 5]");
  EXPECT_ERROR(check_shift(shifted("rotation", 5), wide.data, 5), "must be at most 4");
  EXPECT_ERROR(check_shift(shifted("intensity", 2), flat.data, 5),
               "shift.kind intensity needs bytes, or numbers from 0");
  EXPECT_NO_THROW(check_shift(shifted("intensity", 4), wide.data, 5));
  EXPECT_NO_THROW(check_shift(any_job(""), flat.data, 1));
  EXPECT_ERROR(any_job("shift.groups = 2"), "shift.groups");
  EXPECT_ERROR(any_job("shift.kind = labels\nshift.groups = 1"), "shift.groups is 1");
}

}  // namespace
}  // namespace fl_sim
