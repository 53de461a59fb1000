// What linear, square and exponential share: quantity skew along the clients' numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {

// Client i of N (counted from 1) gets a share of a random permutation in proportion to
// weight(i, N), which rises with i. Throws Error where that leaves a client without samples.
template <class Weight>
Partition split_by_weight(const std::string& name, const Weight& weight,
                          const PartitionRequest& request, Rng& rng) {
  const int64_t n = std::ssize(request.labels);
  std::vector<double> weights;
  for (int64_t i = 1; i <= request.clients; ++i) weights.push_back(weight(i, request.clients));
  const std::vector<int64_t> sizes = sizes_in_proportion(weights, n);
  const int64_t empty = std::count(sizes.begin(), sizes.end(), 0);
  if (empty > 0) {
    // The most clients of whom even the first has a whole sample due to it: with n at least the
    // sum of their numbers, not many.
    const auto suffices = [&](int64_t clients) {
      double total = 0;
      for (int64_t i = 1; i <= clients; ++i) total += weight(i, clients);
      return weight(1, clients) / total * static_cast<double>(n) >= 1;
    };
    int64_t most = 1;
    while (most + 1 < request.clients && suffices(most + 1)) ++most;
    throw Error(message(name, ": ", empty, " of ", request.clients,
                        " clients would hold no sample of ", n, "; lower the number of clients (",
                        most, " would do) or choose another partitioner"));
  }
  return cut(rng.permutation(n), sizes);
}

inline const char* const kBySizeSource =
    "Beutel et al., Flower: a friendly federated learning framework, 2020 (flwr-datasets)";

}  // namespace fl_sim
