// Quantity skew: clients differ in how much they hold, not in what.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's iid-diff-quantity).
#include <algorithm>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class QuantityDirichlet final : public Partitioner {
 public:
  explicit QuantityDirichlet(const Setup& setup)
      : beta_(setup.job.get<double>("quantity-dirichlet.beta")),
        redraw_{.partitioner = "quantity-dirichlet",
                .parameter = message("beta=", beta_),
                .advice = ", or raise --quantity-dirichlet.beta",
                .min_samples = setup.job.get<int64_t>("partition.min-samples"),
                .retries = setup.job.get<int64_t>("partition.retries")} {}

  static PluginInfo describe() {
    return {.summary = "quantity skew: Dirichlet sizes, IID labels",
            .source =
                "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
                "study, ICDE 2022 (NIID-Bench, iid-diff-quantity)",
            .rule =
                "q ~ Dir(beta) over the clients; a random permutation of the samples is cut at the "
                "cumulated q. q is drawn again until every client holds partition.min-samples, at "
                "most partition.retries times.",
            .options = {{"beta",
                         Option::Type::kNumber,
                         {},
                         "concentration: 0.5 is strongly skewed, 100 nearly equal sizes",
                         more_than(0)}},
            .reads = {"partition.min-samples", "partition.retries"}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels), clients = request.clients;
    redraw_.check(n, clients);
    const std::vector<int64_t> order = rng.permutation(n);
    std::vector<int64_t> sizes;
    redraw_.until_enough(clients, [&] {
      sizes = draw_sizes(n, clients, rng);
      return std::count_if(sizes.begin(), sizes.end(),
                           [&](int64_t size) { return size < redraw_.min_samples; });
    });
    return cut(order, sizes);
  }

 private:
  // The size of each client's part of n samples: [clients].
  std::vector<int64_t> draw_sizes(int64_t n, int64_t clients, Rng& rng) const {
    std::vector<int64_t> sizes;
    double cumulated = 0;
    int64_t begin = 0;
    for (const double q : rng.dirichlet(beta_, clients)) {
      cumulated += q;
      const int64_t end = std::min(static_cast<int64_t>(cumulated * static_cast<double>(n)), n);
      sizes.push_back(end - begin);
      begin = end;
    }
    sizes.back() += n - begin;
    return sizes;
  }

  double beta_;
  Redraw redraw_;
};

FL_REGISTER(Partitioner, "quantity-dirichlet", QuantityDirichlet);

}  // namespace
}  // namespace fl_sim
