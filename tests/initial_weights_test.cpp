// Initial weights from files: what PyTorch or a run of ours wrote comes back, anything else is
// refused with its name.
#include "network/initial_weights.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <map>

#include "any_job.h"
#include "base/hdf5_file.h"
#include "test_networks.h"

namespace fl_sim {
namespace {

// A file of the test's own, gone with it. It holds NormalisedLinear(4, 3) with the numbers 0, 1, 2,
// ... in each parameter, as `change` changes them.
class WeightsFile {
 public:
  struct Content {
    std::vector<double> values;
    std::vector<int64_t> shape;
    bool wide = false;  // float64
  };
  using Contents = std::map<std::string, Content>;

  explicit WeightsFile(const std::string& group,
                       const std::function<void(Contents&)>& change = {}) {
    Contents contents;
    const NormalisedLinear network(4, 3);
    for (const Parameter& parameter : network.layout().parameters()) {
      Content& content = contents[parameter.name];
      content.shape = parameter.shape;
      for (int64_t i = 0; i < parameter.size; ++i)
        content.values.push_back(static_cast<double>(i) / 8);
    }
    if (change) change(contents);
    Hdf5File file = Hdf5File::create(path_);
    for (const auto& [name, content] : contents) {
      if (content.wide) {
        file.write(group + "/" + name, content.values, content.shape);
      } else {
        const std::vector<float> values(content.values.begin(), content.values.end());
        file.write(group + "/" + name, values, content.shape);
      }
    }
    const std::vector<int64_t> count = {17};
    file.write(group + "/norm.num_batches_tracked", count, {});
    file.close();
  }
  ~WeightsFile() { std::filesystem::remove(path_); }

  torch::Tensor row() const { return initial_row_from(path_, NormalisedLinear(4, 3).layout()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() + "fl_sim_initial_weights_test.h5";
};

void expect_numbers(const torch::Tensor& row) {
  const NormalisedLinear network(4, 3);
  const ParameterLayout& layout = network.layout();
  torch::Tensor expected = torch::zeros({1, layout.row()});
  for (size_t i = 0; i < layout.parameters().size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    torch::Tensor view = layout.view(expected, index);
    view.copy_((torch::arange(view.numel()) / 8.0).view(view.sizes()));
  }
  EXPECT_EQ(row.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::equal(row, expected[0]));  // the gaps are 0
}

// Proves that the root, a group `state_dict` and a results file's `model` are read, float32 and
// float64, and that PyTorch's counter does no harm.
TEST(InitialWeights, ComeFromEveryKindOfFile) {
  for (const std::string group : {"", "/model", "/state_dict"}) {
    expect_numbers(WeightsFile(group).row());
    expect_numbers(WeightsFile(group, [](auto& contents) {
                     for (auto& [name, content] : contents) content.wide = true;
                   }).row());
  }
}

// Proves that what is missing, too much, of another shape or not finite is named.
TEST(InitialWeights, RefusesWhatDoesNotFit) {
  const auto expect = [](const std::string& part,
                         const std::function<void(WeightsFile::Contents&)>& change) {
    const WeightsFile file("", change);
    EXPECT_ERROR(file.row(), part);
    EXPECT_ERROR(file.row(), file.path());
  };
  expect(
      "/ lacks norm.running_var, fc.bias of the model's parameters (it has fc.weight, norm.bias,",
      [](auto& c) { c.erase("fc.bias"), c.erase("norm.running_var"); });
  expect("/ has fc2.bias, fc2.weight, which the model does not have", [](auto& c) {
    c["fc2.weight"] = c["fc2.bias"] = {{1}, {1}};
  });
  expect("/fc.weight has the shape [4, 3], but the model's is [3, 4]", [](auto& c) {
    c["fc.weight"].shape = {4, 3};
  });
  expect("/fc.bias has the shape [], but the model's is [3]", [](auto& c) {
    c["fc.bias"] = {{1}, {}};
  });
  expect("/fc.bias has nan as its number 1",
         [](auto& c) { c["fc.bias"].values[1] = std::numeric_limits<double>::quiet_NaN(); });
  expect("/norm.weight has -inf as its number 0",
         [](auto& c) { c["norm.weight"].values[0] = -std::numeric_limits<double>::infinity(); });
  expect("/norm.weight has 1e+39 as its number 3 (all must be finite in float32)", [](auto& c) {
    c["norm.weight"].values[3] = 1e39;
    c["norm.weight"].wide = true;
  });
}

TEST(InitialWeights, RefusesOtherTypesAndFiles) {
  const NormalisedLinear network(4, 3);
  const WeightsFile file("");
  {
    Hdf5File integers = Hdf5File::create(file.path());
    for (const Parameter& p : network.layout().parameters())
      integers.write("/" + p.name, std::vector<int64_t>(static_cast<size_t>(p.size)), p.shape);
    integers.close();
  }
  EXPECT_ERROR(file.row(), "holds numbers of another type than float32 or float64");
  EXPECT_ERROR(initial_row_from("/no/such/net.h5", network.layout()), "/no/such/net.h5");
}

}  // namespace
}  // namespace fl_sim
