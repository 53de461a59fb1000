// The multilayer perceptron "2NN" with two hidden layers of 200 units.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, section 3.
#include "fl_sim.h"

namespace fl_sim {

class TwoHiddenLayers final : public Network {
 public:
  explicit TwoHiddenLayers(const Setup& setup)
      : fc1_(layout_, "fc1", c10::multiply_integers(setup.input_shape), 200),
        fc2_(layout_, "fc2", 200, 200),
        fc3_(layout_, "fc3", 200, setup.outputs) {}

  static PluginInfo describe() {
    return {.summary = "perceptron with two hidden layers of 200 units (McMahan 2017)",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3"};
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    x = torch::relu(fc1_(weights, x.flatten(1)));
    x = torch::relu(fc2_(weights, x));
    return fc3_(weights, x);
  }

 private:
  Linear fc1_, fc2_, fc3_;
};

FL_REGISTER(Network, "2nn", TwoHiddenLayers);

}  // namespace fl_sim
