// Dirichlet label skew: every class is dealt out in random proportions of its own.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's noniid-labeldir), after Yurochkin et al., "Bayesian nonparametric federated
// learning of neural networks", ICML 2019.
#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Dirichlet final : public Partitioner {
 public:
  explicit Dirichlet(const Setup& setup)
      : alpha_(setup.job.get<double>("dirichlet.alpha")),
        balanced_(setup.job.get<bool>("dirichlet.balanced")),
        redraw_{.partitioner = "dirichlet",
                .parameter = message("alpha=", alpha_),
                .min_samples = setup.job.get<int64_t>("partition.min-samples"),
                .retries = setup.job.get<int64_t>("partition.retries")} {}

  static PluginInfo describe() {
    return {.summary = "label skew: each class in Dirichlet proportions",
            .source =
                "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
                "study, ICDE 2022 (NIID-Bench, noniid-labeldir)",
            .rule =
                "For each class p ~ Dir(alpha) over the clients; with `balanced`, clients that "
                "already hold samples / clients or more get p = 0 and the rest is rescaled. The "
                "class, in random order, is cut at the cumulated p. All classes are drawn again "
                "until every client holds partition.min-samples, at most partition.retries times.",
            .options = {{"alpha",
                         Option::Type::kNumber,
                         {},
                         "concentration: 0.1 is strongly skewed, 100 nearly IID",
                         more_than(0)},
                        {"balanced", Option::Type::kFlag, "true",
                         "leave out clients that already have their equal share of samples"}},
            .reads = {"partition.min-samples", "partition.retries"}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    return deal_by_dirichlet(alpha_, balanced_, redraw_, request.labels, request.classes,
                             request.clients, rng);
  }

 private:
  double alpha_;
  bool balanced_;
  Redraw redraw_;
};

FL_REGISTER(Partitioner, "dirichlet", Dirichlet);

}  // namespace
}  // namespace fl_sim
