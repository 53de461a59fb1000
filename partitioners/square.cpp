// Quantity skew: the size of client i is in proportion to i^2.
// flwr-datasets, SquarePartitioner.
#include "by_size.h"

namespace fl_sim {
namespace {

class Square final : public Partitioner {
 public:
  explicit Square(const Setup&) {}

  static PluginInfo describe() {
    return {
        .summary = "quantity skew: sizes grow with the square of the client's number, IID labels",
        .source = kBySizeSource,
        .rule =
            "Client i, counted from 1, gets a share in proportion to i^2 of a random permutation "
            "of the samples. Sizes are rounded down; what that leaves over goes to the largest "
            "remainders."};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    return split_by_weight(
        "square",
        [](int64_t i, int64_t) { return static_cast<double>(i) * static_cast<double>(i); }, request,
        rng);
  }
};

FL_REGISTER(Partitioner, "square", Square);

}  // namespace
}  // namespace fl_sim
