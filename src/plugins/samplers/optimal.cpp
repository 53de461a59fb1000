// Clients whose updates are long, as often as is best for the sum.
#include <cmath>
#include <string>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Optimal final : public Sampler {
 public:
  explicit Optimal(const Setup& setup)
      : candidates_(setup.job.get<int64_t>("optimal.candidates")),
        rescalings_(setup.job.get<int64_t>("optimal.rescalings")),
        exact_(setup.job.get<std::string>("optimal.chances") == "exact"),
        by_samples_(Shares::by_samples(setup.job, "sampler optimal")) {
    const auto cohort = setup.job.get<int64_t>("cohort");
    FL_CHECK(candidates_ == 0 || (candidates_ >= cohort && candidates_ <= setup.clients),
             "optimal.candidates is ", candidates_, " (must be 0, for all, or ", cohort, " to ",
             setup.clients, ")");
  }

  static PluginInfo describe() {
    return {
        .summary = "draws clients by the lengths of their updates, with the least variance",
        .source =
            "Chen et al., Optimal client sampling for federated learning, TMLR 2022 (arXiv "
            "2010.13723, 2020)",
        .rule =
            "All candidates train (or `optimal.candidates` of them, drawn uniformly), and say how "
            "long their update is, u_k = p_k ||Delta_k||; then client k sends it with chance pi_k, "
            "independently of others, cohort of them on average, and weighs p_k / pi_k. With l "
            "the largest number for which (m + l - N) u_(l) is at most the sum of the l smallest "
            "u, pi_k = (m + l - N) u_k / that sum for the l smallest, and 1 for the others. "
            "`chances approximate` is their AOCS, which needs sums alone: min(m u_k / sum u, 1), "
            "then `optimal.rescalings` times those below 1 are multiplied so that all come to m. "
            "Unbiased: E[sum_k weight_k x_k] = sum_k p_k x_k, which needs not come to 1. Everybody "
            "computes and is sent the model; bytes sent are those of the cohort, and a number of "
            "the others. An update of length 0 is never sent.",
        .options = {{.name = "candidates",
                     .type = Option::Type::kInteger,
                     .default_value = "0",
                     .meaning = "clients that train in a round; 0: all that can be reached",
                     .range = at_least(0)},
                    {.name = "chances",
                     .default_value = "exact",
                     .meaning = "by all lengths, or by their sums (AOCS)",
                     .choices = {"exact", "approximate"}},
                    {.name = "rescalings",
                     .type = Option::Type::kInteger,
                     .default_value = "4",
                     .meaning = "how often chances are rescaled at most (AOCS)",
                     .range = at_least(0)}},
        .elsewhere = "FedLab's sampler may give a client a chance of more than 1."};
  }

  bool weighs() const override { return true; }
  bool estimates_sum() const override { return true; }
  Question question() const override { return Question::kUpdateNorm; }

  std::vector<int64_t> ask(const SampleRequest& request, Rng& rng) const override {
    std::vector<int64_t> asked;
    const int64_t all = request.candidates.size();
    for (const int64_t place : draw_places(all, candidates_ > 0 ? candidates_ : all, rng))
      asked.push_back(request.candidates.id(place));
    return asked;
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const Shares shares(request, by_samples_);
    std::vector<int64_t> ids;
    std::vector<double> norms;
    for (const auto& [client, norm] : request.answers) {
      if (std::isnan(norm)) continue;  // its update is not finite, and does not count
      ids.push_back(client);
      norms.push_back(shares.of(client) * norm);
    }
    if (ids.empty()) return {};
    const std::vector<double> chances =
        exact_ ? optimal_chances(norms, request.cohort)
               : approximate_chances(norms, request.cohort, rescalings_);
    // Those that were asked stand for all.
    const double times = static_cast<double>(request.candidates.size()) /
                         static_cast<double>(request.answers.size());
    std::vector<Drawn> cohort;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (rng.uniform() < chances[i])
        cohort.push_back({ids[i], times * shares.of(ids[i]) / chances[i]});
    }
    return cohort;
  }

 private:
  int64_t candidates_, rescalings_;
  bool exact_, by_samples_;
};

FL_REGISTER(Sampler, "optimal", Optimal);

}  // namespace
}  // namespace fl_sim
