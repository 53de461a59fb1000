// Quantity skew: sizes from a lognormal distribution, IID labels.
// Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks",
// MLSys 2020 (FedProx: sizes of its synthetic sets are lognormal(4, 2) plus 50); Zeng et al.,
// "FedLab: a flexible federated learning framework", JMLR 2023 (lognormal_unbalance_split).
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Lognormal final : public Partitioner {
 public:
  explicit Lognormal(const Setup& setup)
      : sigma_(setup.job.get<double>("lognormal.sigma")),
        all_(setup.job.get<bool>("lognormal.all")),
        mu_(all_ ? 0 : setup.job.get<double>("lognormal.mu")),
        least_(setup.job.get<int64_t>("partition.min-samples")) {}

  static PluginInfo describe() {
    return {
        .summary = "quantity skew: lognormal sizes, IID labels",
        .source =
            "Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated optimization in heterogeneous "
            "networks, MLSys 2020 (FedProx); Zeng et al., FedLab: a flexible federated learning "
            "framework, JMLR 2023",
        .rule =
            "Client i draws w = exp(sigma z), z normal. Every client gets partition.min-samples, "
            "and what is left of the training set is dealt out in proportion to w (FedLab). With "
            "all = false a client gets partition.min-samples and exp(mu + sigma z) more, rounded "
            "down, as FedProx's synthetic sets have it (4, 2 and 50); the rest is nobody's. Which "
            "samples these are is random.",
        .options =
            {{"sigma",
              Option::Type::kNumber,
              {},
              "standard deviation of the logarithm of a size: 0 is equal sizes, 2 strongly skewed",
              between(0, 20)},
             {"all", Option::Type::kFlag, "true", "deal out the whole training set"},
             {"mu",
              Option::Type::kNumber,
              {},
              "mean of the logarithm of a size",
              between(-50, 50),
              {},
              {"lognormal.all", {"false"}}}},
        .reads = {"partition.min-samples"}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels), clients = request.clients;
    FL_CHECK(least_ <= n / clients, "lognormal: ", clients, " clients cannot hold ", least_,
             " samples each, there are ", n,
             "; lower --partition.min-samples or the number of clients");
    std::vector<double> weights(static_cast<size_t>(clients));
    for (double& weight : weights) weight = std::exp(mu_ + sigma_ * rng.normal());
    if (all_) return cut(rng.permutation(n), sizes_in_proportion(weights, n, least_));

    double total = 0;  // may exceed any integer
    for (double& weight : weights)
      total += weight = static_cast<double>(least_) + std::floor(weight);
    FL_CHECK(total <= static_cast<double>(n), "lognormal: ", clients, " clients with sizes of ",
             least_, " + exp(", mu_, " + ", sigma_, " z) would need ", total,
             " samples, there are ", n,
             "; lower --lognormal.mu, --lognormal.sigma or the number of clients, or leave out "
             "--lognormal.all");
    const std::vector<int64_t> sizes(weights.begin(), weights.end());
    return cut(rng.permutation(n), sizes);
  }

 private:
  double sigma_;
  bool all_;
  double mu_;
  int64_t least_;
};

FL_REGISTER(Partitioner, "lognormal", Lognormal);

}  // namespace
}  // namespace fl_sim
