// The LeNet-like network of NIID-Bench.
// Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, section
// V.
#include "fl_sim.h"
#include "plugins/models/image_models.h"

namespace fl_sim {

class LeNet final : public Sequential {
 public:
  explicit LeNet(const Setup& setup) : Sequential(image_shape(setup, "lenet", 16)) {
    conv2d("conv1", 6, 5);
    max_pool2d(2);  // before the ReLU, which then has a quarter to do: the result is the same
    relu();
    conv2d("conv2", 16, 5);
    max_pool2d(2);
    relu();
    linear("fc1", 120);
    relu();
    linear("fc2", 84);
    relu();
    linear("fc3", setup.outputs);
  }

  static PluginInfo describe() {
    return {.summary = "two 5x5 convolutions and two hidden layers (NIID-Bench)",
            .source =
                "Li et al., Federated learning on non-IID data silos: an experimental study, "
                "ICDE 2022, section V"};
  }
};

FL_REGISTER(Network, "lenet", LeNet);

}  // namespace fl_sim
