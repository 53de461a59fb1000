// Vertical: clients see different columns of their rows.
// flwr-datasets, VerticalEvenPartitioner, for one model that all clients share.
#include <algorithm>
#include <functional>
#include <numeric>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Vertical final : public Partitioner {
 public:
  explicit Vertical(const Setup& setup) : blocks_(setup.job.get<int64_t>("vertical.blocks")) {}

  static PluginInfo describe() {
    return {
        .summary = "equal random parts, of which each client sees a block of columns only",
        .source =
            "Beutel et al., Flower: a friendly federated learning framework, 2020 "
            "(flwr-datasets, VerticalEvenPartitioner: the columns' blocks)",
        .rule =
            "A random permutation of the samples is cut into parts whose sizes differ by at most "
            "one. The numbers of a sample, in memory's order, are cut into contiguous blocks whose "
            "sizes differ by at most one; client i sees block i mod blocks, and 0 elsewhere. This "
            "is not split learning: rows are not shared, no activations travel, and all clients "
            "train one model of the whole width, each with the columns that it has.",
        .options = {{"blocks", Option::Type::kInteger, "0",
                     "blocks of columns; 0: one for each client", at_least(0)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.clients <= n, "vertical: clients is ", request.clients, " (must be at most ",
             n, ", the number of training samples)");
    FL_CHECK(request.inputs.defined() && request.inputs.size(0) > 0,
             "vertical: there are no inputs whose columns could be dealt out");
    check_blocks(request.clients, request.inputs.numel() / request.inputs.size(0));
    return cut(rng.permutation(n), equal_sizes(n, request.clients));
  }

  ClientView view(int64_t client, int64_t clients,
                  const std::vector<int64_t>& shape) const override {
    const int64_t columns =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    check_blocks(clients, columns);
    const int64_t blocks = blocks_ > 0 ? blocks_ : clients, block = client % blocks;
    const int64_t size = columns / blocks, longer = columns % blocks;  // the first `longer` blocks
    const int64_t begin = block * size + std::min(block, longer);
    torch::Tensor mask = torch::zeros({columns});
    mask.narrow(0, begin, size + (block < longer ? 1 : 0)).fill_(1);
    return {.mask = mask.reshape(shape)};
  }
  bool has_views() const override { return true; }

 private:
  void check_blocks(int64_t clients, int64_t columns) const {
    const int64_t blocks = blocks_ > 0 ? blocks_ : clients;
    FL_CHECK(blocks <= columns, "vertical: there are ", columns, " columns for ", blocks,
             " blocks of them (each block needs one); set --vertical.blocks to at most ", columns,
             blocks_ > 0 ? "" : " or lower the number of clients");
    FL_CHECK(blocks <= clients, "vertical: there are ", blocks, " blocks of columns for ", clients,
             " clients, so nobody would see some; set --vertical.blocks to at most ", clients);
  }

  int64_t blocks_;
};

FL_REGISTER(Partitioner, "vertical", Vertical);

}  // namespace
}  // namespace fl_sim
