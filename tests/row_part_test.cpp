// Parts of rows: what is taken out of a row, put back and zeroed, and which parameters are head and
// normalisation.
#include "network/row_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "any_job.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;

// a 0-15, c 16-47 (17 numbers and a gap), d 48-63, buffer b 64-79.
ParameterLayout example_layout() {
  ParameterLayout layout;
  layout.add("a", {3, 4}, 0);
  layout.add_buffer("b", {5}, 2);
  layout.add("c", {17}, 1);
  layout.add("d", {}, 3);
  return layout;
}

RowPart named(const ParameterLayout& layout, const std::string& names) {
  return RowPart::of(layout, [&](const Parameter& parameter) {
    return names.find(parameter.name) != std::string::npos;
  });
}

// Rows whose numbers are their positions, the second row's 1000 more.
torch::Tensor positions(int64_t length) {
  return torch::arange(length, torch::kFloat64).unsqueeze(0) +
         torch::tensor({0.0, 1000.0}, torch::kFloat64).unsqueeze(1);
}

// Proves that a part is whole parameters with their gaps, in the row's order, and that it is
// copied.
TEST(RowPart, GathersWhatItNames) {
  const ParameterLayout layout = example_layout();
  const RowPart part = named(layout, "ab");
  EXPECT_EQ(part.size(), 32);
  const torch::Tensor rows = positions(layout.row());
  torch::Tensor values = part.gather(rows);
  EXPECT_TRUE(torch::equal(values, torch::cat({rows.narrow(1, 0, 16), rows.narrow(1, 64, 16)}, 1)));
  values.zero_();
  EXPECT_EQ(rows[1][1].item<double>(), 1001);
}

// Proves that a part and its complement make up the row: put back into zeros, both restore it, and
// zeroing one leaves the other.
TEST(RowPart, AndItsComplementAreTheRow) {
  const ParameterLayout layout = example_layout();
  for (const std::string names : {"", "a", "b", "c", "ac", "bd", "cb", "abcd"}) {
    const RowPart part = named(layout, names), rest = part.complement(layout);
    EXPECT_EQ(part.size() + rest.size(), layout.row()) << names;
    EXPECT_EQ(part.empty(), names.empty());
    const torch::Tensor rows = positions(layout.row());
    torch::Tensor restored = torch::zeros_like(rows);
    part.scatter(restored, part.gather(rows));
    rest.scatter(restored, rest.gather(rows));
    EXPECT_TRUE(torch::equal(restored, rows)) << names;
    part.zero(restored);
    EXPECT_TRUE(part.gather(restored).eq(0).all().item<bool>()) << names;
    EXPECT_TRUE(torch::equal(rest.gather(restored), rest.gather(rows))) << names;
    EXPECT_EQ(rest.complement(layout).size(), part.size());
  }
}

// Proves that one row of values goes to all rows, and that values of another length are refused.
TEST(RowPart, ScattersOneRowToAll) {
  const ParameterLayout layout = example_layout();
  const RowPart part = named(layout, "c");
  torch::Tensor rows = positions(layout.row());
  part.scatter(rows, torch::full({1, 32}, 7.0, torch::kFloat64));
  EXPECT_TRUE(rows.narrow(1, 16, 32).eq(7).all().item<bool>());
  EXPECT_EQ(rows[1][48].item<double>(), 1048);
  EXPECT_ERROR(part.scatter(rows, torch::zeros({2, 16}, torch::kFloat64)), "a part of 32 numbers");
}

// Proves that the trainable part of a part fits gradient rows, which have no buffers.
TEST(RowPart, TrainablePartFitsGradients) {
  const ParameterLayout layout = example_layout();
  const RowPart part = named(layout, "db"), trainable = part.trainable(layout);
  EXPECT_EQ(part.size(), 32);  // one span over the border between trainable part and buffers
  EXPECT_EQ(trainable.size(), 16);
  torch::Tensor gradients = positions(layout.trainable());
  trainable.zero(gradients);
  EXPECT_TRUE(gradients.narrow(1, 48, 16).eq(0).all().item<bool>());
  EXPECT_EQ(gradients[0][47].item<double>(), 47);
  EXPECT_TRUE(named(layout, "b").trainable(layout).empty());
}

// Proves that scales, shifts and running statistics of batch and group normalisation are marked,
// and nothing else is.
TEST(RowPart, NormalisationIsWhatLayersSay) {
  const auto marked = [](const Network& network) {
    std::vector<std::string> names;
    for (const Parameter& p : network.layout().parameters()) {
      if (p.normalisation) names.push_back(p.name);
    }
    return names;
  };
  EXPECT_THAT(marked(NormalisedLinear(4, 3)),
              testing::UnorderedElementsAre("norm.weight", "norm.bias", "norm.running_mean",
                                            "norm.running_var"));
  EXPECT_THAT(marked(SmallConvNet(1, 3)),
              testing::UnorderedElementsAre("norm.weight", "norm.bias"));
  EXPECT_EQ(normalisation_of(NormalisedLinear(4, 3).layout()).size(), 4 * 16);
  EXPECT_TRUE(normalisation_of(SmallMlp(4, 5, 3).layout()).empty());
}

// A network that says that its head is something else.
class OddHead final : public Network {
 public:
  explicit OddHead(std::vector<std::string> head)
      : fc_(layout_, "fc", 4, 3), head_(std::move(head)) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc_(weights, x);
  }
  std::vector<std::string> head() const override { return head_; }

 private:
  Linear fc_;
  std::vector<std::string> head_;
};

// Proves that the head is the last layer unless the model says otherwise, that a model of one layer
// has no body, and that a name which the model lacks is refused.
TEST(RowPart, HeadIsTheLastLayer) {
  const NormDropoutMlp deep(6, 5, 3, 0.5);
  EXPECT_THAT(deep.head(), ElementsAre("fc3.weight", "fc3.bias"));
  const RowPart head = head_of(deep);
  EXPECT_EQ(head.size(), 16 + 16);  // 3 x 5 and 3, each with its gap
  EXPECT_EQ(head.trainable(deep.layout()).size(), head.size());
  EXPECT_FALSE(head.complement(deep.layout()).trainable(deep.layout()).empty());

  const OddHead single({"fc.weight", "fc.bias"}), bias({"fc.bias"}), wrong({"fc.bias", "fc2.bias"});
  EXPECT_TRUE(head_of(single).complement(single.layout()).trainable(single.layout()).empty());
  EXPECT_EQ(head_of(bias).size(), 16);
  EXPECT_ERROR(head_of(wrong), "fc2.bias is of its head, but has no parameter of that name");
}

}  // namespace
}  // namespace fl_sim
