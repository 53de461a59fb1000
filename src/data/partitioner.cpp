#include "data/partitioner.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/checksum.h"

namespace fl_sim {

Partition::Partition(std::vector<int64_t> offsets, std::vector<int64_t> indices) {
  using Lists = std::pair<std::vector<int64_t>, std::vector<int64_t>>;
  const auto lists = std::make_shared<const Lists>(std::move(offsets), std::move(indices));
  this->offsets = lists->first;
  this->indices = lists->second;
  owner = lists;
}

Partition make_partition(std::vector<std::vector<int64_t>> lists) {
  std::vector<int64_t> offsets = {0}, indices;
  offsets.reserve(lists.size() + 1);
  for (std::vector<int64_t>& list : lists) {
    std::sort(list.begin(), list.end());
    indices.insert(indices.end(), list.begin(), list.end());
    offsets.push_back(std::ssize(indices));
    std::vector<int64_t>().swap(list);  // large sets: hold one copy, not two
  }
  return {std::move(offsets), std::move(indices)};
}

Partition partition_by_holder(std::span<const int64_t> holders, int64_t clients) {
  std::vector<int64_t> offsets(static_cast<size_t>(clients) + 1), indices(holders.size());
  for (const int64_t holder : holders) ++offsets[static_cast<size_t>(holder) + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  for (size_t i = 0; i < holders.size(); ++i)  // offsets[k] moves to the end of k's list
    indices[static_cast<size_t>(offsets[static_cast<size_t>(holders[i])]++)] =
        static_cast<int64_t>(i);
  std::rotate(offsets.begin(), offsets.end() - 1, offsets.end());
  offsets[0] = 0;
  return {std::move(offsets), std::move(indices)};
}

void check_partition(const Partition& partition, int64_t samples) {
  FL_CHECK(!partition.offsets.empty() && partition.offsets.front() == 0 &&
               partition.offsets.back() == static_cast<int64_t>(partition.indices.size()) &&
               std::is_sorted(partition.offsets.begin(), partition.offsets.end()),
           "the partition's offsets do not fit its ", partition.indices.size(),
           " indices (they must rise from 0 to that number)");
  constexpr int64_t kNobody = -1;
  std::vector<int64_t> holder(samples, kNobody);
  for (int64_t client = 0; client < partition.clients(); ++client) {
    for (const int64_t index : partition.of(client)) {
      FL_CHECK(index >= 0 && index < samples, "the partition gives client ", client, " sample ",
               index, " (must be 0 to ", samples - 1, ")");
      FL_CHECK(holder[index] == kNobody, "the partition gives sample ", index, " to client ",
               holder[index], " and to client ", client, " (a sample has one holder at most)");
      holder[index] = client;
    }
  }
}

Skew measure_skew(const Partition& partition, std::span<const int64_t> labels, int64_t classes) {
  const int64_t clients = partition.clients();
  Skew skew;
  const bool keep = clients * classes <= Skew::kMostCounts;
  if (keep) skew.histogram.assign(clients * classes, 0);
  skew.jensen_shannon.assign(clients, 0);
  skew.hellinger.assign(clients, 0);
  skew.earth_mover.assign(clients, 0);

  std::vector<double> global(classes, 0);  // label distribution of all samples, dealt out or not
  for (const int64_t label : labels) global[label] += 1;
  for (double& share : global) share /= static_cast<double>(labels.size());
  std::vector<double> roots = global;
  for (double& root : roots) root = std::sqrt(root);

  std::vector<int64_t> counts(classes);
  std::vector<int64_t> sizes(clients);
  int64_t measured = 0;
  for (int64_t client = 0; client < clients; ++client) {
    std::fill(counts.begin(), counts.end(), 0);
    for (const int64_t index : partition.of(client)) ++counts[labels[index]];
    if (keep) std::copy(counts.begin(), counts.end(), skew.histogram.begin() + client * classes);
    sizes[client] = partition.size(client);
    if (sizes[client] == 0)
      continue;  // has no label distribution: distances stay 0, out of the mean
    double divergence = 0, squares = 0, absolute = 0;
    for (int64_t c = 0; c < classes; ++c) {
      const double p = static_cast<double>(counts[c]) / static_cast<double>(sizes[client]);
      const double q = global[c], middle = (p + q) / 2;
      if (counts[c] == 0) {  // most classes of a small client
        divergence += q / 2;
        squares += q;
        absolute += q;
        continue;
      }
      divergence += p * std::log2(p / middle) / 2;
      if (q > 0) divergence += q * std::log2(q / middle) / 2;
      const double distance = std::sqrt(p) - roots[c];
      squares += distance * distance;
      absolute += std::abs(p - q);
    }
    skew.jensen_shannon[client] = std::sqrt(std::clamp(divergence, 0.0, 1.0));
    skew.hellinger[client] = std::sqrt(std::clamp(squares / 2, 0.0, 1.0));
    skew.earth_mover[client] = absolute / 2;
    const auto summarise = [&](const std::vector<double>& distances, double& mean, double& most) {
      mean += distances[client];
      most = std::max(most, distances[client]);
    };
    summarise(skew.jensen_shannon, skew.mean_jensen_shannon, skew.max_jensen_shannon);
    summarise(skew.hellinger, skew.mean_hellinger, skew.max_hellinger);
    summarise(skew.earth_mover, skew.mean_earth_mover, skew.max_earth_mover);
    ++measured;
  }
  for (double* mean : {&skew.mean_jensen_shannon, &skew.mean_hellinger, &skew.mean_earth_mover}) {
    if (measured > 0) *mean /= static_cast<double>(measured);
  }

  if (clients > 0) {
    std::sort(sizes.begin(), sizes.end());
    // Nearest rank: the smallest size that at least q quarters of the clients do not exceed.
    const auto quartile = [&](int64_t q) {
      return sizes[std::max<int64_t>((q * clients + 3) / 4 - 1, 0)];
    };
    skew.min_size = quartile(0);
    skew.lower_quartile = quartile(1);
    skew.median = quartile(2);
    skew.upper_quartile = quartile(3);
    skew.max_size = quartile(4);
  }
  return skew;
}

std::string partition_checksum(const Partition& partition) {
  Checksum checksum;
  checksum.add(std::as_bytes(partition.offsets));
  checksum.add(std::as_bytes(partition.indices));
  return checksum.text();
}

}  // namespace fl_sim
