// Fixed groups of clients in turn.
#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class Cyclic final : public Sampler {
 public:
  explicit Cyclic(const Setup& setup)
      : seed_(setup.job.seed()), groups_(setup.job.get<int64_t>("cyclic.groups")) {
    FL_CHECK(groups_ <= setup.clients, "cyclic.groups is ", groups_, " (must be at most ",
             setup.clients, ", the number of clients that may train)");
  }

  static PluginInfo describe() {
    return {.summary = "fixed groups of clients in turn",
            .source =
                "Cho et al., On the convergence of federated averaging with cyclic client "
                "participation, ICML 2023",
            .rule =
                "Clients are dealt to `cyclic.groups` groups of equal size at random, once. Round "
                "r draws the cohort uniformly from those of group (r - 1) mod groups that can be "
                "reached; a group may have fewer. Biased within a cycle: a cohort is no sample of "
                "all clients.",
            .options = {{.name = "groups",
                         .type = Option::Type::kInteger,
                         .default_value = "2",
                         .meaning = "groups that take turns",
                         .range = at_least(1)}}};
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const Candidates& all =
        request.population != nullptr ? *request.population : request.candidates;
    const int64_t turn = (request.round - 1) % groups_;
    std::vector<int64_t> members, cohort;
    const std::vector<int64_t> order = Rng(seed_, "cyclic").permutation(all.size());
    for (int64_t place = turn; place < all.size(); place += groups_) {
      const int64_t id = all.id(order[static_cast<size_t>(place)]);
      if (request.candidates.contains(id)) members.push_back(id);
    }
    for (const int64_t place : draw_places(std::ssize(members), request.cohort, rng))
      cohort.push_back(members[static_cast<size_t>(place)]);
    return cohort_of(std::move(cohort));
  }

  bool biased() const override { return true; }

 private:
  uint64_t seed_;
  int64_t groups_;
};

FL_REGISTER(Sampler, "cyclic", Cyclic);

}  // namespace
}  // namespace fl_sim
