#include "learning/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"

namespace fl_sim {
namespace {

constexpr const char* kCounts = "sampler.counts";

}  // namespace

const OptionSet<FairOptions> FairOptions::kOptions(
    1050, {{&FairOptions::weight,
            {.name = "fair.weight",
             .default_value = "0",
             .meaning = "f: utilities become (1 - f) utility + f (how much less often than the "
                        "most drawn client one was drawn)",
             .range = between(0, 1),
             .read_by = "sampler"}},
           {&FairOptions::cap,
            {.name = "fair.cap",
             .default_value = "0",
             .meaning = "who was drawn so often is not drawn again; 0: no such limit",
             .range = at_least(0),
             .read_by = "sampler"}}});

// R. W. Floyd's algorithm, see the sampler uniform.
std::vector<int64_t> draw_places(int64_t size, int64_t count, Rng& rng) {
  std::set<int64_t> chosen;
  for (int64_t last = std::max<int64_t>(size - std::max<int64_t>(count, 0), 0); last < size;
       ++last) {
    if (!chosen.insert(rng.below(last + 1)).second) chosen.insert(last);
  }
  return {chosen.begin(), chosen.end()};
}

std::vector<int64_t> draw_clients(const Candidates& candidates, int64_t count, Rng& rng) {
  if (const Candidates::Unlisted* all = candidates.unlisted()) {
    std::set<int64_t> chosen;
    for (int64_t tries = all->places / 2; tries > 0 && std::ssize(chosen) < count; --tries) {
      const int64_t id = all->id(rng.below(all->places));
      if (all->among(id)) chosen.insert(id);
    }
    // Else there are few, and a list takes no longer. Who was found says nothing of who is drawn.
    if (std::ssize(chosen) >= count) return {chosen.begin(), chosen.end()};
  }
  std::vector<int64_t> clients = draw_places(candidates.size(), count, rng);
  for (int64_t& one : clients) one = candidates.id(one);
  return clients;
}

// A race: each arrives after an exponential time with its weight as the rate (Efraimidis &
// Spirakis, 2006), which is the same as drawing one after the other.
std::vector<int64_t> draw_in_proportion(std::span<const double> weights, int64_t count, Rng& rng) {
  std::vector<std::pair<std::pair<bool, double>, int64_t>> order;  // (weight 0?, time), place
  for (size_t place = 0; place < weights.size(); ++place) {
    const double weight = weights[place], time = -std::log1p(-rng.uniform());
    order.push_back(
        {{!(weight > 0), weight > 0 ? time / weight : time}, static_cast<int64_t>(place)});
  }
  const auto n = std::min(std::max<int64_t>(count, 0), std::ssize(order));
  std::partial_sort(order.begin(), order.begin() + n, order.end());
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < n; ++i) chosen.push_back(order[static_cast<size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

int64_t places_for(const SampleRequest& request, double share, Rng& rng) {
  const auto whole = static_cast<int64_t>(share + 1e-9);
  const double rest = share - static_cast<double>(whole);
  return whole + (request.anytime && rest > 0 && rng.uniform() < rest ? 1 : 0);
}

std::vector<int64_t> ids_of(const Candidates& candidates) {
  std::vector<int64_t> ids(static_cast<size_t>(candidates.size()));
  for (int64_t place = 0; place < candidates.size(); ++place)
    ids[static_cast<size_t>(place)] = candidates.id(place);
  return ids;
}

std::vector<Drawn> cohort_of(std::vector<int64_t> clients) {
  std::sort(clients.begin(), clients.end());
  std::vector<Drawn> cohort;
  for (const int64_t client : clients) cohort.push_back({client});
  return cohort;
}

void fill_up(std::vector<int64_t>& cohort, const std::vector<int64_t>& candidates, int64_t count,
             Rng& rng) {
  if (count <= 0) return;
  const std::set<int64_t> there(cohort.begin(), cohort.end());
  std::vector<int64_t> others;
  for (const int64_t id : candidates) {
    if (!there.contains(id)) others.push_back(id);
  }
  for (const int64_t place : draw_places(std::ssize(others), count, rng))
    cohort.push_back(others[static_cast<size_t>(place)]);
}

bool Shares::by_samples(const Job& job, const std::string& who) {
  const auto weighting = job.get<std::string>("weighting");
  FL_CHECK(weighting != "loss", "weighting is loss, but ", who,
           " weighs clients by how likely it was to draw them, before anybody knows their losses "
           "(choose samples, or uniform)");
  return weighting == "samples";
}

Shares::Shares(const SampleRequest& request, bool by_samples)
    : partition_(request.partition), by_samples_(by_samples) {
  const Candidates& who = request.candidates;
  if (!by_samples) {
    total_ = static_cast<double>(who.size());
  } else if (who.everybody() && who.size() == partition_.clients()) {
    total_ = static_cast<double>(partition_.offsets.back());
  } else {
    for (int64_t place = 0; place < who.size(); ++place)
      total_ += static_cast<double>(partition_.size(who.id(place)));
  }
  total_ = std::max(total_, 1.0);  // nobody has a sample: everybody's share is 0
}

void Counts::init(State& memory, int64_t ids) const {
  memory[kCounts] = torch::zeros({ids}, torch::kInt64);
}

void Counts::learn(State& memory, std::span<const ClientRecord> records) const {
  int64_t* counts = memory.at(kCounts).data_ptr<int64_t>();
  for (const ClientRecord& record : records) ++counts[record.client];
}

std::vector<int64_t> Counts::within_cap(const State& memory, std::vector<int64_t> ids) const {
  if (fair_.cap == 0) return ids;
  const int64_t* counts = memory.at(kCounts).data_ptr<int64_t>();
  std::vector<int64_t> left;
  for (const int64_t id : ids) {
    if (counts[id] < fair_.cap) left.push_back(id);
  }
  return left.empty() ? std::move(ids) : std::move(left);
}

void Counts::mix_in(const State& memory, const std::vector<int64_t>& ids,
                    std::vector<double>& utilities) const {
  if (fair_.weight == 0) return;
  const int64_t* counts = memory.at(kCounts).data_ptr<int64_t>();
  const auto most = static_cast<double>(memory.at(kCounts).max().item<int64_t>());
  for (size_t i = 0; i < ids.size(); ++i) {
    const double own = fair_.weight < 1 ? (1 - fair_.weight) * utilities[i] : 0;  // not 0 * inf
    utilities[i] = own + fair_.weight * (most - static_cast<double>(counts[ids[i]]));
  }
}

std::vector<std::vector<double>> clustered_urns(const std::vector<int64_t>& sizes, int64_t m) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });
  const int64_t all = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<std::vector<double>> urns(static_cast<size_t>(m),
                                        std::vector<double>(sizes.size(), 0));
  int64_t poured = 0;  // so far, into all urns
  for (const size_t client : order) {
    for (int64_t left = m * sizes[client]; left > 0;) {
      const int64_t part = std::min(left, all - poured % all);
      urns[static_cast<size_t>(poured / all)][client] =
          static_cast<double>(part) / static_cast<double>(all);
      poured += part;
      left -= part;
    }
  }
  return urns;
}

