// Multinomial logistic regression.
#include "fl_sim.h"

namespace fl_sim {

class Logistic final : public Network {
 public:
  explicit Logistic(const Setup& setup)
      : fc_(layout_, "fc", c10::multiply_integers(setup.input_shape), setup.outputs) {}

  static PluginInfo describe() { return {.summary = "multinomial logistic regression"}; }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return fc_(weights, x.flatten(1));
  }

 private:
  Linear fc_;
};

FL_REGISTER(Network, "logistic", Logistic);

}  // namespace fl_sim
