// Label skew by count: exactly k classes a client, chosen in one of three ways.
// flwr-datasets, PathologicalPartitioner.
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Pathological final : public Partitioner {
 public:
  explicit Pathological(const Setup& setup)
      : k_(setup.job.get<int64_t>("pathological.k")),
        mode_(setup.job.get<std::string>("pathological.mode")) {}

  static PluginInfo describe() {
    return {
        .summary = "label skew: exactly k classes a client",
        .source =
            "Beutel et al., Flower: a friendly federated learning framework, 2020 "
            "(flwr-datasets, PathologicalPartitioner)",
        .rule =
            "Of the K classes that occur, client i gets k: any at random (mode random), classes "
            "i, i + 1, ..., i + k - 1 mod K (deterministic), or class i mod K and k - 1 others at "
            "random (first-deterministic). Each class, in random order, is cut into equal parts "
            "(sizes differ by at most one) for the clients that have it. Classes that no client "
            "has are left out of the training.",
        .options = {{"k", Option::Type::kInteger, {}, "classes that a client has", at_least(1)},
                    {"mode",
                     Option::Type::kText,
                     "random",
                     "how a client's classes are chosen",
                     {},
                     {"random", "deterministic", "first-deterministic"}}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    std::vector<std::vector<int64_t>> by_class = samples_by_class(request.labels, request.classes);
    std::erase_if(by_class, [](const auto& samples) { return samples.empty(); });
    const int64_t classes = std::ssize(by_class), clients = request.clients;
    FL_CHECK(k_ <= classes, "pathological.k is ", k_, " (must be 1 to ", classes,
             ", the number of classes that occur)");

    std::vector<std::vector<int64_t>> holders(by_class.size());  // of each class, ascending
    std::vector<int64_t> order(by_class.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    const int64_t given = mode_ == "random" ? 0 : mode_ == "deterministic" ? k_ : 1;
    for (int64_t client = 0; client < clients; ++client) {
      // The first k of `order` become the client's: those that are given, then random others.
      for (int64_t i = 0; i < k_; ++i) {
        const auto place = order.begin() + i;
        if (i < given) {
          std::iter_swap(place, std::find(place, order.end(), (client + i) % classes));
        } else {
          std::iter_swap(place, place + rng.below(classes - i));
        }
        holders[static_cast<size_t>(*place)].push_back(client);
      }
    }

    std::vector<std::vector<Share>> shares;
    for (size_t c = 0; c < by_class.size(); ++c) {
      const int64_t size = std::ssize(by_class[c]);
      FL_CHECK(std::ssize(holders[c]) <= size, "pathological: a class with ", size,
               " samples would have ", holders[c].size(), " holders of ", clients,
               " clients at k=", k_,
               ", and some of them no sample of it; lower the number of clients or "
               "--pathological.k");
      shares.push_back(equal_shares(size, holders[c]));
    }
    return deal_classes(std::move(by_class), shares, clients, rng);
  }

 private:
  int64_t k_;
  std::string mode_;
};

FL_REGISTER(Partitioner, "pathological", Pathological);

}  // namespace
}  // namespace fl_sim
