// Clients take turns: nobody is drawn again before everybody was.
#include <algorithm>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "learning/sampler.h"

namespace fl_sim {
namespace {

class RoundRobin final : public Sampler {
 public:
  explicit RoundRobin(const Setup& setup) : seed_(setup.job.seed()) {
    const auto cohort = setup.job.get<int64_t>("cohort");
    FL_CHECK(cohort <= setup.clients, "cohort is ", cohort, " (must be 1 to ", setup.clients,
             ", the number of clients that may train)");
  }

  static PluginInfo describe() {
    return {.summary = "clients take turns, in a random order of each turn",
            .source = "FLSim (Meta), sequential and round-robin active user selectors",
            .rule =
                "The next `cohort` clients of a random permutation of all; when it is used up, of "
                "a new one. Who cannot be reached when it is his turn is drawn when he can be, "
                "before those who have had theirs. Biased within a turn: a cohort is no sample of "
                "all clients."};
  }

  // How many times each client was drawn.
  void init(State& memory, int64_t ids) const override {
    memory[kTurns] = torch::zeros({ids}, torch::kInt64);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng&) const override {
    const torch::Tensor& counts = request.memory.at(kTurns);
    const int64_t* turns = counts.data_ptr<int64_t>();
    // Fewest turns first, then by the turn's permutation: a number for each client and turn.
    std::vector<std::tuple<int64_t, double, int64_t>> order;
    for (int64_t place = 0; place < request.candidates.size(); ++place) {
      const int64_t id = request.candidates.id(place);
      order.emplace_back(turns[id], Rng(seed_, "roundrobin", turns[id], id).uniform(), id);
    }
    const int64_t count = std::min(request.cohort, std::ssize(order));
    std::partial_sort(order.begin(), order.begin() + count, order.end());
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < count; ++i)
      chosen.push_back(std::get<2>(order[static_cast<size_t>(i)]));
    std::sort(chosen.begin(), chosen.end());
    std::vector<Drawn> cohort;
    for (const int64_t id : chosen) cohort.push_back({id});
    return cohort;
  }

  bool biased() const override { return true; }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    int64_t* turns = memory.at(kTurns).data_ptr<int64_t>();
    for (const ClientRecord& record : records) ++turns[record.client];
  }

 private:
  static constexpr const char* kTurns = "roundrobin.turns";

  uint64_t seed_;
};

FL_REGISTER(Sampler, "roundrobin", RoundRobin);

}  // namespace
}  // namespace fl_sim
