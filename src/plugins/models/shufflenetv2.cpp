// ShuffleNetV2 for small images: units that halve their channels and shuffle them.
// Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", ECCV
// 2018, table 5; one of FedScale's networks (Lai et al., ICML 2022).
//
// The paper halves the image five times, here it is halved three times: the first convolution keeps
// its size, and the pooling behind it is left out, as is usual for CIFAR. That changes no
// parameter: names and shapes are torchvision's.
#include <optional>
#include <tuple>

#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {
namespace {

// Modules number `module` and `module` + 1 of a torch::nn::Sequential.
ConvNorm numbered(ParameterLayout& layout, const std::string& sequence, int64_t module, int64_t in,
                  int64_t out, int64_t kernel, Conv2d::Options options = {}) {
  return ConvNorm(layout, message(sequence, ".", module), message(sequence, ".", module + 1), in,
                  out, kernel, options);
}

// A 3x3 convolution of each channel by itself.
Conv2d::Options depthwise(int64_t channels, int64_t stride) {
  return {.stride = stride, .padding = 1, .groups = channels};
}

// Half of the channels goes through three convolutions, the other half stays; or, where the image
// is halved, all channels go through both branches. Then the channels are shuffled.
class Unit {
 public:
  Unit(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out, bool halve) {
    const int64_t half = out / 2, stride = halve ? 2 : 1;
    if (halve) {
      const std::string branch = name + ".branch1";
      shortcut_.emplace(Shortcut{numbered(layout, branch, 0, in, in, 3, depthwise(in, stride)),
                                 numbered(layout, branch, 2, in, half, 1)});
    }
    const std::string branch = name + ".branch2";
    convs_.push_back(numbered(layout, branch, 0, halve ? in : half, half, 1));
    convs_.push_back(numbered(layout, branch, 3, half, half, 3, depthwise(half, stride)));
    convs_.push_back(numbered(layout, branch, 5, half, half, 1));
  }

  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const {
    torch::Tensor first = x, second = x;
    if (shortcut_) {
      first = shortcut_->conv(weights, shortcut_->depthwise(weights, x)).relu_();
    } else {
      std::tie(first, second) = halve_channels(weights, x);
    }
    second = convs_[1](weights, convs_[0](weights, second).relu_());
    second = convs_[2](weights, second).relu_();
    return shuffle_channels(weights, join_channels(weights, first, second), 2);
  }

 private:
  struct Shortcut {
    ConvNorm depthwise, conv;
  };
  std::optional<Shortcut> shortcut_;
  std::vector<ConvNorm> convs_;
};

class ShuffleNetV2 final : public Network {
 public:
  explicit ShuffleNetV2(const Setup& setup)
      : widths_(widths(setup.job.get<std::string>("shufflenetv2.width"))),
        first_(numbered(layout_, "conv1", 0, image_channels(setup, "shufflenetv2", 8), kFirst, 3,
                        {.padding = 1})),
        units_(units()),
        last_(numbered(layout_, "conv5", 0, widths_[2], widths_[3], 1)),
        fc_(layout_, "fc", widths_[3], setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "ShuffleNetV2 for small images",
            .source =
                "Ma et al., ShuffleNet V2: practical guidelines for efficient CNN architecture "
                "design, ECCV 2018, table 5; used by Lai et al., FedScale, ICML 2022",
            .rule =
                "A 3x3 convolution of 24 channels; stages of 4, 8 and 4 units, the first of which "
                "halves the image; a 1x1 convolution, the mean over each channel's image (the "
                "representation); linear (the head). Batch normalisation throughout.",
            .options = {{.name = "width",
                         .type = Option::Type::kText,
                         .default_value = "1.0",
                         .meaning = "which of the paper's four sizes",
                         .choices = {"0.5", "1.0", "1.5", "2.0"}}}};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    x = first_(weights, x).relu_();
    for (const Unit& unit : units_) x = unit(weights, x);
    return last_(weights, x).relu_().mean({2, 3});
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc_(weights, representation);
  }

 private:
  static constexpr int64_t kFirst = 24;  // channels of the first convolution

  // Channels of the stages 2, 3, 4 and of the last convolution.
  static std::vector<int64_t> widths(const std::string& size) {
    if (size == "0.5") return {48, 96, 192, 1024};
    if (size == "1.0") return {116, 232, 464, 1024};
    if (size == "1.5") return {176, 352, 704, 1024};
    return {244, 488, 976, 2048};
  }

  std::vector<Unit> units() {
    constexpr int64_t kUnits[] = {4, 8, 4};
    std::vector<Unit> all;
    int64_t in = kFirst;
    for (size_t stage = 0; stage < std::size(kUnits); ++stage) {
      for (int64_t i = 0; i < kUnits[stage]; ++i) {
        all.emplace_back(layout_, message("stage", stage + 2, ".", i), in, widths_[stage], i == 0);
        in = widths_[stage];
      }
    }
    return all;
  }

  std::vector<int64_t> widths_;
  ConvNorm first_;
  std::vector<Unit> units_;
  ConvNorm last_;
  Linear fc_;
};

FL_REGISTER(Network, "shufflenetv2", ShuffleNetV2);

}  // namespace
}  // namespace fl_sim
