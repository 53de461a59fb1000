// Pathological label skew by shards: most clients see `per-client` classes only.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, section 3: "sort the data by digit label, divide it into 200 shards of size 300,
// and assign each of 100 clients 2 shards".
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Shards final : public Partitioner {
 public:
  explicit Shards(const Setup& setup) : per_client_(setup.job.get<int64_t>("shards.per-client")) {}

  static PluginInfo describe() {
    return {.summary = "label-sorted shards, a few to each client",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3",
            .rule =
                "Samples are sorted by label and cut into clients * per-client shards whose sizes "
                "differ by at most one; each client gets per-client shards at random.",
            .options = {{"per-client", Option::Type::kInteger, "2", "shards that a client gets",
                         at_least(1)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = static_cast<int64_t>(request.labels.size());
    FL_CHECK(per_client_ <= n / request.clients, "shards: ", request.clients, " clients with ",
             per_client_, " shards each need more shards than there are training samples (", n,
             "); lower --shards.per-client or the number of clients");
    std::vector<int64_t> sorted(n);
    std::iota(sorted.begin(), sorted.end(), int64_t{0});
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int64_t a, int64_t b) { return request.labels[a] < request.labels[b]; });

    const int64_t shards = request.clients * per_client_;
    const std::vector<int64_t> order = rng.permutation(shards);
    std::vector<std::vector<int64_t>> lists(request.clients);
    for (int64_t i = 0; i < shards; ++i) {
      const int64_t shard = order[i];
      std::vector<int64_t>& list = lists[i / per_client_];
      list.insert(list.end(), sorted.begin() + shard * n / shards,
                  sorted.begin() + (shard + 1) * n / shards);
    }
    return make_partition(std::move(lists));
  }

 private:
  int64_t per_client_;
};

FL_REGISTER(Partitioner, "shards", Shards);

}  // namespace
}  // namespace fl_sim
