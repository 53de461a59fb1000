// Quantity skew: sizes from a power law, IID labels.
// Meta's FLSim, PowerLawSharder: a client's weight is a draw of numpy.random.power.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Powerlaw final : public Partitioner {
 public:
  explicit Powerlaw(const Setup& setup)
      : exponent_(setup.job.get<double>("powerlaw.exponent")),
        least_(setup.job.get<int64_t>("partition.min-samples")) {}

  static PluginInfo describe() {
    return {
        .summary = "quantity skew: power-law sizes, IID labels",
        .source = "Meta's FLSim (PowerLawSharder), 2021",
        .rule =
            "Client i draws w in [0, 1] with density a w^(a-1), which is u^(1/a) of a uniform u. "
            "Every client gets partition.min-samples, and what is left of the training set is "
            "dealt out in proportion to w. Which samples these are is random.",
        .options = {{"exponent",
                     Option::Type::kNumber,
                     {},
                     "the law's a: 0.2 is strongly skewed, 1 uniform weights",
                     {.low = 0, .high = 100, .open_low = true}}},
        .reads = {"partition.min-samples"}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels), clients = request.clients;
    FL_CHECK(least_ <= n / clients, "powerlaw: ", clients, " clients cannot hold ", least_,
             " samples each, there are ", n,
             "; lower --partition.min-samples or the number of clients");
    std::vector<double> logarithms(static_cast<size_t>(clients));
    for (double& value : logarithms) value = std::log(1 - rng.uniform()) / exponent_;
    // Only proportions count: against the largest, so that a small exponent leaves no 0 / 0.
    const double largest = *std::max_element(logarithms.begin(), logarithms.end());
    std::vector<double> weights;
    for (const double value : logarithms) weights.push_back(std::exp(value - largest));
    return cut(rng.permutation(n), sizes_in_proportion(weights, n, least_));
  }

 private:
  double exponent_;
  int64_t least_;
};

FL_REGISTER(Partitioner, "powerlaw", Powerlaw);

}  // namespace
}  // namespace fl_sim
