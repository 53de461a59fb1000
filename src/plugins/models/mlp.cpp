// A multilayer perceptron of any widths: `mlp.hidden = 32,16,8` is NIID-Bench's tabular network.
// Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, section
// V.
#include <charconv>

#include "fl_sim.h"

namespace fl_sim {

class Mlp final : public Sequential {
 public:
  explicit Mlp(const Setup& setup) : Sequential(setup.input_shape) {
    int64_t layer = 1;
    for (const int64_t width : widths(setup.job.get<std::string>("mlp.hidden"))) {
      linear(message("fc", layer++), width);
      relu();
    }
    linear(message("fc", layer), setup.outputs);
  }

  static PluginInfo describe() {
    return {.summary = "perceptron with hidden layers of the widths mlp.hidden",
            .source =
                "with 32,16,8 the tabular network of Li et al., Federated learning on non-IID data "
                "silos: an experimental study, ICDE 2022, section V",
            .rule = "Linear, ReLU for each hidden layer; linear (the head).",
            .options = {{"hidden",
                         Option::Type::kText,
                         {},
                         "widths of the hidden layers, from the first to the last: 32,16,8"}}};
  }

 private:
  static std::vector<int64_t> widths(const std::string& text) {
    std::vector<int64_t> all;
    const char *at = text.data(), *const end = at + text.size();
    for (bool more = true; more; ++at) {
      while (at != end && *at == ' ') ++at;
      int64_t width = 0;
      const auto [behind, problem] = std::from_chars(at, end, width);
      at = behind;
      while (at != end && *at == ' ') ++at;
      more = at != end;
      FL_CHECK(problem == std::errc() && width >= 1 && width <= kMostUnits && (!more || *at == ','),
               "mlp.hidden is ", text, " (must be widths of 1 to ", kMostUnits,
               " with commas between, such as 32,16,8)");
      all.push_back(width);
    }
    return all;
  }

  static constexpr int64_t kMostUnits = 1000000;
};

FL_REGISTER(Network, "mlp", Mlp);

}  // namespace fl_sim
