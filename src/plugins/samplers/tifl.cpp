// Clients of one speed together.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "learning/selection.h"
#include "learning/tiers.h"

namespace fl_sim {
namespace {

class Tifl final : public Sampler {
 public:
  explicit Tifl(const Setup& setup)
      : tiers_(setup.job.get<int64_t>("tifl.tiers")),
        policy_(setup.job.get<std::string>("tifl.policy")),
        every_(policy_ == "adaptive" ? setup.job.get<int64_t>("tifl.every") : 1),
        unbiased_(setup.job.get<std::string>("tifl.weights") == "unbiased"),
        by_samples_(unbiased_ && Shares::by_samples(setup.job, "sampler tifl, unbiased,")) {
    const Job& job = setup.job;
    FL_CHECK(job.get<std::string>("devices") != "none",
             "sampler tifl sorts clients by how long they take, but devices is none, so that there "
             "is no time (choose devices, such as --devices lognormal)");
    FL_CHECK(tiers_ <= setup.clients, "tifl.tiers is ", tiers_, " (must be at most ", setup.clients,
             ", the number of clients that may train)");
    FL_CHECK(policy_ != "adaptive" || job.get<double>("evaluate-clients") > 0,
             "tifl.policy is adaptive, which follows how accurate the model is for the clients of "
             "each tier, but evaluate-clients is 0 (set it to 1, evaluate-split to validation and "
             "partition.validation-fraction to 0.2; or choose policy uniform)");
    FL_CHECK(!unbiased_ || policy_ == "uniform", "tifl.weights is unbiased, but under tifl.policy ",
             policy_,
             policy_ == "adaptive" ? " tiers run out of credits, so that their clients cannot count"
                                   : " other tiers are never drawn",
             " (choose policy uniform, or weights cohort)");
    rounds_ = job.get<int64_t>("rounds");
  }

  static PluginInfo describe() {
    return {
        .summary = "clients of one speed together, by tiers; an oracle of durations",
        .source = "Chai et al., TiFL: A tier-based federated learning system, HPDC 2020",
        .rule =
            "An oracle: it knows how long clients' tasks usually take (without devices.jitter). "
            "Sorted by that, they make `tifl.tiers` tiers of equal size, the fastest first. A "
            "round draws a tier, then its cohort uniformly from those of it that can be reached. "
            "`policy uniform`: each tier with the same chance. `policy adaptive`: so, too, at "
            "first; after every `tifl.every` rounds, if the accuracy of the last tier has not "
            "risen since the check before, the n tiers that have credits are sorted by accuracy, "
            "the lowest first, and the i-th, i = 0, 1, ..., has the chance (n - i) / (n (n + 1) / "
            "2). Each draw of a tier costs it one of rounds / tiers credits. `policy fast`: always "
            "the "
            "fastest tier of which somebody can be reached. A tier's accuracy is "
            "the mean over its clients' evaluations, weighted by samples. `weights unbiased`: a "
            "client weighs p_k / pi_k, pi_k = chance of its tier times cohort / clients there; "
            "else biased: the cohort counts by the job's weighting.",
        .options = {{.name = "tiers",
                     .type = Option::Type::kInteger,
                     .default_value = "5",
                     .meaning = "tiers by speed",
                     .range = at_least(1)},
                    {.name = "policy",
                     .default_value = "adaptive",
                     .meaning = "how a tier is drawn",
                     .choices = {"adaptive", "uniform", "fast"}},
                    {.name = "every",
                     .type = Option::Type::kInteger,
                     .default_value = "10",
                     .meaning = "rounds after which chances may change",
                     .range = at_least(1),
                     .only_with = {"tifl.policy", {"adaptive"}}},
                    {.name = "weights",
                     .default_value = "cohort",
                     .meaning = "the mean over the cohort, or what is that over all clients on "
                                "average",
                     .choices = {"cohort", "unbiased"}}},
        .elsewhere = "FLGo checks every 10 rounds; fltk gives each tier rounds / 5 credits.",
        .example =
            "--devices lognormal --evaluate-clients 1 --evaluate-split validation "
            "--partition.validation-fraction 0.2"};
  }

  bool biased() const override { return !unbiased_; }
  bool weighs() const override { return unbiased_; }
  bool estimates_sum() const override { return unbiased_; }

