// The LeNet-like network of NIID-Bench.
// Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, section
// V.
#include "fl_sim.h"

namespace fl_sim {

class LeNet final : public Network {
 public:
  explicit LeNet(const Setup& setup)
      : conv1_(layout_, "conv1", images(setup)[0], 6, 5),
        conv2_(layout_, "conv2", 6, 16, 5),
        fc1_(layout_, "fc1", 16 * side(setup.input_shape[1]) * side(setup.input_shape[2]), 120),
        fc2_(layout_, "fc2", 120, 84),
        fc3_(layout_, "fc3", 84, setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "two 5x5 convolutions and two hidden layers (NIID-Bench)",
            .source =
                "Li et al., Federated learning on non-IID data silos: an experimental study, "
                "ICDE 2022, section V"};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu(torch::max_pool2d(conv1_(weights, x), 2));
    x = torch::relu(torch::max_pool2d(conv2_(weights, x), 2));
    x = torch::relu(fc1_(weights, x.flatten(1)));
    x = torch::relu(fc2_(weights, x));
    return fc3_(weights, x);
  }

 private:
  static int64_t side(int64_t pixels) {
    return ((pixels - 4) / 2 - 4) / 2;
  }  // after both convolutions
  static const std::vector<int64_t>& images(const Setup& setup) {
    FL_CHECK(
        setup.input_shape.size() == 3 && setup.input_shape[1] >= 16 && setup.input_shape[2] >= 16,
        "model lenet needs images [channels, height, width] of at least 16 x 16; the data's "
        "samples are ",
        torch::IntArrayRef(setup.input_shape));
    return setup.input_shape;
  }

  Conv2d conv1_, conv2_;
  Linear fc1_, fc2_, fc3_;
};

FL_REGISTER(Network, "lenet", LeNet);

}  // namespace fl_sim
