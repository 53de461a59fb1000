// Natural: one client per user, writer or hospital of the data set.
// Caldas et al., "LEAF: a benchmark for federated settings", 2018.
#include <algorithm>

#include "base/check.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Natural final : public Partitioner {
 public:
  explicit Natural(const Setup& setup) : group_(setup.job.get<int64_t>("natural.group")) {}

  static PluginInfo describe() {
    return {.summary = "one client per user of the data set",
            .source = "Caldas et al., LEAF: a benchmark for federated settings, 2018",
            .rule =
                "Each client holds what its user, writer or hospital has in the data set. With "
                "`group`, that many users, who follow one another in the data set, are one client "
                "(the last client may be fewer). `clients = auto` is the number that this makes.",
            .options = {{"group", Option::Type::kInteger, "1", "users that make up one client",
                         at_least(1)}}};
  }

  std::optional<int64_t> own_clients(std::span<const int64_t> owners) const override {
    if (owners.empty()) return {};
    const int64_t users = *std::max_element(owners.begin(), owners.end()) + 1;
    return (users - 1) / group_ + 1;
  }

  Partition split(const PartitionRequest& request, Rng&) const override {
    FL_CHECK(!request.owners.empty(),
             "natural: this data set does not say who owns a sample; choose another partitioner "
             "(fl_sim --list partitioners) or a data set with users");
    const int64_t clients = own_clients(request.owners).value();
    FL_CHECK(request.clients == clients, "natural: clients is ", request.clients, " (must be ",
             clients, ", the number of users in the data set",
             group_ > 1 ? message(" over natural.group, ", group_, ", rounded up") : "",
             ", or auto)");
    if (group_ == 1) return partition_by_holder(request.owners, clients);
    std::vector<int64_t> holders;
    for (const int64_t owner : request.owners) holders.push_back(owner / group_);
    return partition_by_holder(holders, clients);
  }

 private:
  int64_t group_;
};

FL_REGISTER(Partitioner, "natural", Natural);

}  // namespace
}  // namespace fl_sim
