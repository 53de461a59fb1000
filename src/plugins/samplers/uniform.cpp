// Uniform cohorts: every set of `cohort` clients is equally likely.
// McMahan et al., AISTATS 2017, Algorithm 1 ("random set of m clients"); drawn by R. W. Floyd's
// algorithm (Bentley & Floyd, "A sample of brilliance", CACM 1987) in time and memory of the
// cohort, not of the population.
#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Uniform final : public Sampler {
 public:
  explicit Uniform(const Setup& setup)
      : unbiased_(setup.job.get<std::string>("uniform.weights") == "unbiased"),
        by_samples_(unbiased_ && Shares::by_samples(setup.job, "sampler uniform, unbiased,")) {
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
        .rule =
            "Every set of `cohort` distinct clients is equally likely, in every round anew. "
            "`weights cohort`: the mean over those that were drawn, by the job's weighting; with "
            "weighting samples a ratio of two sums, which is biased a little where clients "
            "differ. `weights unbiased` is scheme II of Li et al. (On the convergence of FedAvg "
            "on non-IID data, ICLR 2020): client k weighs (N / cohort) p_k, so that E[sum_k "
            "weight_k x_k] = sum_k p_k x_k; a cohort's weights need not come to 1.",
        .options = {{.name = "weights",
                     .default_value = "cohort",
                     .meaning = "the mean over the cohort, or what is that over all clients on "
                                "average",
                     .choices = {"cohort", "unbiased"}}}};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    std::vector<Drawn> cohort;
    for (const int64_t client : draw_clients(request.candidates, request.cohort, rng))
      cohort.push_back({client});
    if (!unbiased_ || cohort.empty()) return cohort;
    const Shares shares(request, by_samples_);
    const double times =
        static_cast<double>(request.candidates.size()) / static_cast<double>(cohort.size());
    for (Drawn& one : cohort) one.weight = times * shares.of(one.client);
    return cohort;
  }

  bool weighs() const override { return unbiased_; }
  bool draws_anytime() const override { return !unbiased_; }
  bool estimates_sum() const override { return unbiased_; }

 private:
  bool unbiased_, by_samples_;
};

FL_REGISTER(Sampler, "uniform", Uniform);

}  // namespace
}  // namespace fl_sim
