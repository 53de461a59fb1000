// Of some clients those on whose samples the model does worst.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class PowerOfChoice final : public Sampler {
 public:
  explicit PowerOfChoice(const Setup& setup)
      : counts_(setup.job),
        variant_(setup.job.get<std::string>("poc.variant")),
        d_(setup.job.get<int64_t>("poc.d")) {
    const auto cohort = setup.job.get<int64_t>("cohort");
    FL_CHECK(d_ >= cohort && d_ <= setup.clients, "poc.d is ", d_, " (must be ", cohort, " to ",
             setup.clients, ": the cohort is chosen from d of the clients that may train)");
  }

  static PluginInfo describe() {
    return {
        .summary = "of d random clients those with the largest losses",
        .source =
            "Cho et al., Towards understanding biased client selection in federated learning, "
            "AISTATS 2022 (power-of-choice)",
        .rule =
            "d candidates are drawn without replacement, in proportion to their samples, and of "
            "these the cohort that has the largest losses F_k(w); chance decides among equals. "
            "`variant pow`: F_k is the model's mean loss on all samples of client k, for which "
            "the d clients are sent the model and answer with a number: bytes and virtual time "
            "(a forward pass for each sample) are charged, and the cohort is not sent the model "
            "again. `cpow`: on a mini-batch of its samples. `rpow`: the mean loss of its last "
            "training, infinite for one that has not trained yet; nobody is asked. The first "
            "round is uniform. Biased; in the papers' experiments all clients of a cohort count "
            "the same (weighting uniform).",
        .options = {{.name = "d",
                     .type = Option::Type::kInteger,
                     .default_value = {},
                     .meaning = "candidates that are compared; the papers: 2 to 10 times the "
                                "cohort",
                     .range = at_least(1)},
                    {.name = "variant",
                     .default_value = "pow",
                     .meaning = "which losses are compared",
                     .choices = {"pow", "cpow", "rpow"}}},
        .reads = Counts::keys(),
        .elsewhere =
            "FLGo sorts the candidates' losses and applies their places to all clients. FedLab's "
            "file of that name is empty.",
        .example = "--poc.d 15"};
  }

  bool biased() const override { return true; }
  bool draws_anytime() const override { return question() == Question::kNothing; }

  Question question() const override {
    return variant_ == "pow"    ? Question::kLoss
           : variant_ == "cpow" ? Question::kBatchLoss
                                : Question::kNothing;
  }

  void init(State& memory, int64_t ids) const override {
    memory[kLoss] = torch::full({ids}, kUnseen, torch::kFloat64);
    memory[kRounds] = torch::zeros({1}, torch::kInt64);
    counts_.init(memory, ids);
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    double* losses = memory.at(kLoss).data_ptr<double>();
    for (const ClientRecord& record : records) {
      if (record.answers() && std::isfinite(record.loss)) losses[record.client] = record.loss;
    }
    memory.at(kRounds) += 1;
    counts_.learn(memory, records);
  }

  std::vector<int64_t> ask(const SampleRequest& request, Rng& rng) const override {
    return first(request) ? std::vector<int64_t>() : candidates(request, rng);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const bool asks = question() != Question::kNothing;
    std::vector<int64_t> ids;
    if (first(request)) {
      ids = counts_.within_cap(request.memory, ids_of(request.candidates));
      std::vector<int64_t> cohort;
      fill_up(cohort, ids, request.cohort, rng);
      return cohort_of(std::move(cohort));
    }
    std::vector<double> losses;
    if (asks) {
      for (const auto& [client, loss] : request.answers) ids.push_back(client);
      for (const auto& [client, loss] : request.answers) losses.push_back(loss);
    } else {
      ids = candidates(request, rng);
      const double* last = request.memory.at(kLoss).data_ptr<double>();
      for (const int64_t id : ids) losses.push_back(last[id]);
    }
    for (double& loss : losses) {  // of a client without samples; or of a model that has diverged
      if (std::isnan(loss)) loss = -std::numeric_limits<double>::max();
    }
    counts_.mix_in(request.memory, ids, losses);
    std::vector<std::pair<double, int64_t>> order;
    for (size_t i = 0; i < ids.size(); ++i) order.emplace_back(-losses[i], ids[i]);
    rng.shuffle(std::span(order));
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<int64_t> cohort;
    for (size_t i = 0; i < order.size() && std::ssize(cohort) < request.cohort; ++i)
      cohort.push_back(order[i].second);
    return cohort_of(std::move(cohort));
  }

 private:
  static constexpr double kUnseen = std::numeric_limits<double>::infinity();
  static constexpr const char* kLoss = "poc.loss";      // [ids] of the last training
  static constexpr const char* kRounds = "poc.rounds";  // that are through

  static bool first(const SampleRequest& request) {
    return request.memory.at(kRounds).item<int64_t>() == 0;
  }

  // The d that are compared, and where more are drawn than the cohort (clock.over-commit), as many.
  std::vector<int64_t> candidates(const SampleRequest& request, Rng& rng) const {
    const std::vector<int64_t> ids = counts_.within_cap(request.memory, ids_of(request.candidates));
    std::vector<double> sizes;
    for (const int64_t id : ids) sizes.push_back(static_cast<double>(request.partition.size(id)));
    std::vector<int64_t> chosen;
    for (const int64_t place : draw_in_proportion(sizes, std::max(d_, request.cohort), rng))
      chosen.push_back(ids[static_cast<size_t>(place)]);
    return chosen;
  }

  Counts counts_;
  std::string variant_;
  int64_t d_;
};

FL_REGISTER(Sampler, "poc", PowerOfChoice);

}  // namespace
}  // namespace fl_sim
