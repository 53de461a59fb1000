// Multinomial logistic regression.
#include "fl_sim.h"

namespace fl_sim {

class Logistic final : public Sequential {
 public:
  explicit Logistic(const Setup& setup) : Sequential(setup.input_shape) {
    linear("fc", setup.outputs);
  }

  static PluginInfo describe() { return {.summary = "multinomial logistic regression"}; }
};

FL_REGISTER(Network, "logistic", Logistic);

}  // namespace fl_sim
