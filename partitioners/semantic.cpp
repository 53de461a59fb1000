// Semantic skew: clusters of similar samples are dealt out unevenly, whatever their labels are.
// Yuan, Morningstar, Ning, Singhal, "What do we mean by generalization in federated learning?",
// ICLR 2022 (semantic partitioning), with k-means on the inputs and the clusters dealt out as
// NIID-Bench deals classes.
#include "base/check.h"
#include "data/dealing.h"
#include "data/k_means.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Semantic final : public Partitioner {
 public:
  explicit Semantic(const Setup& setup)
      : k_(setup.job.get<int64_t>("semantic.k")),
        alpha_(setup.job.get<double>("semantic.alpha")),
        redraw_{.partitioner = "semantic",
                .parameter = message("alpha=", alpha_),
                .min_samples = setup.job.get<int64_t>("partition.min-samples"),
                .retries = setup.job.get<int64_t>("partition.retries")} {}

  static PluginInfo describe() {
    return {.summary = "feature skew: clusters of similar samples in Dirichlet proportions",
            .source =
                "Yuan, Morningstar, Ning, Singhal, What do we mean by generalization in federated "
                "learning?, ICLR 2022; Li et al., ICDE 2022 (how clusters are dealt out)",
            .rule =
                "The inputs, every number standardised, are clustered by k-means from k-means++ "
                "seeds: at most 20 steps on a random part of the samples (2^20 numbers, or 20 "
                "samples a cluster), then each sample goes to the nearest centre. Clusters are "
                "dealt out as `dirichlet` deals out classes (balanced), and drawn again until "
                "every client holds partition.min-samples, at most partition.retries times.",
            .options = {{"k", Option::Type::kInteger, {}, "clusters", between(1, 10000)},
                        {"alpha",
                         Option::Type::kNumber,
                         {},
                         "concentration: 0.1 is strongly skewed, 100 nearly IID",
                         more_than(0)}},
            .reads = {"partition.min-samples", "partition.retries"}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels);
    redraw_.check(n, request.clients);
    FL_CHECK(k_ <= n, "semantic.k is ", k_, " (must be at most ", n,
             ", the number of training samples)");
    FL_CHECK(request.inputs.defined() && request.inputs.numel() > 0,
             "semantic: there are no inputs to cluster; choose another partitioner, such as "
             "dirichlet");
    const std::vector<int64_t> clusters = k_means(request.inputs, k_, rng);
    return deal_by_dirichlet(alpha_, true, redraw_, clusters, k_, request.clients, rng);
  }

 private:
  int64_t k_;
  double alpha_;
  Redraw redraw_;
};

FL_REGISTER(Partitioner, "semantic", Semantic);

}  // namespace
}  // namespace fl_sim
