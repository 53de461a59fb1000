// Label skew by count: a client sees k classes only (#C = k).
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's noniid-#labelk).
#include <algorithm>

#include "check.h"
#include "partitioner.h"

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

    std::vector<std::vector<int64_t>> by_class(classes);
    for (size_t i = 0; i < request.labels.size(); ++i) {
      by_class[request.labels[i]].push_back(static_cast<int64_t>(i));
    }
    std::vector<std::vector<int64_t>> lists(clients);
    for (int64_t c = 0; c < classes; ++c) {
      const int64_t parts = static_cast<int64_t>(holders[c].size());
      if (parts == 0) continue;
      rng.shuffle(std::span(by_class[c]));
      const int64_t size = static_cast<int64_t>(by_class[c].size());
      auto next = by_class[c].begin();
      for (int64_t part = 0; part < parts; ++part) {
        const auto end = next + size / parts + (part < size % parts ? 1 : 0);
        std::vector<int64_t>& list = lists[holders[c][part]];
        list.insert(list.end(), next, end);
        next = end;
      }
    }
    const int64_t empty =
        std::count_if(lists.begin(), lists.end(), [](const auto& l) { return l.empty(); });
    FL_CHECK(
        empty == 0, "label-count: ", empty, " of ", clients,
        " clients would hold no sample at k=", k_,
        ", because their classes have fewer samples than holders; lower the number of clients ",
        "or raise --label-count.k");
    return make_partition(std::move(lists));
  }

 private:
  int64_t k_;
};

FL_REGISTER(Partitioner, "label-count", LabelCount);

}  // namespace
}  // namespace fl_sim
