// Quantity skew: the size of client i is in proportion to e^i.
// flwr-datasets, ExponentialPartitioner.
#include <cmath>

#include "by_size.h"

namespace fl_sim {
namespace {

class Exponential final : public Partitioner {
 public:
  explicit Exponential(const Setup&) {}

  static PluginInfo describe() {
    return {
        .summary = "quantity skew: sizes grow exponentially, IID labels",
        .source = kBySizeSource,
        .rule =
            "Client i, counted from 1, gets a share in proportion to e^i of a random permutation "
            "of the samples. Sizes are rounded down; what that leaves over goes to the largest "
            "remainders."};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    return split_by_weight(
        "exponential",
        [](int64_t i, int64_t clients) { return std::exp(static_cast<double>(i - clients)); },
        request, rng);
  }
};

FL_REGISTER(Partitioner, "exponential", Exponential);

}  // namespace
}  // namespace fl_sim
