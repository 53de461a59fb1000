// The middle mean: of each coordinate the mean of the values in the middle, without so many at
// either end. What few clients return cannot move it far.
#include "fl_sim.h"

namespace fl_sim {
namespace {

class Middle final : public Aggregator {
 public:
  explicit Middle(const Setup& setup) : without_(setup.job.get<int64_t>("middle.without")) {}

  static PluginInfo describe() {
    return {.summary = "the mean of each coordinate's middle values",
            .source =
                "Yin et al., Byzantine-robust distributed learning: towards optimal statistical "
                "rates, ICML 2018, Definition 2",
            .rule =
                "per coordinate the mean of the n values without the smallest `without` and "
                "the largest `without` of them.",
            .options = {{.name = "without",
                         .type = Option::Type::kInteger,
                         .default_value = "1",
                         .meaning = "values left out at either end",
                         .range = at_least(0)}},
            .defaults = {{"weighting", "uniform"}},
            .example = "--aggregator middle --middle.without 2"};
  }

  int64_t fewest() const override { return 2 * without_ + 1; }

  torch::Tensor combine(const torch::Tensor& rows) const override {
    const torch::Tensor sorted = std::get<0>(rows.sort(0));
    return sorted.narrow(0, without_, rows.size(0) - 2 * without_).mean(0);
  }

 private:
  int64_t without_;
};

FL_REGISTER(Aggregator, "middle", Middle);

}  // namespace
}  // namespace fl_sim
