// Quantity skew: the size of client i is in proportion to i.
// flwr-datasets, LinearPartitioner.
#include "by_size.h"

namespace fl_sim {
namespace {

class Linear final : public Partitioner {
 public:
  explicit Linear(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "quantity skew: sizes grow linearly, IID labels",
            .source = kBySizeSource,
            .rule =
                "Client i, counted from 1, gets a share in proportion to i of a random permutation "
                "of the samples. Sizes are rounded down; what that leaves over goes to the largest "
                "remainders."};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    return split_by_weight(
        "linear", [](int64_t i, int64_t) { return static_cast<double>(i); }, request, rng);
  }
};

FL_REGISTER(Partitioner, "linear", Linear);

}  // namespace
}  // namespace fl_sim