std::vector<double> optimal_chances(const std::vector<double>& norms, int64_t m) {
  const auto n = std::ssize(norms);
  std::vector<double> chances(norms.size(), 1);
  if (m >= n) return chances;
  std::vector<size_t> order(norms.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return norms[a] < norms[b]; });
  std::vector<double> sums;  // of the smallest ones
  for (const size_t k : order) sums.push_back(norms[k] + (sums.empty() ? 0 : sums.back()));
  // The most clients whose chances are in proportion, and no chance more than 1; the others send.
  int64_t smallest = n - m + 1;
  for (int64_t l = n; l > n - m; --l) {
    const auto last = static_cast<size_t>(l - 1);
    const double spread = static_cast<double>(m + l - n);
    if (spread * norms[order[last]] > sums[last] * (1 + 1e-12)) continue;
    smallest = l;
    break;
  }
  const double sum = sums[static_cast<size_t>(smallest - 1)];
  const auto spread = static_cast<double>(m + smallest - n);
  for (int64_t i = 0; i < smallest; ++i) {
    const size_t k = order[static_cast<size_t>(i)];
    // Of updates that are all 0 it does not matter who sends them.
    chances[k] =
        sum > 0 ? std::min(1.0, spread * norms[k] / sum) : spread / static_cast<double>(smallest);
  }
  return chances;
}

std::vector<double> approximate_chances(const std::vector<double>& norms, int64_t m,
                                        int64_t rescalings) {
  const auto n = std::ssize(norms);
  const double all = std::accumulate(norms.begin(), norms.end(), 0.0);
  std::vector<double> chances(norms.size(), 1);
  if (m >= n) return chances;
  const auto share = static_cast<double>(m);
  if (!(all > 0)) return std::vector<double>(norms.size(), share / static_cast<double>(n));
  for (size_t k = 0; k < norms.size(); ++k) chances[k] = std::min(share * norms[k] / all, 1.0);
  for (int64_t j = 0; j < rescalings; ++j) {
    double certain = 0, others = 0;
    for (const double p : chances) (p < 1 ? others : certain) += p;
    const double factor = (share - certain) / others;
    if (!(others > 0) || factor <= 1) break;
    for (double& p : chances) {
      if (p < 1) p = std::min(factor * p, 1.0);
    }
  }
  return chances;
}

std::vector<double> tier_chances(const std::vector<double>& accuracies,
                                 const std::vector<bool>& open) {
  std::vector<size_t> order;
  for (size_t tier = 0; tier < accuracies.size(); ++tier) {
    if (open[tier]) order.push_back(tier);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return accuracies[a] < accuracies[b]; });
  std::vector<double> chances(accuracies.size(), 0);
  const auto n = static_cast<double>(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    chances[order[i]] = (n - static_cast<double>(i)) / (n * (n + 1) / 2);
  return chances;
}

double oort_utility(double statistical, int64_t round, int64_t last, double seconds,
                    double preferred, double alpha) {
  const double bonus =
      std::sqrt(0.1 * std::log(static_cast<double>(round)) / static_cast<double>(last));
  const double utility = statistical + bonus;
  return seconds > preferred ? utility * std::pow(preferred / seconds, alpha) : utility;
}

}  // namespace fl_sim
