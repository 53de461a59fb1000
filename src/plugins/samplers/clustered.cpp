// One client from each of several urns that hold the same number of samples.
#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Clustered final : public Sampler {
 public:
  explicit Clustered(const Setup& setup) {
    const auto weighting = setup.job.get<std::string>("weighting");
    FL_CHECK(weighting == "samples", "weighting is ", weighting,
             ", but sampler clustered draws clients in proportion to their samples and weighs "
             "every draw the same, which estimates the mean weighted by samples (choose weighting "
             "samples, or sampler uniform)");
  }

  static PluginInfo describe() {
    return {.summary = "one client from each of several urns with equally many samples",
            .source =
                "Fraboni et al., Clustered sampling: low-variance and improved representativity "
                "for clients selection in federated learning, ICML 2021, algorithm 1",
            .rule =
                "Clients that can be reached are sorted by samples, the largest first, and cohort "
                "times their samples poured into `cohort` urns that hold n, all their samples. "
                "From each urn one client is drawn, in proportion to what is its in it; a draw "
                "weighs 1 / cohort, and who is drawn twice trains once. Unbiased, as multinomial "
                "is, with less variance: E[sum_k weight_k x_k] = sum_k (n_k / n) x_k. Their second "
                "algorithm, which clusters clients' updates, is not here."};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    // As clustered_urns() has it, without the urns: a sample's place says whose it is.
    std::vector<std::pair<int64_t, int64_t>> order;  // -samples, client
    for (int64_t place = 0; place < request.candidates.size(); ++place) {
      const int64_t id = request.candidates.id(place);
      order.emplace_back(-request.partition.size(id), id);
    }
    std::sort(order.begin(), order.end());
    int64_t all = 0;
    std::vector<int64_t> sums;  // of m n_k up to each
    for (const auto& [less, id] : order) {
      all -= less;
      sums.push_back((sums.empty() ? 0 : sums.back()) - less * request.cohort);
    }
    if (all == 0) return {};
    std::map<int64_t, int64_t> counts;  // by client
    for (int64_t urn = 0; urn < request.cohort; ++urn) {
      const int64_t sample = urn * all + rng.below(all);
      const auto place = std::upper_bound(sums.begin(), sums.end(), sample) - sums.begin();
      ++counts[order[static_cast<size_t>(place)].second];
    }
    std::vector<Drawn> cohort;
    for (const auto& [client, count] : counts)
      cohort.push_back({client, static_cast<double>(count) / static_cast<double>(request.cohort)});
    return cohort;
  }

  bool weighs() const override { return true; }
};

FL_REGISTER(Sampler, "clustered", Clustered);

}  // namespace
}  // namespace fl_sim
