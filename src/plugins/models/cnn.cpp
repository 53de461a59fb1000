// The convolutional network of the FedAvg paper: 1,663,370 parameters on 28 x 28 images in 10
// classes. McMahan et al., "Communication-efficient learning of deep networks from decentralized
// data", AISTATS 2017, section 3.
#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {

class Cnn final : public Sequential {
 public:
  explicit Cnn(const Setup& setup) : Sequential(image_shape(setup, "cnn", 4)) {
    conv2d("conv1", 32, 5, {.padding = 2});
    max_pool2d(2);  // before the ReLU, which then has a quarter to do: the result is the same
    relu();
    conv2d("conv2", 64, 5, {.padding = 2});
    max_pool2d(2);
    relu();
    linear("fc1", 512);
    relu();
    linear("fc2", setup.outputs);
  }

  static PluginInfo describe() {
    return {.summary = "two 5x5 convolutions and a hidden layer of 512 units (McMahan 2017)",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3"};
  }
};

FL_REGISTER(Network, "cnn", Cnn);

}  // namespace fl_sim
