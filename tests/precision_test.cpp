// precision = bf16: layers round their operands to bfloat16, everything else stays what it was.
#include <gtest/gtest.h>

#include "layer_trial.h"
#include "learning/local_training.h"
#include "network/arithmetic.h"
#include "quadratics.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

torch::Tensor rounded(const torch::Tensor& t) { return t.to(torch::kBFloat16).to(torch::kFloat64); }

// The outputs of a layer with bf16 products, for G clients, beside the same layer in double
// precision on operands rounded to bfloat16.
template <class Layer>
void expect_rounded_operands(const One<Layer>& network, const std::vector<int64_t>& shape,
                             int64_t clients) {
  const Trial trial(network, std::vector<int64_t>(static_cast<size_t>(clients), 4), shape);
  std::vector<int64_t> stacked = {4, clients * shape[0]};
  stacked.insert(stacked.end(), shape.begin() + 1, shape.end());
  const torch::Tensor x = trial.samples.reshape(stacked);
  Weights weights(network.layout(), trial.rows.to(torch::kFloat32));
  weights.product_type = torch::kBFloat16;
  const torch::Tensor y = network.forward(weights, x.to(torch::kFloat32));
  const torch::Tensor expected =
      network.forward(Weights(network.layout(), rounded(trial.rows)), rounded(x));
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  // The result itself is rounded to 8 bits.
  EXPECT_TRUE(torch::allclose(y.to(torch::kFloat64), expected, 0.01, 0.01));
  // And it is not the product of the operands as they were.
  const torch::Tensor exact = network.forward(Weights(network.layout(), trial.rows), x);
  EXPECT_GT(largest(y.to(torch::kFloat64) - exact), 1e-4);
}

TEST(Precision, LayersRoundTheirOperands) {
  const One<Linear> linear(40, 7);
  const One<Conv2d> conv(3, 5, 3);
  for (const int64_t clients : {1, 3}) {
    expect_rounded_operands(linear, {40}, clients);
    expect_rounded_operands(conv, {3, 8, 8}, clients);
  }
}

Update train(const std::string& lines, torch::Tensor* trained = nullptr) {
  const SmallConvNet network(2, 3);
  const Job job = hand_made_job(lines +
                                "\nlocal.epochs = 4\nlocal.batch-size = 5\nlocal.lr = 0.05\n"
                                "local.momentum = 0.5");
  const Samples samples = random_samples(20, {2, 8, 8}, 3);
  const Partition partition = make_partition(consecutive({20}));
  const ClientData data{.train = samples, .partition = &partition};
  GlobalModel global{.round = 1, .weights = {}, .shared = {}};
  Rng rng(3, "weights");
  global.weights = network.initial_row(rng).unsqueeze(0);
  ClientGroup group{.ids = {0}, .data = data, .seed = 7};
  group.rows = global.weights.clone();
  const Update update = LocalTraining({job, network, 1, 20}).train(group, global);
  if (trained != nullptr) *trained = group.rows;
  return update;
}

// Training goes nearly the same way, but not the same; weights have more bits than bfloat16.
TEST(Precision, TrainingKeepsFloat32Weights) {
  torch::Tensor rows;
  const Update exact = train(""), bf16 = train("precision = bf16", &rows);
  EXPECT_EQ(rows.scalar_type(), torch::kFloat32);
  EXPECT_GT(largest(rows - rows.to(torch::kBFloat16).to(torch::kFloat32)), 1e-5);
  EXPECT_GT(largest(bf16.delta - exact.delta), 1e-5);
  EXPECT_LT(largest(bf16.delta - exact.delta), 0.1 * largest(exact.delta));
  EXPECT_NEAR(bf16.clients[0].loss_after, exact.clients[0].loss_after, 0.02);
}

TEST(Precision, WhatCannotBeHadIsRefused) {
  Job job = any_job("precision = tf32\ndevice = cpu");
  EXPECT_EQ(error_of([&] { check_precision(job); }),
            "precision is tf32, which is an NVIDIA GPU's, but device is cpu (choose float32 or "
            "bf16)");
  job.set("device", "cuda");
  check_precision(job);
  EXPECT_FALSE(product_type(job));
  EXPECT_EQ(product_type(any_job("precision = bf16")), torch::kBFloat16);
}

}  // namespace
}  // namespace fl_sim
