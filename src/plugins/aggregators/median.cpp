// The median of each coordinate: what a minority of clients returns cannot move it far.
#include "learning/aggregator.h"

namespace fl_sim {
namespace {

class Median final : public Aggregator {
 public:
  explicit Median(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "the median of each coordinate",
            .source =
                "Yin et al., Byzantine-robust distributed learning: towards optimal statistical "
                "rates, ICML 2018, Definition 1",
            .rule =
                "per coordinate the middle one of the n values, or the mean of the two middle "
                "ones. It holds as long as fewer than half of the clients are adversaries; of one "
                "or two clients it is their mean.",
            .defaults = {{"weighting", "uniform"}}};
  }

  std::string obstacle(const Needs& needs) const override {
    const std::string obstacle = Aggregator::obstacle(needs);
    if (!obstacle.empty()) return obstacle;
    if (needs.follows_norms)
      return "whose step follows the length of every client's update, an adversary's too";
    return "";
  }

  torch::Tensor combine(const torch::Tensor& rows) const override {
    const int64_t n = rows.size(0);
    const torch::Tensor sorted = std::get<0>(rows.sort(0));
    if (n % 2 == 1) return sorted[n / 2];
    return (sorted[n / 2 - 1] + sorted[n / 2]).div_(2);
  }
};

FL_REGISTER(Aggregator, "median", Median);

}  // namespace
}  // namespace fl_sim