  // Of the tiers: chances, accuracy now and at the last check, credits; and of each client its
  // tier, once that is known. Now: the tier that was drawn last, the rounds so far, and those at
  // the last check.
  void init(State& memory, int64_t ids) const override {
    const auto each = [&](double value) { return torch::full({tiers_}, value, torch::kFloat64); };
    memory[kChances] = each(1 / static_cast<double>(tiers_));
    memory[kAccuracy] = each(kNotMeasured);
    memory[kBefore] = each(kNotMeasured);
    memory[kCredits] = each(std::ceil(static_cast<double>(rounds_) / static_cast<double>(tiers_)));
    memory[kTier] = torch::full({ids}, -1, torch::kInt64);
    memory[kNow] = torch::tensor({-1, 0, 0}, torch::kInt64);
  }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    const std::vector<int64_t>& tier = tiers_of(request);
    std::vector<std::vector<int64_t>> there(static_cast<size_t>(tiers_));
    for (int64_t place = 0; place < request.candidates.size(); ++place) {
      const int64_t id = request.candidates.id(place);
      there[static_cast<size_t>(tier[static_cast<size_t>(id)])].push_back(id);
    }
    // Tiers of which nobody can be reached are left out, and if there are others with credits,
    // those without.
    std::vector<double> chances(there.size(), 0);
    const auto fill = [&](bool needs_credits) {
      double sum = 0;
      for (size_t t = 0; t < there.size(); ++t) {
        const auto at = static_cast<int64_t>(t);
        const bool open = !there[t].empty() && !(needs_credits && credit(request.memory, at) < 1) &&
                          !(policy_ == "fast" && sum > 0);
        chances[t] = !open ? 0 : needs_credits ? request.memory.at(kChances)[at].item<double>() : 1;
        sum += chances[t];
      }
      for (double& chance : chances) chance = sum > 0 ? chance / sum : 0;
      return sum > 0;
    };
    if (!fill(policy_ == "adaptive")) fill(false);
    double u = rng.uniform();
    size_t drawn = 0;
    for (size_t t = 0; t < chances.size(); ++t) {
      if (chances[t] == 0) continue;
      drawn = t;
      if (u < chances[t]) break;
      u -= chances[t];
    }
    std::vector<Drawn> cohort;
    for (const int64_t place : draw_places(std::ssize(there[drawn]), request.cohort, rng))
      cohort.push_back({there[drawn][static_cast<size_t>(place)]});
    if (!unbiased_) return cohort;
    const Shares shares(request, by_samples_);
    const double chance = chances[drawn] * static_cast<double>(cohort.size()) /
                          static_cast<double>(there[drawn].size());
    for (Drawn& one : cohort) one.weight = shares.of(one.client) / chance;
    return cohort;
  }

  void learn(State& memory, std::span<const ClientRecord> records) const override {
    if (policy_ != "adaptive") return;
    int64_t* now = memory.at(kNow).data_ptr<int64_t>();
    int64_t* tier = memory.at(kTier).data_ptr<int64_t>();
    std::copy(tier_.begin(), tier_.end(), tier);
    ++now[1];
    if (records.empty() || tier[records.front().client] < 0) return;
    now[0] = tier[records.front().client];
    memory.at(kCredits)[now[0]] -= 1;
  }

  void learn_evaluations(State& memory,
                         std::span<const ClientEvaluation> evaluations) const override {
    if (policy_ != "adaptive") return;
    const int64_t* tier = memory.at(kTier).data_ptr<int64_t>();
    int64_t* now = memory.at(kNow).data_ptr<int64_t>();
    std::vector<double> right(static_cast<size_t>(tiers_), 0), all(right);
    for (const ClientEvaluation& one : evaluations) {
      const int64_t t = tier[one.client];
      if (t < 0 || !std::isfinite(one.accuracy)) continue;
      right[static_cast<size_t>(t)] += one.accuracy * static_cast<double>(one.samples);
      all[static_cast<size_t>(t)] += static_cast<double>(one.samples);
    }
    double* accuracy = memory.at(kAccuracy).data_ptr<double>();
    for (size_t t = 0; t < all.size(); ++t) {
      if (all[t] > 0) accuracy[t] = right[t] / all[t];
    }
    if (now[0] < 0 || now[1] - now[2] < every_) return;
    now[2] = now[1];
    const double before = memory.at(kBefore)[now[0]].item<double>();
    const bool risen = std::isnan(before) || accuracy[now[0]] > before;
    memory.at(kBefore).copy_(memory.at(kAccuracy));
    if (risen) return;
    std::vector<double> known(accuracy, accuracy + tiers_);
    std::vector<bool> open;
    for (int64_t t = 0; t < tiers_; ++t) {
      open.push_back(credit(memory, t) >= 1);
      if (std::isnan(known[static_cast<size_t>(t)])) known[static_cast<size_t>(t)] = 0;
    }
    const std::vector<double> chances = tier_chances(known, open);
    std::copy(chances.begin(), chances.end(), memory.at(kChances).data_ptr<double>());
  }

 private:
  static constexpr const char* kChances = "tifl.chances";
  static constexpr const char* kAccuracy = "tifl.accuracy";
  static constexpr const char* kBefore = "tifl.before";
  static constexpr const char* kCredits = "tifl.credits";
  static constexpr const char* kTier = "tifl.tier";
  static constexpr const char* kNow = "tifl.now";

  static double credit(const State& memory, int64_t tier) {
    return memory.at(kCredits)[tier].item<double>();
  }

  // By client, see tiers_by_time(). It follows from the job alone, so that it is
  // no state: it is found when it is first needed.
  const std::vector<int64_t>& tiers_of(const SampleRequest& request) const {
    if (!tier_.empty()) return tier_;
    const Candidates& all =
        request.population != nullptr ? *request.population : request.candidates;
    tier_ = tiers_by_time(ids_of(all), tiers_,
                          [&](int64_t client) { return request.oracle.usual(client).seconds(); });
    return tier_;
  }

  int64_t tiers_;
  std::string policy_;
  int64_t every_, rounds_ = 0;
  bool unbiased_, by_samples_;
  mutable std::vector<int64_t> tier_;
};

FL_REGISTER(Sampler, "tifl", Tifl);

}  // namespace
}  // namespace fl_sim
