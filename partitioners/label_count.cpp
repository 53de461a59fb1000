// Label skew by count: a client sees k classes only (#C = k).
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's noniid-#labelk).
#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class LabelCount final : public Partitioner {
 public:
  explicit LabelCount(const Setup& setup) : k_(setup.job.get<int64_t>("label-count.k")) {}

  static PluginInfo describe() {
    return {
        .summary = "label skew: k classes a client",
        .source =
            "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
            "study, ICDE 2022 (NIID-Bench, #C = k)",
        .rule =
            "Client i gets class i mod K and k - 1 other classes at random. Each class, in random "
            "order, is cut into equal parts (sizes differ by at most one) for the clients that "
            "have it. Classes that no client has are left out of the training.",
        .options = {{"k", Option::Type::kInteger, {}, "classes that a client has", at_least(1)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t clients = request.clients, classes = request.classes;
    FL_CHECK(k_ <= classes, "label-count.k is ", k_, " (must be 1 to ", classes,
             ", the number of classes)");
    std::vector<std::vector<int64_t>> holders(classes);  // of each class, ascending
    for (int64_t client = 0; client < clients; ++client) {
      const int64_t own = client % classes;
      std::vector<int64_t> others;
      for (int64_t c = 0; c < classes; ++c) {
        if (c != own) others.push_back(c);
      }
      rng.shuffle(std::span(others));
      holders[own].push_back(client);
      for (int64_t i = 0; i < k_ - 1; ++i) holders[others[i]].push_back(client);
    }

    std::vector<std::vector<int64_t>> by_class = samples_by_class(request.labels, classes);
    std::vector<std::vector<Share>> shares;
    for (size_t c = 0; c < by_class.size(); ++c)
      shares.push_back(equal_shares(std::ssize(by_class[c]), holders[c]));
    const int64_t empty = short_of(shares, clients, 1);
    FL_CHECK(
        empty == 0, "label-count: ", empty, " of ", clients,
        " clients would hold no sample at k=", k_,
        ", because their classes have fewer samples than holders; lower the number of clients ",
        "or raise --label-count.k");
    return deal_classes(std::move(by_class), shares, clients, rng);
  }

 private:
  int64_t k_;
};

FL_REGISTER(Partitioner, "label-count", LabelCount);

}  // namespace
}  // namespace fl_sim
