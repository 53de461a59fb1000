// The multilayer perceptron "2NN" with two hidden layers of 200 units.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, section 3.
#include "fl_sim.h"

namespace fl_sim {

class TwoHiddenLayers final : public Sequential {
 public:
  explicit TwoHiddenLayers(const Setup& setup) : Sequential(setup.input_shape) {
    linear("fc1", 200);
    relu();
    linear("fc2", 200);
    relu();
    linear("fc3", setup.outputs);
  }

  static PluginInfo describe() {
    return {.summary = "perceptron with two hidden layers of 200 units (McMahan 2017)",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3"};
  }
};

FL_REGISTER(Network, "2nn", TwoHiddenLayers);

}  // namespace fl_sim
