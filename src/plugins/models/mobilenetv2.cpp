// MobileNetV2 for small images: inverted residuals of depthwise convolutions.
// Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, table 2.
//
// The paper halves the image five times, here it is halved three times: the first convolution and
// the stage of 24 channels keep its size, as is usual for CIFAR. That changes no parameter: names
// and shapes are torchvision's, with 3,504,872 parameters for 1000 classes.
#include <algorithm>

#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {
namespace {

// 1x1 to `expansion` times the channels, 3x3 depthwise, 1x1 to the channels wanted.
class Inverted {
 public:
  Inverted(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out,
           int64_t stride, int64_t expansion)
      : residual_(stride == 1 && in == out) {
    const int64_t wide = in * expansion;
    int64_t module = 0;
    const auto next = [&] { return message(name, ".conv.", module++); };
    const auto add = [&](const std::string& conv, const std::string& norm, int64_t from, int64_t to,
                         int64_t kernel, Conv2d::Options options) {
      convs_.emplace_back(layout, conv, norm, from, to, kernel, options);
    };
    if (expansion != 1) {
      const std::string sequence = next();
      add(sequence + ".0", sequence + ".1", in, wide, 1, {});
    }
    const std::string sequence = next();
    add(sequence + ".0", sequence + ".1", wide, wide, 3,
        {.stride = stride, .padding = 1, .groups = wide});
    const std::string conv = next(), norm = next();
    add(conv, norm, wide, out, 1, {});
  }

  torch::Tensor operator()(const Weights& weights, const torch::Tensor& x) const {
    torch::Tensor y = x;
    for (size_t i = 0; i + 1 < convs_.size(); ++i) y = torch::relu6(convs_[i](weights, y));
    y = convs_.back()(weights, y);
    return residual_ ? y + x : y;
  }

 private:
  bool residual_;
  std::vector<ConvNorm> convs_;
};

class MobileNetV2 final : public Network {
 public:
  explicit MobileNetV2(const Setup& setup)
      : width_(setup.job.get<double>("mobilenetv2.width")),
        first_(layout_, "features.0.0", "features.0.1", image_channels(setup, "mobilenetv2", 8),
               scaled(32), 3, {.padding = 1}),
        blocks_(blocks()),
        last_(layout_, message("features.", blocks_.size() + 1, ".0"),
              message("features.", blocks_.size() + 1, ".1"), scaled(320), features(), 1),
        fc_(layout_, "classifier.1", features(), setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "MobileNetV2 for small images",
            .source =
                "Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, CVPR "
                "2018, table 2",
            .rule =
                "A 3x3 convolution of 32 channels; stages of 16, 24, 24, 32 x 3, 64 x 4, 96 x 3, "
                "160 x 3, 320 channels; 1280 channels, the mean over each one's image (the "
                "representation); linear (the head). Batch normalisation and ReLU6 throughout. The "
                "image is halved before 32, 64 and 160 channels.",
            .options = {{"width", Option::Type::kNumber, "1",
                         "multiplies all numbers of channels, rounded to multiples of 8",
                         between(0.1, 4)}}};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return classify(weights, represent(weights, std::move(x)));
  }

  bool has_representation() const override { return true; }

  torch::Tensor represent(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu6(first_(weights, x));
    for (const Inverted& block : blocks_) x = block(weights, x);
    return torch::relu6(last_(weights, x)).mean({2, 3});
  }

  torch::Tensor classify(const Weights& weights,
                         const torch::Tensor& representation) const override {
    return fc_(weights, representation);
  }

 private:
  // `channels` times the width, to the nearest multiple of 8, but no more than a tenth less.
  int64_t scaled(double channels) const {
    const double exact = channels * width_;
    const auto rounded = std::max<int64_t>(8, static_cast<int64_t>(exact + 4) / 8 * 8);
    return static_cast<double>(rounded) < 0.9 * exact ? rounded + 8 : rounded;
  }

  // The last convolution's channels; narrow networks keep them.
  int64_t features() const { return width_ > 1 ? scaled(1280) : 1280; }

  std::vector<Inverted> blocks() {
    struct Stage {
      int64_t expansion, channels, blocks, stride;
    };
    std::vector<Inverted> all;
    int64_t in = scaled(32);
    for (const Stage& stage :
         {Stage{1, 16, 1, 1}, Stage{6, 24, 2, 1}, Stage{6, 32, 3, 2}, Stage{6, 64, 4, 2},
          Stage{6, 96, 3, 1}, Stage{6, 160, 3, 2}, Stage{6, 320, 1, 1}}) {
      const int64_t out = scaled(static_cast<double>(stage.channels));
      for (int64_t i = 0; i < stage.blocks; ++i) {
        all.emplace_back(layout_, message("features.", all.size() + 1), in, out,
                         i == 0 ? stage.stride : 1, stage.expansion);
        in = out;
      }
    }
    return all;
  }

  double width_;
  ConvNorm first_;
  std::vector<Inverted> blocks_;
  ConvNorm last_;
  Linear fc_;
};

FL_REGISTER(Network, "mobilenetv2", MobileNetV2);

}  // namespace
}  // namespace fl_sim
