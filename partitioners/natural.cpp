// Natural: one client per user, writer or hospital of the data set.
// Caldas et al., "LEAF: a benchmark for federated settings", 2018.
#include <algorithm>

#include "check.h"
#include "partitioner.h"

namespace fl_sim {
namespace {

class Natural final : public Partitioner {
 public:
  explicit Natural(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "one client per user of the data set",
            .source = "Caldas et al., LEAF: a benchmark for federated settings, 2018",
            .rule = "Each client holds what its user, writer or hospital has in the data set."};
  }

  Partition split(const PartitionRequest& request, Rng&) const override {
    FL_CHECK(!request.owners.empty(),
             "natural: this data set does not say who owns a sample; choose another partitioner "
             "(fl_sim --list partitioners) or a data set with users");
    const int64_t owners = *std::max_element(request.owners.begin(), request.owners.end()) + 1;
    FL_CHECK(request.clients == owners, "natural: clients is ", request.clients, " (must be ",
             owners, ", the number of users in the data set, or auto)");
    return partition_by_holder(request.owners, owners);
  }
};

FL_REGISTER(Partitioner, "natural", Natural);

}  // namespace
}  // namespace fl_sim
