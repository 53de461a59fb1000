// The hardest clients: of some that are drawn by chance, those whose loss was the highest when they
// trained last. It remembers losses, which are saved with the run.
#include <algorithm>
#include <limits>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class Hardest final : public Sampler {
 public:
  explicit Hardest(const Setup& setup)
      : cohort_(setup.job.get<int64_t>("cohort")), among_(setup.job.get<int64_t>("hardest.among")) {
    FL_CHECK(among_ >= cohort_, "hardest.among is ", among_, " (must be at least the cohort, ",
             cohort_, ")");
  }

  static PluginInfo describe() {
    return {.summary = "of some clients those with the highest loss",
            .rule =
                "Of `among` clients that can be reached, drawn by chance, the cohort is those "
                "whose mean training loss was the highest when they trained last; who has not "
                "trained yet goes first. Biased towards clients that are hard to learn.",
            .options = {{.name = "among",
                         .type = Option::Type::kInteger,
                         .default_value = {},
                         .meaning = "clients to choose from",
                         .range = at_least(1)}},
            .example = "--sampler hardest --hardest.among 30"};
  }

  void init(State& memory, int64_t ids) const override {
    memory[kLoss] = torch::full({ids}, std::numeric_limits<double>::infinity(), torch::kFloat64);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const torch::Tensor& losses = request.memory.at(kLoss);
    const double* loss = losses.data_ptr<double>();
    std::vector<int64_t> places = rng.permutation(request.candidates.size());
    places.resize(std::min(places.size(), static_cast<size_t>(among_)));
    std::vector<std::pair<double, int64_t>> order;  // of equal losses the lower id
    for (const int64_t place : places) {
      const int64_t id = request.candidates.id(place);
      order.emplace_back(-loss[id], id);
    }
    std::sort(order.begin(), order.end());
    order.resize(std::min(order.size(), static_cast<size_t>(request.cohort)));
    std::vector<Drawn> cohort;
    for (const auto& [negative, id] : order) cohort.push_back({id});
    std::sort(cohort.begin(), cohort.end(),
              [](const Drawn& a, const Drawn& b) { return a.client < b.client; });
    return cohort;
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* loss = memory.at(kLoss).data_ptr<double>();
    for (const ClientRecord& record : records) {
      if (record.counts()) loss[record.client] = record.loss;
    }
  }

 private:
  static constexpr const char* kLoss = "hardest.loss";

  int64_t cohort_, among_;
};

FL_REGISTER(Sampler, "hardest", Hardest);

}  // namespace
}  // namespace fl_sim
