// Losses and gradients over all of a client's samples: the direct pass of float32 on a CPU against
// the general one in double.
#include "learning/full_pass.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

// A model with a direct pass, and clients of 60, 7 and 0 samples whose inputs are changed as the
// job's augment.* say; 60 are two pieces of the direct pass.
struct World {
  explicit World(const std::string& lines)
      : job(hand_made_job("model = mlp\nmlp.hidden = 5\nthreads = 1\n" + lines)),
        samples(random_samples(67, {2, 3, 4}, 3)),
        partition(make_partition(consecutive({60, 7, 0}))),
        network(make<Network>("mlp", {job, "", {2, 3, 4}, 3, 1})),
        changes(job, *make<Partitioner>("iid", {job}), 3, {2, 3, 4}),
        data{.train = samples,
             .scale = 0.5,
             .shift = 0.25,
             .partition = &partition,
             .changes = &changes},
        setup{job, *network, 3, 67} {
    Rng rng(2, "weights");
    for (int64_t k = 0; k < 3; ++k) rows.push_back(network->initial_row(rng));
  }
  World(const World&) = delete;

  // Gradients of all three in double, from float32 or float64 rows.
  torch::Tensor gradients(const torch::Tensor& at, torch::ScalarType type) const {
    ClientGroup group{.ids = {0, 1, 2}, .data = data, .seed = 4};
    return FullPass(setup).gradients(group, at.to(type), 3).to(torch::kFloat64);
  }
  std::vector<double> losses(const torch::Tensor& at, torch::ScalarType type) const {
    ClientGroup group{.ids = {0, 1, 2}, .data = data, .seed = 4};
    return FullPass(setup).losses(group, at.to(type));
  }

  Job job;
  Samples samples;
  Partition partition;
  std::unique_ptr<Network> network;
  InputChanges changes;
  ClientData data;
  Algorithm::Setup setup;
  std::vector<torch::Tensor> rows;
};

double largest(const torch::Tensor& t) { return t.abs().max().item<double>(); }

// Proves that both ways agree to float32's rounding, at a row of each client and at one for all,
// with samples as they are and with noise, which both draw alike.
TEST(FullPass, TheDirectPassIsTheGeneralOne) {
  for (const char* lines : {"", "augment.noise = 0.5"}) {
    const World world(lines);
    ASSERT_NE(world.network->direct_pass(50), nullptr);
    for (const torch::Tensor& at : {torch::stack(world.rows), world.rows[1].unsqueeze(0)}) {
      const torch::Tensor exact = world.gradients(at, torch::kFloat64);
      EXPECT_GT(largest(exact[0]), 0.01);
      EXPECT_GT(largest(exact[1]), 0.01);
      EXPECT_EQ(largest(exact[2]), 0);  // it has no samples
      EXPECT_LT(largest(world.gradients(at, torch::kFloat32) - exact), 1e-5) << lines;
      const auto a = world.losses(at, torch::kFloat64), b = world.losses(at, torch::kFloat32);
      for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(a[k], b[k], 1e-5) << lines << " " << k;
      EXPECT_EQ(a[2], 0);
    }
  }
  // Noise makes a difference to gradients, and none to losses, which are of samples as they are.
  const World plain(""), noisy("augment.noise = 0.5");
  const torch::Tensor at = torch::stack(plain.rows);
  EXPECT_GT(largest(plain.gradients(at, torch::kFloat32) - noisy.gradients(at, torch::kFloat32)),
            1e-3);
  EXPECT_EQ(plain.losses(at, torch::kFloat32), noisy.losses(at, torch::kFloat32));
}

// Proves in which order the direct pass adds, to the last bit: pieces of 50 samples, each with its
// share of the client's.
TEST(FullPass, TheDirectPassTakesFiftySamplesAtATime) {
  const World world("");
  const torch::Tensor row = world.rows[0];
  const auto direct = world.network->direct_pass(50);
  torch::Tensor sum = torch::zeros({world.network->layout().trainable()});
  const auto list = world.partition.of(0);
  for (const auto& [first, count] : {std::pair<size_t, size_t>{0, 50}, {50, 10}}) {
    direct->load(world.samples, list.subspan(first, count), 0.5, 0.25);
    direct->forward(row.data_ptr<float>());
    direct->loss();
    direct->backward(row.data_ptr<float>(),
                     {.row = sum.data_ptr<float>(),
                      .scale = static_cast<float>(static_cast<double>(count) / 60),
                      .add = true});
  }
  ClientGroup group{.ids = {0}, .data = world.data, .seed = 4};
  const torch::Tensor found = FullPass(world.setup).gradients(group, row.unsqueeze(0), 3)[0];
  EXPECT_TRUE(torch::equal(found, sum)) << largest(found - sum);
}

// Proves the gradient in double against that of the mean loss by PyTorch's own differentiation.
TEST(FullPass, TheGradientIsThatOfTheMeanLoss) {
  const World world("");
  const torch::Tensor at = torch::stack(world.rows).to(torch::kFloat64);
  const torch::Tensor found = world.gradients(at, torch::kFloat64);
  for (int64_t k = 0; k < 2; ++k) {
    const torch::Tensor row = at.narrow(0, k, 1).clone();
    torch::Tensor gradient = torch::zeros({1, world.network->layout().trainable()}, at.options());
    const Weights weights(world.network->layout(), row, gradient);
    const auto list = world.partition.of(k);
    const torch::Tensor index = torch::tensor(at::IntArrayRef(list.data(), list.size()));
    const torch::Tensor x =
        world.samples.inputs.index_select(0, index).to(torch::kFloat64) * 0.5 + 0.25;
    const torch::Tensor y = world.samples.labels.index_select(0, index).unsqueeze(1);
    weights.backward(world.network->loss(world.network->forward(weights, x), y).mean());
    EXPECT_LT(largest(found[k] - gradient[0]), 1e-12) << k;
  }
}

}  // namespace
}  // namespace fl_sim
