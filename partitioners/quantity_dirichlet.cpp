// Quantity skew: clients differ in how much they hold, not in what.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's iid-diff-quantity).
#include <algorithm>

#include "check.h"
#include "partitioner.h"

namespace fl_sim {
namespace {

class QuantityDirichlet final : public Partitioner {
 public:
  explicit QuantityDirichlet(const Setup& setup)
      : beta_(setup.job.get<double>("quantity-dirichlet.beta")),
        min_samples_(setup.job.get<int64_t>("partition.min-samples")),
        retries_(setup.job.get<int64_t>("partition.retries")) {}

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
                         more_than(0)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = static_cast<int64_t>(request.labels.size()), clients = request.clients;
    FL_CHECK(min_samples_ <= n / clients, "quantity-dirichlet: ", clients, " clients cannot hold ",
             min_samples_, " samples each, there are ", n,
             "; lower --partition.min-samples or the number of clients");
    const std::vector<int64_t> order = rng.permutation(n);
    int64_t fewest_short = clients;  // in the best draw, clients that hold less than they must
    for (int64_t draw = 0; draw < retries_; ++draw) {
      const std::vector<int64_t> ends = draw_ends(n, clients, rng);
      int64_t short_clients = 0;
      for (int64_t k = 0; k < clients; ++k) {
        if (ends[k] - (k > 0 ? ends[k - 1] : 0) < min_samples_) ++short_clients;
      }
      fewest_short = std::min(fewest_short, short_clients);
      if (short_clients > 0) continue;
      std::vector<std::vector<int64_t>> lists(clients);
      for (int64_t k = 0; k < clients; ++k) {
        lists[k].assign(order.begin() + (k > 0 ? ends[k - 1] : 0), order.begin() + ends[k]);
      }
      return make_partition(std::move(lists));
    }
    throw Error(message("quantity-dirichlet: ", fewest_short, " of ", clients,
                        " clients would hold fewer than ", min_samples_, " samples after ",
                        retries_, " draws at beta=", beta_,
                        "; lower --partition.min-samples or the number of clients, or raise "
                        "--quantity-dirichlet.beta"));
  }

 private:
  // Where each client's part of n samples ends: [clients].
  std::vector<int64_t> draw_ends(int64_t n, int64_t clients, Rng& rng) const {
    const std::vector<double> q = rng.dirichlet(beta_, clients);
    std::vector<int64_t> ends(clients);
    double cumulated = 0;
    for (int64_t k = 0; k < clients; ++k) {
      cumulated += q[k];
      ends[k] = std::min(static_cast<int64_t>(cumulated * static_cast<double>(n)), n);
    }
    ends.back() = n;
    return ends;
  }

  double beta_;
  int64_t min_samples_, retries_;
};

FL_REGISTER(Partitioner, "quantity-dirichlet", QuantityDirichlet);

}  // namespace
}  // namespace fl_sim
