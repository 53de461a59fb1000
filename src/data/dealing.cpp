#include "data/dealing.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace fl_sim {

std::vector<int64_t> equal_sizes(int64_t n, int64_t clients) {
  std::vector<int64_t> sizes(static_cast<size_t>(clients), n / clients);
  std::fill_n(sizes.begin(), n % clients, n / clients + 1);
  return sizes;
}

std::vector<int64_t> sizes_in_proportion(std::span<const double> weights, int64_t n,
                                         int64_t least) {
  const size_t count = weights.size();
  const int64_t spare = n - least * static_cast<int64_t>(count);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  assert(spare >= 0 && total > 0);
  std::vector<int64_t> sizes(count);
  std::vector<double> remainders(count);
  int64_t rest = spare;
  for (size_t i = 0; i < count; ++i) {
    const double exact = weights[i] / total * static_cast<double>(spare);
    const int64_t whole = std::min(static_cast<int64_t>(exact), rest);  // rounding may sum too far
    sizes[i] = least + whole;
    remainders[i] = exact - static_cast<double>(whole);
    rest -= whole;
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; rest > 0; i = (i + 1) % count) {
    if (weights[order[i]] == 0) continue;
    ++sizes[order[i]];
    --rest;
  }
  return sizes;
}

Partition cut(std::span<const int64_t> order, std::span<const int64_t> sizes) {
  std::vector<int64_t> offsets(sizes.size() + 1);
  std::partial_sum(sizes.begin(), sizes.end(), offsets.begin() + 1);
  assert(offsets.back() <= std::ssize(order));
  std::vector<int64_t> indices(order.begin(), order.begin() + offsets.back());
  for (size_t k = 0; k < sizes.size(); ++k)
    std::sort(indices.begin() + offsets[k], indices.begin() + offsets[k + 1]);
  return {std::move(offsets), std::move(indices)};
}

std::vector<std::vector<int64_t>> samples_by_class(std::span<const int64_t> labels,
                                                   int64_t classes) {
  std::vector<std::vector<int64_t>> by_class(static_cast<size_t>(classes));
  for (size_t i = 0; i < labels.size(); ++i)
    by_class[static_cast<size_t>(labels[i])].push_back(static_cast<int64_t>(i));
  return by_class;
}

Partition deal_classes(std::vector<std::vector<int64_t>> by_class,
                       const std::vector<std::vector<Share>>& shares, int64_t clients, Rng& rng) {
  std::vector<std::vector<int64_t>> lists(static_cast<size_t>(clients));
  for (size_t c = 0; c < by_class.size(); ++c) {
    if (shares[c].empty()) continue;
    rng.shuffle(std::span(by_class[c]));
    auto next = by_class[c].begin();
    for (const Share& share : shares[c]) {
      std::vector<int64_t>& list = lists[static_cast<size_t>(share.client)];
      list.insert(list.end(), next, next + share.count);
      next += share.count;
    }
  }
  return make_partition(std::move(lists));
}

std::vector<Share> equal_shares(int64_t n, std::span<const int64_t> holders) {
  std::vector<Share> shares;
  if (holders.empty()) return shares;
  const std::vector<int64_t> sizes = equal_sizes(n, std::ssize(holders));
  for (size_t i = 0; i < holders.size(); ++i) shares.push_back({holders[i], sizes[i]});
  return shares;
}

int64_t short_of(const std::vector<std::vector<Share>>& shares, int64_t clients, int64_t least) {
  std::vector<int64_t> held(static_cast<size_t>(clients));
  for (const std::vector<Share>& of_class : shares) {
    for (const Share& share : of_class) held[static_cast<size_t>(share.client)] += share.count;
  }
  return std::count_if(held.begin(), held.end(), [&](int64_t count) { return count < least; });
}

std::vector<std::vector<Share>> dirichlet_shares(std::span<const int64_t> class_sizes,
                                                 int64_t clients, bool balanced,
                                                 const ProportionDraw& draw) {
  const int64_t n = std::accumulate(class_sizes.begin(), class_sizes.end(), int64_t{0});
  std::vector<std::vector<Share>> shares(class_sizes.size());
  std::vector<int64_t> held(static_cast<size_t>(clients));
  std::vector<int64_t> open;
  for (size_t c = 0; c < class_sizes.size(); ++c) {
    const int64_t size = class_sizes[c];
    if (size == 0) continue;
    open.clear();  // does not stay empty: somebody holds less than the mean while samples remain
    for (int64_t k = 0; k < clients; ++k) {
      if (!balanced || held[static_cast<size_t>(k)] * clients < n) open.push_back(k);
    }
    const std::vector<double> p = draw(open);
    double cumulated = 0;
    int64_t begin = 0;
    for (size_t i = 0; i < open.size(); ++i) {
      cumulated += p[i];
      const int64_t mark = static_cast<int64_t>(cumulated * static_cast<double>(size));
      const int64_t end = i + 1 == open.size() ? size : std::min(mark, size);
      if (end > begin) shares[c].push_back({open[i], end - begin});
      held[static_cast<size_t>(open[i])] += end - begin;
      begin = end;
    }
  }
  return shares;
}

void Redraw::check(int64_t n, int64_t clients) const {
  FL_CHECK(min_samples <= n / clients, partitioner, ": ", clients, " clients cannot hold ",
           min_samples, " samples each, there are ", n,
           "; lower --partition.min-samples or the number of clients");
}

void Redraw::until_enough(int64_t clients, const std::function<int64_t()>& draw) const {
  // The clients' sizes have a fixed sum, so one's being short makes the others' less likely: if a
  // draw leaves m of them short on average, none is with a chance of exp(-m) at most. Where 20
  // draws say that 1000 more would hardly help, they are lost time.
  constexpr int64_t kTrial = 20;
  constexpr double kHopeless = 16;
  int64_t fewest = clients, draws = 0;
  double total = 0;
  while (draws < retries && !(draws == kTrial && total / kTrial > kHopeless)) {
    const int64_t short_clients = draw();
    if (short_clients == 0) return;
    fewest = std::min(fewest, short_clients);
    total += static_cast<double>(short_clients);
    ++draws;
  }
  throw Error(message(partitioner, ": ", fewest, " of ", clients, " clients would hold fewer than ",
                      min_samples, " samples after ", draws, " draws at ", parameter,
                      draws < retries ? message(", so far from enough that all ", retries,
                                                " of partition.retries would hardly do")
                                      : "",
                      "; lower --partition.min-samples or the number of clients", advice));
}

Partition deal_by_dirichlet(double alpha, bool balanced, const Redraw& redraw,
                            std::span<const int64_t> labels, int64_t classes, int64_t clients,
                            Rng& rng) {
  redraw.check(std::ssize(labels), clients);
  std::vector<std::vector<int64_t>> by_class = samples_by_class(labels, classes);
  std::vector<int64_t> class_sizes;
  for (const std::vector<int64_t>& samples : by_class) class_sizes.push_back(std::ssize(samples));
  std::vector<std::vector<Share>> shares;
  redraw.until_enough(clients, [&] {
    // Some components of a Dir(alpha) draw, rescaled to sum 1, are themselves Dir(alpha); drawing
    // them directly cannot end in 0/0 where a small alpha put all the mass on the clients that are
    // left out.
    shares = dirichlet_shares(class_sizes, clients, balanced, [&](std::span<const int64_t> open) {
      return rng.dirichlet(alpha, std::ssize(open));
    });
    return short_of(shares, clients, redraw.min_samples);
  });
  return deal_classes(std::move(by_class), shares, clients, rng);
}

}  // namespace fl_sim
