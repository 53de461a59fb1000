// What partitioners share: sizes, cutting a random order, dealing classes out, drawing again.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "data/partitioner.h"

namespace fl_sim {

// [clients] of sum n: n / clients each, and one more for the first n % clients.
std::vector<int64_t> equal_sizes(int64_t n, int64_t clients);

// [weights] whole sizes of sum n: `least` for each, and the rest in proportion to the weights,
// rounded down; what that leaves over goes to the largest remainders, of equals to the first. The
// weights are at least 0, at least one of them more, and least * weights at most n.
std::vector<int64_t> sizes_in_proportion(std::span<const double> weights, int64_t n,
                                         int64_t least = 0);

// Client 0 gets the first sizes[0] samples of `order`, client 1 the next sizes[1], ...; what is
// left is nobody's.
Partition cut(std::span<const int64_t> order, std::span<const int64_t> sizes);

// [classes] the samples of each class, in file order.
std::vector<std::vector<int64_t>> samples_by_class(std::span<const int64_t> labels,
                                                   int64_t classes);

// How many samples of a class a client gets.
struct Share {
  int64_t client, count;
};

// Class c, in random order, is cut as shares[c] say; what is left of it is nobody's. Classes that
// nobody has draw nothing from the stream.
Partition deal_classes(std::vector<std::vector<int64_t>> by_class,
                       const std::vector<std::vector<Share>>& shares, int64_t clients, Rng& rng);

// Cuts `n` samples into equal parts (sizes differ by at most one) for the holders.
std::vector<Share> equal_shares(int64_t n, std::span<const int64_t> holders);

// The clients that hold fewer than `least`, of so many clients.
int64_t short_of(const std::vector<std::vector<Share>>& shares, int64_t clients, int64_t least);

// One of the things whose index `left` accepts, by the mix; a mix is renormalised over those. If it
// has no mass there, it is drawn anew over them, which has the same distribution: some components
// of a Dir(alpha) draw, rescaled to sum 1, are Dir(alpha) themselves. At least one thing is left.
template <class Left>
size_t draw_among(std::vector<double>& mix, const Left& left, double alpha, Rng& rng) {
  const auto mass = [&] {
    double total = 0;
    for (size_t i = 0; i < mix.size(); ++i) total += left(i) ? mix[i] : 0;
    return total;
  };
  double total = mass();
  if (total == 0) {
    int64_t some = 0;
    for (size_t i = 0; i < mix.size(); ++i) some += left(i) ? 1 : 0;
    const std::vector<double> fresh = rng.dirichlet(alpha, some);
    auto next = fresh.begin();
    for (size_t i = 0; i < mix.size(); ++i) mix[i] = left(i) ? *next++ : 0;
    total = mass();
  }
  double rest = rng.uniform() * total;
  size_t chosen = 0;
  for (size_t i = 0; i < mix.size(); ++i) {
    if (mix[i] == 0 || !left(i)) continue;
    chosen = i;  // rounding may leave a rest after the last one
    rest -= mix[i];
    if (rest < 0) break;
  }
  return chosen;
}

// NIID-Bench's rule for the proportions of classes: with `balanced`, clients that already hold
// samples / clients or more are passed over. `draw` gives the open clients' proportions of the next
// class that has samples, of sum 1 up to rounding; the class is cut where they cumulate to, rounded
// down, and the last open client takes the rest. [classes][open clients]
using ProportionDraw = std::function<std::vector<double>(std::span<const int64_t> open)>;
std::vector<std::vector<Share>> dirichlet_shares(std::span<const int64_t> class_sizes,
                                                 int64_t clients, bool balanced,
                                                 const ProportionDraw& draw);

// Splits that are drawn again until every client holds enough.
struct Redraw {
  std::string partitioner;  // for messages
  std::string parameter;    // "alpha=0.5"
  std::string advice = {};  // ", or raise --x.y"
  int64_t min_samples = 1;
  int64_t retries = 1;

  // Throws Error if even equal parts of n samples are too small.
  void check(int64_t n, int64_t clients) const;
  // Calls `draw`, which says how many of the clients are short of samples, until none is. Throws
  // Error after `retries` draws; or after 20, if these were far from it.
  void until_enough(int64_t clients, const std::function<int64_t()>& draw) const;
};

// Deals classes out in proportions from Dir(alpha), by NIID-Bench's rule.
Partition deal_by_dirichlet(double alpha, bool balanced, const Redraw& redraw,
                            std::span<const int64_t> labels, int64_t classes, int64_t clients,
                            Rng& rng);

}  // namespace fl_sim
