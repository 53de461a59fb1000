// Late updates by their age, and by how far they are from what the others of the round say.
#include "learning/aggregator.h"

namespace fl_sim {
namespace {

class StaleAware final : public Aggregator {
 public:
  explicit StaleAware(const Setup& setup)
      : beta_(setup.job.get<double>("stale-aware.beta")),
        scale_(setup.job.get<double>("stale-aware.scale")) {}

  static PluginInfo describe() {
    return {
        .summary = "a mean in which late updates count by their age and by how they differ",
        .source =
            "Abdelmoniem et al., REFL: Resource-efficient federated learning, EuroSys 2023, "
            "section 4.2",
        .rule =
            "A fresh update weighs 1, one that is t > 0 versions old (1 - beta) / (t + 1) + beta "
            "(1 - e^(-L / L_max) / scale), each times its p_k; then divided by their sum. L is how "
            "far the update would move the mean c of the fresh ones, |(u + n c) / (n + 1) - c|^2 / "
            "|c|^2, and L_max the largest L among the late ones: whoever brings something new "
            "counts more. Without fresh ones L is 0.",
        .options = {{.name = "beta",
                     .type = Option::Type::kNumber,
                     .default_value = "0.35",
                     .meaning = "how much of a late update's weight is of how it differs",
                     .range = between(0, 1)},
                    {.name = "scale",
                     .type = Option::Type::kNumber,
                     .default_value = "10",
                     .meaning = "what the exponential is divided by: 10 in REFL's code, 1 in the "
                                "paper",
                     .range = at_least(1)}},
        .elsewhere = "REFL's code: beta 0.35, scale 10.",
        .example =
            "--algorithm refl-saa --devices lognormal --clock.over-commit 1.3 --clock.keep "
            "fastest"};
  }

  bool needs_products() const override { return true; }
  bool takes_stale() const override { return true; }

  torch::Tensor choose_stale(const torch::Tensor& products, const torch::Tensor& weights,
                             const torch::Tensor& staleness) const override {
    const int64_t m = products.size(0);
    const torch::Tensor fresh = staleness.eq(0).to(torch::kFloat64);
    const auto n = fresh.sum().item<double>();
    // |u - c|^2: L but for factors that all have alike.
    torch::Tensor far = torch::zeros({m}, torch::kFloat64);
    if (n > 0) {
      const torch::Tensor with_mean = products.mv(fresh).div(n);
      const torch::Tensor mean_square = with_mean.dot(fresh).div(n);
      far = (products.diagonal() - 2 * with_mean + mean_square).clamp_min(0) * (1 - fresh);
    }
    const auto farthest = far.max().item<double>();
    if (farthest > 0) far = far / farthest;
    const torch::Tensor late =
        (1 - beta_) / (staleness + 1) + beta_ * (1 - torch::exp(-far) / scale_);
    return (weights * torch::where(fresh.gt(0), torch::ones_like(late), late)).unsqueeze(0);
  }

 private:
  double beta_, scale_;
};

FL_REGISTER(Aggregator, "stale-aware", StaleAware);

}  // namespace
}  // namespace fl_sim
