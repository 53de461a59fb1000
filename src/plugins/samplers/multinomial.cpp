// Draws with replacement, in proportion to clients' samples: an unbiased estimate of the mean over
// all clients, whatever their sizes.
#include <algorithm>
#include <map>

#include "base/check.h"
#include "learning/sampler.h"

namespace fl_sim {
namespace {

class Multinomial final : public Sampler {
 public:
  explicit Multinomial(const Setup& setup) {
    const auto weighting = setup.job.get<std::string>("weighting");
    FL_CHECK(weighting == "samples", "weighting is ", weighting,
             ", but sampler multinomial draws clients in proportion to their samples and weighs "
             "every draw the same, which estimates the mean weighted by samples (choose weighting "
             "samples, or sampler uniform)");
  }

  static PluginInfo describe() {
    return {.summary = "draws with replacement, in proportion to clients' samples",
            .source =
                "Li et al., On the convergence of FedAvg on non-IID data, ICLR 2020, scheme I (MD "
                "sampling)",
            .rule =
                "`cohort` draws, each of client k with probability n_k / n over the clients that "
                "can be reached; a draw weighs 1 / cohort. Who is drawn c times trains once and "
                "weighs c / cohort. Unbiased: E[sum_k weight_k x_k] = sum_k (n_k / n) x_k.",
            .elsewhere = "FLGo draws so by default."};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const Candidates& who = request.candidates;
    const std::span<const int64_t> offsets = request.partition.offsets;
    std::vector<int64_t> sums;  // of samples up to each place; not needed where everybody is there
    int64_t all = offsets.back();
    if (!who.everybody()) {
      all = 0;
      for (int64_t place = 0; place < who.size(); ++place)
        sums.push_back(all += request.partition.size(who.id(place)));
    }
    if (all == 0) return {};
    std::map<int64_t, int64_t> counts;  // by client
    for (int64_t draw = 0; draw < request.cohort; ++draw) {
      const int64_t sample = rng.below(all);
      const auto place =
          who.everybody()
              ? std::upper_bound(offsets.begin(), offsets.end(), sample) - offsets.begin() - 1
              : std::upper_bound(sums.begin(), sums.end(), sample) - sums.begin();
      ++counts[who.id(place)];
    }
    std::vector<Drawn> cohort;
    for (const auto& [client, count] : counts)
      cohort.push_back({client, static_cast<double>(count) / static_cast<double>(request.cohort)});
    return cohort;
  }

  bool weighs() const override { return true; }
};

FL_REGISTER(Sampler, "multinomial", Multinomial);

}  // namespace
}  // namespace fl_sim
