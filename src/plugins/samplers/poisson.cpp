// Each client by its own coin.
#include <cmath>

#include "learning/selection.h"

namespace fl_sim {
namespace {

class PoissonSampler final : public Sampler {
 public:
  explicit PoissonSampler(const Setup& setup)
      : by_samples_(Shares::by_samples(setup.job, "sampler poisson")) {}

  static PluginInfo describe() {
    return {.summary = "each client independently, cohort of them on average",
            .source =
                "McMahan et al., Learning differentially private recurrent language models, ICLR "
                "2018 (the sampling); Horvitz & Thompson 1952 (the weights)",
            .rule =
                "Of N clients that can be reached each takes part with chance pi = min(1, cohort / "
                "N), whatever others do, so that cohorts differ in size, and may be empty. Client "
                "k weighs p_k / pi. Unbiased: E[sum_k weight_k x_k] = sum_k p_k x_k; a cohort's "
                "weights need not come to 1."};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const int64_t all = request.candidates.size();
    const double chance =
        std::min(1.0, static_cast<double>(request.cohort) / static_cast<double>(all));
    const Shares shares(request, by_samples_);
    std::vector<Drawn> cohort;
    // From one that is drawn to the next: a geometric number of others lies between.
    double place = -1;
    for (;;) {
      place += 1;
      if (chance < 1) place += std::floor(std::log1p(-rng.uniform()) / std::log1p(-chance));
      if (!(place < static_cast<double>(all))) return cohort;
      const int64_t client = request.candidates.id(static_cast<int64_t>(place));
      cohort.push_back({client, shares.of(client) / chance});
    }
  }

  bool weighs() const override { return true; }
  bool estimates_sum() const override { return true; }

 private:
  bool by_samples_;
};

FL_REGISTER(Sampler, "poisson", PoissonSampler);

}  // namespace
}  // namespace fl_sim
