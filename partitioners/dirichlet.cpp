// Dirichlet label skew: every class is dealt out in random proportions of its own.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's noniid-labeldir), after Yurochkin et al., "Bayesian nonparametric federated
// learning of neural networks", ICML 2019.
#include <algorithm>

#include "check.h"
#include "partitioner.h"

namespace fl_sim {
namespace {

class Dirichlet final : public Partitioner {
 public:
  explicit Dirichlet(const Setup& setup)
      : alpha_(setup.job.get<double>("dirichlet.alpha")),
        balanced_(setup.job.get<bool>("dirichlet.balanced")),
        min_samples_(setup.job.get<int64_t>("partition.min-samples")),
        retries_(setup.job.get<int64_t>("partition.retries")) {}

  static PluginInfo describe() {
    return {.summary = "label skew: each class in Dirichlet proportions",
            .source =
                "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
                "study, ICDE 2022 (NIID-Bench, noniid-labeldir)",
            .rule =
                "For each class p ~ Dir(alpha) over the clients; with `balanced`, clients that "
                "already hold samples / clients or more get p = 0 and the rest is rescaled. The "
                "class, in random order, is cut at the cumulated p. All classes are drawn again "
                "until every client holds partition.min-samples, at most partition.retries times.",
            .options = {{"alpha",
                         Option::Type::kNumber,
                         {},
                         "concentration: 0.1 is strongly skewed, 100 nearly IID",
                         more_than(0)},
                        {"balanced", Option::Type::kFlag, "true",
                         "leave out clients that already have their equal share of samples"}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = static_cast<int64_t>(request.labels.size()), clients = request.clients;
    FL_CHECK(min_samples_ <= n / clients, "dirichlet: ", clients, " clients cannot hold ",
             min_samples_, " samples each, there are ", n,
             "; lower --partition.min-samples or the number of clients");
    std::vector<std::vector<int64_t>> by_class(request.classes);
    for (int64_t i = 0; i < n; ++i) by_class[request.labels[i]].push_back(i);

    int64_t fewest_short = clients;  // in the best draw, clients that hold less than they must
    for (int64_t draw = 0; draw < retries_; ++draw) {
      const std::vector<std::vector<int64_t>> counts = draw_counts(by_class, n, clients, rng);
      int64_t short_clients = 0;
      for (int64_t k = 0; k < clients; ++k) {
        int64_t held = 0;
        for (const std::vector<int64_t>& of_class : counts) held += of_class[k];
        if (held < min_samples_) ++short_clients;
      }
      if (short_clients == 0) return deal(std::move(by_class), counts, clients, rng);
      fewest_short = std::min(fewest_short, short_clients);
    }
    throw Error(message("dirichlet: ", fewest_short, " of ", clients,
                        " clients would hold fewer than ", min_samples_, " samples after ",
                        retries_, " draws at alpha=", alpha_,
                        "; lower --partition.min-samples or the number of clients"));
  }

 private:
  // How many samples of each class each client gets: [classes][clients].
  std::vector<std::vector<int64_t>> draw_counts(const std::vector<std::vector<int64_t>>& by_class,
                                                int64_t n, int64_t clients, Rng& rng) const {
    std::vector<std::vector<int64_t>> counts(by_class.size(), std::vector<int64_t>(clients));
    std::vector<int64_t> held(clients);
    for (size_t c = 0; c < by_class.size(); ++c) {
      const int64_t size = static_cast<int64_t>(by_class[c].size());
      if (size == 0) continue;
      std::vector<int64_t>
          open;  // not empty: somebody holds less than the mean while samples remain
      for (int64_t k = 0; k < clients; ++k) {
        if (!balanced_ || held[k] * clients < n) open.push_back(k);
      }
      // Some components of a Dir(alpha) draw, rescaled to sum 1, are themselves Dir(alpha); drawing
      // them directly cannot end in 0/0 where a small alpha put all the mass on the clients that
      // are left out.
      const std::vector<double> p = rng.dirichlet(alpha_, static_cast<int64_t>(open.size()));
      double cumulated = 0;
      int64_t begin = 0;
      for (size_t i = 0; i < open.size(); ++i) {
        cumulated += p[i];
        const int64_t cut = static_cast<int64_t>(cumulated * static_cast<double>(size));
        const int64_t end = i + 1 == open.size() ? size : std::min(cut, size);
        counts[c][open[i]] = end - begin;
        held[open[i]] += end - begin;
        begin = end;
      }
    }
    return counts;
  }

  static Partition deal(std::vector<std::vector<int64_t>> by_class,
                        const std::vector<std::vector<int64_t>>& counts, int64_t clients,
                        Rng& rng) {
    std::vector<std::vector<int64_t>> lists(clients);
    for (size_t c = 0; c < by_class.size(); ++c) {
      rng.shuffle(std::span(by_class[c]));
      auto next = by_class[c].begin();
      for (int64_t k = 0; k < clients; ++k) {
        lists[k].insert(lists[k].end(), next, next + counts[c][k]);
        next += counts[c][k];
      }
    }
    return make_partition(std::move(lists));
  }

  double alpha_;
  bool balanced_;
  int64_t min_samples_, retries_;
};

FL_REGISTER(Partitioner, "dirichlet", Dirichlet);

}  // namespace
}  // namespace fl_sim
