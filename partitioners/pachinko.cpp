// Pachinko allocation: a client draws few coarse classes and, within each, fine ones.
// Reddi et al., "Adaptive federated optimization", ICLR 2021, appendix (the split of CIFAR-100),
// after Li and McCallum, "Pachinko allocation", ICML 2006.
#include <algorithm>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Pachinko final : public Partitioner {
 public:
  explicit Pachinko(const Setup& setup)
      : alpha_(setup.job.get<double>("pachinko.alpha")),
        beta_(setup.job.get<double>("pachinko.beta")),
        size_(setup.job.get<int64_t>("pachinko.size")) {}

  static PluginInfo describe() {
    return {
        .summary =
            "label skew: a Dirichlet mix of coarse classes, and one of the fine ones in each",
        .source =
            "Reddi et al., Adaptive federated optimization, ICLR 2021, appendix; Li and "
            "McCallum, Pachinko allocation, ICML 2006",
        .rule =
            "One client after the other draws a mix of coarse classes from Dir(alpha) and, for "
            "each of these, a mix of its fine classes from Dir(beta). For each of its `size` "
            "samples it draws a coarse class, a fine class in it, and one of the samples that are "
            "left there. Fine and coarse classes that are used up are taken out of the mixes, "
            "which are renormalised; a mix that has nothing elsewhere is drawn anew over what is "
            "left, which has the same distribution.",
        .options = {
            {"alpha",
             Option::Type::kNumber,
             {},
             "concentration over coarse classes: 0.1 in the paper",
             more_than(0)},
            {"beta",
             Option::Type::kNumber,
             {},
             "concentration over a coarse class's fine classes: 10 in the paper",
             more_than(0)},
            {"size", Option::Type::kInteger, "0",
             "samples of each client; 0: an equal share of all, rounded down", at_least(0)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels), clients = request.clients;
    FL_CHECK(!request.coarse.empty(),
             "pachinko: this data set has no coarse classes (CIFAR-100 has); choose another "
             "partitioner, such as dirichlet or inner-dirichlet");
    FL_CHECK(clients <= n, "pachinko: clients is ", clients, " (must be at most ", n,
             ", the number of training samples)");
    const int64_t size = size_ > 0 ? size_ : n / clients;
    FL_CHECK(size <= n / clients, "pachinko: ", clients, " clients cannot hold ", size,
             " samples each, there are ", n, "; lower --pachinko.size or the number of clients");

    std::vector<Coarse> tree = build_tree(request, rng);
    std::vector<std::vector<int64_t>> lists(static_cast<size_t>(clients));
    for (std::vector<int64_t>& list : lists) {
      std::vector<double> mix = rng.dirichlet(alpha_, std::ssize(tree));
      std::vector<std::vector<double>> fine(tree.size());  // drawn once it is needed
      for (int64_t i = 0; i < size; ++i) {
        const size_t c = draw_among(
            mix, [&](size_t k) { return tree[k].left > 0; }, alpha_, rng);
        Coarse& coarse = tree[c];
        if (fine[c].empty()) fine[c] = rng.dirichlet(beta_, std::ssize(coarse.pools));
        const size_t f = draw_among(
            fine[c], [&](size_t k) { return !coarse.pools[k].empty(); }, beta_, rng);
        list.push_back(coarse.pools[f].back());
        coarse.pools[f].pop_back();
        --coarse.left;
      }
    }
    return make_partition(std::move(lists));
  }

 private:
  // A coarse class: the samples of its fine classes, each in random order.
  struct Coarse {
    std::vector<std::vector<int64_t>> pools;
    int64_t left = 0;
  };

  // The coarse classes that occur.
  static std::vector<Coarse> build_tree(const PartitionRequest& request, Rng& rng) {
    constexpr int64_t kNone = -1;
    std::vector<int64_t> coarse_of(static_cast<size_t>(request.classes), kNone);
    std::vector<std::vector<int64_t>> by_fine(static_cast<size_t>(request.classes));
    int64_t coarse_classes = 0;
    for (const int64_t index : rng.permutation(std::ssize(request.labels))) {
      const auto i = static_cast<size_t>(index);
      const auto fine = static_cast<size_t>(request.labels[i]);
      FL_CHECK(coarse_of[fine] == kNone || coarse_of[fine] == request.coarse[i],
               "pachinko: samples of class ", fine, " are in coarse classes ", coarse_of[fine],
               " and ", request.coarse[i], " (a class must belong to one)");
      coarse_of[fine] = request.coarse[i];
      coarse_classes = std::max(coarse_classes, request.coarse[i] + 1);
      by_fine[fine].push_back(index);
    }
    std::vector<Coarse> tree(static_cast<size_t>(coarse_classes));
    for (size_t fine = 0; fine < by_fine.size(); ++fine) {
      if (by_fine[fine].empty()) continue;
      Coarse& coarse = tree[static_cast<size_t>(coarse_of[fine])];
      coarse.left += std::ssize(by_fine[fine]);
      coarse.pools.push_back(std::move(by_fine[fine]));
    }
    std::erase_if(tree, [](const Coarse& coarse) { return coarse.left == 0; });
    return tree;
  }

  double alpha_, beta_;
  int64_t size_;
};

FL_REGISTER(Partitioner, "pachinko", Pachinko);

}  // namespace
}  // namespace fl_sim
