// Label skew client by client: each has a label mix of its own, and all have the same size.
// Zeng et al., "FedLab: a flexible federated learning framework", JMLR 2023
// (client_inner_dirichlet_partition); Acar et al., "Federated learning based on dynamic
// regularization", ICLR 2021, split their data in this way.
#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class InnerDirichlet final : public Partitioner {
 public:
  explicit InnerDirichlet(const Setup& setup)
      : alpha_(setup.job.get<double>("inner-dirichlet.alpha")),
        size_(setup.job.get<int64_t>("inner-dirichlet.size")) {}

  static PluginInfo describe() {
    return {
        .summary = "label skew: a Dirichlet label mix for each client, all of one size",
        .source =
            "Zeng et al., FedLab: a flexible federated learning framework, JMLR 2023; Acar et "
            "al., Federated learning based on dynamic regularization, ICLR 2021",
        .rule =
            "Client k draws a label mix p_k ~ Dir(alpha). Clients take one sample after the other, "
            "in random turns, until each has `size`: a class by p_k, and of its samples that are "
            "left a random one. Once a class is used up, mixes are renormalised over the others; "
            "a client whose mix has nothing there draws a new one over them, which has the same "
            "distribution.",
        .options = {
            {"alpha",
             Option::Type::kNumber,
             {},
             "concentration: 0.1 is strongly skewed, 100 nearly the same mix for all",
             more_than(0)},
            {"size", Option::Type::kInteger, "0",
             "samples of each client; 0: an equal share of all, rounded down", at_least(0)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels), clients = request.clients;
    FL_CHECK(clients <= n, "inner-dirichlet: clients is ", clients, " (must be at most ", n,
             ", the number of training samples)");
    const int64_t size = size_ > 0 ? size_ : n / clients;
    FL_CHECK(size <= n / clients, "inner-dirichlet: ", clients, " clients cannot hold ", size,
             " samples each, there are ", n,
             "; lower --inner-dirichlet.size or the number of clients");

    std::vector<std::vector<int64_t>> pools(static_cast<size_t>(request.classes));
    for (const int64_t index : rng.permutation(n))
      pools[static_cast<size_t>(request.labels[static_cast<size_t>(index)])].push_back(index);
    std::erase_if(pools, [](const auto& pool) { return pool.empty(); });

    std::vector<std::vector<double>> mixes(static_cast<size_t>(clients));
    for (std::vector<double>& mix : mixes) mix = rng.dirichlet(alpha_, std::ssize(pools));
    std::vector<int64_t> turns(static_cast<size_t>(clients * size));
    for (size_t i = 0; i < turns.size(); ++i) turns[i] = static_cast<int64_t>(i) / size;
    rng.shuffle(std::span(turns));

    std::vector<std::vector<int64_t>> lists(static_cast<size_t>(clients));
    const auto left = [&](size_t c) { return !pools[c].empty(); };
    for (const int64_t client : turns) {
      std::vector<int64_t>& pool =
          pools[draw_among(mixes[static_cast<size_t>(client)], left, alpha_, rng)];
      lists[static_cast<size_t>(client)].push_back(pool.back());
      pool.pop_back();
    }
    return make_partition(std::move(lists));
  }

 private:
  double alpha_;
  int64_t size_;
};

FL_REGISTER(Partitioner, "inner-dirichlet", InnerDirichlet);

}  // namespace
}  // namespace fl_sim
