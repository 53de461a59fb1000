// Contiguous: the training set in file order, cut into equal runs.
// The Flower tutorial's numpy.array_split; flwr-datasets does the same to a set that is not
// shuffled.
#include <numeric>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Contiguous final : public Partitioner {
 public:
  explicit Contiguous(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "equal runs in file order",
            .source =
                "Beutel et al., Flower: a friendly federated learning framework, 2020 (the "
                "tutorial's array_split)",
            .rule =
                "The samples in file order are cut into runs whose sizes differ by at most one, "
                "the longer ones first. Nothing is random: a file sorted by label gives each "
                "client few labels."};
  }

  Partition split(const PartitionRequest& request, Rng&) const override {
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.clients <= n, "contiguous: clients is ", request.clients, " (must be at most ",
             n, ", the number of training samples)");
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), int64_t{0});
    return cut(order, equal_sizes(n, request.clients));
  }
};

FL_REGISTER(Partitioner, "contiguous", Contiguous);

}  // namespace
}  // namespace fl_sim
