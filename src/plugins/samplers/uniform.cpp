// Uniform cohorts: every set of `cohort` clients is equally likely.
// McMahan et al., AISTATS 2017, Algorithm 1 ("random set of m clients"); drawn by R. W. Floyd's
// algorithm (Bentley & Floyd, "A sample of brilliance", CACM 1987) in time and memory of the
// cohort, not of the population.
#include <algorithm>
#include <set>

#include "base/check.h"
#include "learning/sampler.h"

namespace fl_sim {
namespace {

class Uniform final : public Sampler {
 public:
  explicit Uniform(const Setup& setup) {
    const auto cohort = setup.job.get<int64_t>("cohort");
    const auto holdout = setup.job.get<int64_t>("holdout-clients");
    FL_CHECK(cohort >= 1 && cohort <= setup.clients, "cohort is ", cohort, " (must be 1 to ",
             setup.clients, ", the number of clients",
             holdout > 0 ? message(" without the ", holdout, " that are held out") : "", ")");
  }

  static PluginInfo describe() {
    return {
        .summary = "cohorts drawn uniformly, without replacement",
        .source =
            "McMahan et al., Communication-efficient learning of deep networks from "
            "decentralized data, AISTATS 2017, Algorithm 1",
        .rule = "Every set of `cohort` distinct clients is equally likely, in every round anew."};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const int64_t candidates = request.candidates.size();
    std::set<int64_t> chosen;  // places
    for (int64_t last = std::max<int64_t>(candidates - request.cohort, 0); last < candidates;
         ++last) {
      // Among 0..last; what is taken already stands for `last`, which cannot be.
      if (!chosen.insert(rng.below(last + 1)).second) chosen.insert(last);
    }
    std::vector<Drawn> cohort;
    for (const int64_t place : chosen) cohort.push_back({request.candidates.id(place)});
    return cohort;
  }
};

FL_REGISTER(Sampler, "uniform", Uniform);

}  // namespace
}  // namespace fl_sim
