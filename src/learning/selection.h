// What samplers share: draws without replacement, who was drawn how often, and the rules of papers
// as functions of numbers, so that tests can look at them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/option_set.h"
#include "base/rng.h"
#include "learning/sampler.h"

namespace fl_sim {

// `count` of the places 0 to `size` - 1, ascending, every set equally likely; all where there are
// not so many. In time and memory of `count`.
std::vector<int64_t> draw_places(int64_t size, int64_t count, Rng& rng);

// The same of the candidates' ids, without a list of them where there is none; by rejection, as
// long as that is quicker.
std::vector<int64_t> draw_clients(const Candidates& candidates, int64_t count, Rng& rng);

// `count` of the places of `weights`, ascending: one after the other, each in proportion to its
// weight among those that are left. Places of weight 0 come last, in a random order.
std::vector<int64_t> draw_in_proportion(std::span<const double> weights, int64_t count, Rng& rng);

// Of a cohort so many places as come to `share`, rounded down; of places that become free one by
// one (SampleRequest::anytime) up or down by chance, so that they come to it on average.
int64_t places_for(const SampleRequest& request, double share, Rng& rng);

// Ids of the candidates, ascending, and the cohort that clients make.
std::vector<int64_t> ids_of(const Candidates& candidates);
std::vector<Drawn> cohort_of(std::vector<int64_t> clients);

// `count` more of the candidates, uniformly of those who are not in `cohort`, into it.
void fill_up(std::vector<int64_t>& cohort, const std::vector<int64_t>& candidates, int64_t count,
             Rng& rng);

// p_k, of a candidate among all candidates: by samples, or the same for each.
class Shares {
 public:
  // `who` names the sampler in the message that refuses a job whose weighting is neither.
  static bool by_samples(const Job& job, const std::string& who);
  Shares(const SampleRequest& request, bool by_samples);
  double of(int64_t client) const {
    return by_samples_ ? static_cast<double>(partition_.size(client)) / total_ : 1 / total_;
  }

 private:
  const Partition& partition_;
  bool by_samples_;
  double total_ = 0;
};

// Oort's knob for fairness, for samplers with utilities.
struct FairOptions {
  double weight = 0;
  int64_t cap = 0;
  static const OptionSet<FairOptions> kOptions;
};

// How often each client was drawn: a tensor of the server's memory, under this name.
class Counts {
 public:
  explicit Counts(const Job& job) : fair_(read_options<FairOptions>(job)) {}
  // Keys for PluginInfo::reads.
  static std::vector<std::string> keys() { return {"fair.weight", "fair.cap"}; }

  void init(State& memory, int64_t ids) const;
  void learn(State& memory, std::span<const ClientRecord> records) const;
  // Candidates that have not been drawn `fair.cap` times; all where that leaves nobody.
  std::vector<int64_t> within_cap(const State& memory, std::vector<int64_t> ids) const;
  // Utilities of `ids` become (1 - f) utility + f (largest count - own count), f `fair.weight`.
  void mix_in(const State& memory, const std::vector<int64_t>& ids,
              std::vector<double>& utilities) const;

 private:
  FairOptions fair_;
};

// Clustered sampling, algorithm 1 of Fraboni et al. 2021: of clients with so many samples, which
// share of each of m urns is whose, [m][clients]. Sorted by samples, the largest first (among
// equals the first), m n_k of each are poured into urns that hold n.
std::vector<std::vector<double>> clustered_urns(const std::vector<int64_t>& sizes, int64_t m);

// Chen et al. 2020: the chances with which clients whose updates have the norms u_k (times p_k)
// send them, at most m of them on average, that estimate their sum best.
std::vector<double> optimal_chances(const std::vector<double>& norms, int64_t m);
// Their approximation of it by sums alone, as a server behind secure aggregation knows them (AOCS,
// with so many rescalings).
std::vector<double> approximate_chances(const std::vector<double>& norms, int64_t m,
                                        int64_t rescalings);

// TiFL's chances of n tiers: (n - i) / (n (n + 1) / 2) for the i-th, i = 0, 1, ... by ascending
// accuracy; among equals the first tier is first. Tiers that may not be drawn (`open`) are left
// out, and n counts the others.
std::vector<double> tier_chances(const std::vector<double>& accuracies,
                                 const std::vector<bool>& open);

// Oort's utility of a client: (statistical + sqrt(0.1 ln(round) / last)), times (preferred /
// seconds)^alpha where its task takes longer than preferred. No durations: NaN.
double oort_utility(double statistical, int64_t round, int64_t last, double seconds,
                    double preferred, double alpha);

}  // namespace fl_sim
