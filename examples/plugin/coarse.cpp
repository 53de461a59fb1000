// Updates rounded to a grid, at random and right on average, so that a number needs few bits. As in
// Suresh et al., "Distributed mean estimation with limited communication", ICML 2017, Section 2,
// with a fixed step.
#include <cmath>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class Coarse final : public Transform {
 public:
  explicit Coarse(const Setup& setup)
      : sent_(setup.sent), step_(setup.job.get<double>("coarse.step")) {}

  static PluginInfo describe() {
    return {.summary = "updates rounded at random to multiples of a step",
            .source =
                "after Suresh et al., Distributed mean estimation with limited communication, ICML "
                "2017, Section 2",
            .rule =
                "x -> step floor(x / step + u), u uniform in [0, 1): right on average. 8 bits a "
                "number.",
            .options = {{.name = "step",
                         .type = Option::Type::kNumber,
                         .default_value = {},
                         .meaning = "distance of the values that can be sent",
                         .range = more_than(0)}},
            .example = "--transforms coarse --coarse.step 0.001"};
  }

  void apply(Update& update, const ClientGroup& group, const GlobalModel& global) const override {
    for (int64_t k = 0; k < group.size(); ++k) {
      // A stream of its own for each client and round: the same bits wherever it trains.
      Rng rng(group.seed, "coarse", global.round, group.ids[static_cast<size_t>(k)]);
      torch::Tensor row = update.delta.narrow(0, k, 1);
      torch::Tensor values = sent_.gather(row).to(torch::kFloat64).cpu();  // [1, n]
      double* x = values.data_ptr<double>();
      for (int64_t i = 0; i < values.numel(); ++i)
        x[i] = step_ * std::floor(x[i] / step_ + rng.uniform());
      sent_.scatter(row, values.to(row.options()));
    }
  }

  double bits(int64_t numbers, double) const override { return 8.0 * static_cast<double>(numbers); }

 private:
  RowPart sent_;
  double step_;
};

FL_REGISTER(Transform, "coarse", Coarse);

}  // namespace
}  // namespace fl_sim
