#include "engine/reachable.h"

#include <cmath>
#include <utility>
#include <vector>

namespace fl_sim {

Candidates all_candidates(const Experiment& e) {
  return e.trained.empty() ? Candidates(e.may_train()) : Candidates(e.trained);
}

Candidates candidates_among(const Experiment& e, std::function<bool(int64_t client)> reached,
                            bool may_wait) {
  constexpr int64_t kListed = 1 << 14;
  const int64_t all = e.may_train();
  if (may_wait && all > kListed) {
    return Candidates({.places = all,
                       .id = [&e](int64_t place) { return e.may_train(place); },
                       .among = std::move(reached)});
  }
  std::vector<int64_t> ids;
  for (int64_t place = 0; place < all; ++place) {
    const int64_t id = e.may_train(place);
    if (reached(id)) ids.push_back(id);
  }
  return Candidates(std::move(ids));
}

int64_t count_of(const Candidates& who, Rng rng) {
  constexpr int64_t kAsked = 1 << 13;
  const Candidates::Unlisted* all = who.unlisted();
  if (all == nullptr) return who.size();
  int64_t there = 0;
  for (int64_t i = 0; i < kAsked; ++i) there += all->among(all->id(rng.below(all->places))) ? 1 : 0;
  return std::llround(static_cast<double>(there) / kAsked * static_cast<double>(all->places));
}

}  // namespace fl_sim
