// Residual networks for small images: ResNet-18 and ResNet-20, with group or batch normalisation.
// He et al., "Deep residual learning for image recognition", CVPR 2016.
//
// Averaged models suffer from batch statistics that differ between clients; group normalisation is
// the usual remedy: Hsieh et al., "The non-IID data quagmire of decentralized machine learning",
// ICML 2020; Reddi et al., "Adaptive federated optimization", ICLR 2021, with two groups.
#include <variant>

#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {
namespace {

// As the job says: `groups` groups, or batch normalisation where there are 0.
class Norm {
 public:
  Norm(ParameterLayout& layout, const std::string& name, int64_t channels, int64_t groups)
      : norm_(groups == 0 ? Either(BatchNorm(layout, name, channels))
                          : Either(GroupNorm(layout, name, groups, channels))) {}

  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const {
    return std::visit([&](const auto& norm) { return norm(weights, x); }, norm_);
  }

 private:
  using Either = std::variant<GroupNorm, BatchNorm>;
  Either norm_;
};

// Of a convolution with a Norm behind it.
Conv2d::Options conv_options(int64_t groups, int64_t stride, int64_t padding) {
  return {.stride = stride, .padding = padding, .bias = false, .channels_last = groups == 0};
}

// What distinguishes the two networks.
struct Plan {
  const char* name;
  std::vector<int64_t> widths;  // channels of each stage; all but the first halve the image
  int64_t blocks;               // of each stage
  // Where a block changes the shape, its shortcut is a 1x1 convolution with normalisation (option B
  // of the paper), or every other pixel and channels of zeros (option A).
  bool projection;
};

// Two 3x3 convolutions and a shortcut around them.
class Block {
 public:
  Block(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out, int64_t stride,
        int64_t groups, bool projection)
      : in_(in),
        out_(out),
        stride_(stride),
        conv1_(layout, name + ".conv1", in, out, 3, conv_options(groups, stride, 1)),
        norm1_(layout, name + ".bn1", out, groups),
        conv2_(layout, name + ".conv2", out, out, 3, conv_options(groups, 1, 1)),
        norm2_(layout, name + ".bn2", out, groups) {
    if (!projection || (in == out && stride == 1)) return;
    projection_.emplace(Projection{
        Conv2d(layout, name + ".downsample.0", in, out, 1, conv_options(groups, stride, 0)),
        Norm(layout, name + ".downsample.1", out, groups)});
  }

  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const {
    const torch::Tensor inner = norm1_(weights, conv1_(weights, x)).relu_();
    return norm2_(weights, conv2_(weights, inner)).add_(shortcut(weights, x)).relu_();
  }

 private:
  struct Projection {
    Conv2d conv;
    Norm norm;
  };

  torch::Tensor shortcut(const Weights& weights, const torch::Tensor& x) const {
    if (projection_) return projection_->norm(weights, projection_->conv(weights, x));
    if (in_ == out_) return x;
    const int64_t before = (out_ - in_) / 2;
    const torch::Tensor pixels = x.slice(2, 0, x.size(2), stride_).slice(3, 0, x.size(3), stride_);
    return pad_channels(weights, pixels, before, out_ - in_ - before);
  }

  int64_t in_, out_, stride_;
  Conv2d conv1_;
  Norm norm1_;
  Conv2d conv2_;
  Norm norm2_;
  std::optional<Projection> projection_;
};

class ResNet : public Network {
 public:
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    x = norm1_(weights, conv1_(weights, x)).relu_();
    for (const Block& block : blocks_) x = block(weights, x);
    return x.mean({2, 3});
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc_(weights, representation);
  }

 protected:
  ResNet(const Setup& setup, const Plan& plan)
      : conv1_(layout_, "conv1", image_channels(setup, plan.name, 8), plan.widths.front(), 3,
               conv_options(groups(setup, plan), 1, 1)),
        norm1_(layout_, "bn1", plan.widths.front(), groups(setup, plan)),
        blocks_(blocks(layout_, plan, groups(setup, plan))),
        fc_(layout_, "fc", plan.widths.back(), setup.outputs) {}

  // The description of the network `name`, without the paper.
  static PluginInfo description(const std::string& name, const std::string& summary,
                                const std::string& rule) {
    return {.summary = summary,
            .source =
                "He et al., Deep residual learning for image recognition, CVPR 2016; group "
                "normalisation as in Hsieh et al., The non-IID data quagmire of decentralized "
                "machine learning, ICML 2020, and Reddi et al., Adaptive federated optimization, "
                "ICLR 2021",
            .rule = rule +
                    " The mean over each channel's image (the representation); linear (the head).",
            .options = {{.name = "norm",
                         .type = Option::Type::kText,
                         .default_value = "group",
                         .meaning = "normalisation behind each convolution",
                         .choices = {"group", "batch"}},
                        {.name = "groups",
                         .type = Option::Type::kInteger,
                         .default_value = "2",
                         .meaning = "groups of channels that are normalised together",
                         .range = at_least(1),
                         .only_with = {name + ".norm", {"group"}}}}};
  }

 private:
  static int64_t groups(const Setup& setup, const Plan& plan) {
    const std::string prefix = message(plan.name, ".");
    return setup.job.get<std::string>(prefix + "norm") == "batch"
               ? 0
               : setup.job.get<int64_t>(prefix + "groups");
  }

  static std::vector<Block> blocks(ParameterLayout& layout, const Plan& plan, int64_t groups) {
    std::vector<Block> all;
    int64_t in = plan.widths.front();
    for (size_t stage = 0; stage < plan.widths.size(); ++stage) {
      const int64_t out = plan.widths[stage];
      for (int64_t i = 0; i < plan.blocks; ++i) {
        all.emplace_back(layout, message("layer", stage + 1, ".", i), in, out,
                         stage > 0 && i == 0 ? 2 : 1, groups, plan.projection);
        in = out;
      }
    }
    return all;
  }

  Conv2d conv1_;
  Norm norm1_;
  std::vector<Block> blocks_;
  Linear fc_;
};

class ResNet18 final : public ResNet {
 public:
  explicit ResNet18(const Setup& setup)
      : ResNet(setup, {"resnet18", {64, 128, 256, 512}, 2, /*projection=*/true}) {}

  static PluginInfo describe() {
    return description("resnet18",
                       "ResNet-18 for small images, by default with group normalisation",
                       "A 3x3 convolution of 64 channels in place of the paper's 7x7 with pooling; "
                       "four stages of two blocks with 64, 128, 256, 512 channels.");
  }
};

class ResNet20 final : public ResNet {
 public:
  explicit ResNet20(const Setup& setup)
      : ResNet(setup, {"resnet20", {16, 32, 64}, 3, /*projection=*/false}) {}

  static PluginInfo describe() {
    return description(
        "resnet20", "ResNet-20 for CIFAR, by default with group normalisation",
        "A 3x3 convolution of 16 channels; three stages of three blocks with 16, 32, "
        "64 channels, shortcuts without parameters.");
  }
};

FL_REGISTER(Network, "resnet18", ResNet18);
FL_REGISTER(Network, "resnet20", ResNet20);

}  // namespace
}  // namespace fl_sim
