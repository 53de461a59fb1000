// The convolutional network of the FedAvg paper: 1,663,370 parameters on 28 x 28 images in 10
// classes. McMahan et al., "Communication-efficient learning of deep networks from decentralized
// data", AISTATS 2017, section 3.
#include "fl_sim.h"

namespace fl_sim {

class Cnn final : public Network {
 public:
  explicit Cnn(const Setup& setup)
      : conv1_(layout_, "conv1", images(setup)[0], 32, 5, {.padding = 2}),
        conv2_(layout_, "conv2", 32, 64, 5, {.padding = 2}),
        fc1_(layout_, "fc1", 64 * (setup.input_shape[1] / 4) * (setup.input_shape[2] / 4), 512),
        fc2_(layout_, "fc2", 512, setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "two 5x5 convolutions and a hidden layer of 512 units (McMahan 2017)",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3"};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu(torch::max_pool2d(conv1_(weights, x), 2));
    x = torch::relu(torch::max_pool2d(conv2_(weights, x), 2));
    x = torch::relu(fc1_(weights, x.flatten(1)));
    return fc2_(weights, x);
  }

 private:
  static const std::vector<int64_t>& images(const Setup& setup) {
    FL_CHECK(
        setup.input_shape.size() == 3 && setup.input_shape[1] >= 4 && setup.input_shape[2] >= 4,
        "model cnn needs images [channels, height, width] of at least 4 x 4; the data's samples "
        "are ",
        torch::IntArrayRef(setup.input_shape));
    return setup.input_shape;
  }

  Conv2d conv1_, conv2_;
  Linear fc1_, fc2_;
};

FL_REGISTER(Network, "cnn", Cnn);

}  // namespace fl_sim
