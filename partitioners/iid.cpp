// IID: the training set in random order, cut into equal parts.
// McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
// AISTATS 2017, section 3.
#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Iid final : public Partitioner {
 public:
  explicit Iid(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "equal random parts",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, section 3",
            .rule =
                "A random permutation of the samples, cut into parts whose sizes differ by at most "
                "one."};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = static_cast<int64_t>(request.labels.size());
    FL_CHECK(request.clients <= n, "iid: clients is ", request.clients, " (must be at most ", n,
             ", the number of training samples)");
    return cut(rng.permutation(n), equal_sizes(n, request.clients));
  }
};

FL_REGISTER(Partitioner, "iid", Iid);

}  // namespace
}  // namespace fl_sim
