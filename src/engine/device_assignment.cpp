#include "engine/device_assignment.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace fl_sim {

std::vector<int64_t> assigned_devices(const Job& job, const Devices& devices,
                                      const Partition& partition, const Samples& train) {
  const int64_t count = devices.rows(), clients = partition.clients();
  const auto by = job.get<std::string>("devices");
  FL_CHECK(count > 0, "devices ", by, " has no device");
  const auto assign = job.get<std::string>("devices.assign");
  if (assign == "order") return {};
  std::vector<int64_t> rows(static_cast<size_t>(clients));
  if (assign == "random") {
    Rng rng(job.seed(), "devices");
    if (count < clients) {
      for (int64_t& row : rows) row = rng.below(count);
      return rows;
    }
    const std::vector<int64_t> order = rng.permutation(count);
    std::copy(order.begin(), order.begin() + clients, rows.begin());
    return rows;
  }
  // Devices from the slowest one, as often as there are clients; clients by what they follow.
  std::vector<std::pair<double, int64_t>> speed;
  for (int64_t client = 0; client < clients; ++client) {
    const int64_t row = client % count;
    speed.emplace_back(-devices.device(row).seconds_per_sample, row);
  }
  std::sort(speed.begin(), speed.end());
  std::vector<std::pair<int64_t, int64_t>> order;
  const torch::Tensor labels = train.labels;
  FL_CHECK(assign == "speed-by-size" || !labels.is_floating_point(),
           "devices.assign is speed-by-label, but the data have numbers for labels");
  const torch::Tensor numbers = labels.to(torch::kInt64).contiguous();
  const int64_t positions = train.positions();
  for (int64_t client = 0; client < clients; ++client) {
    int64_t key = partition.size(client);
    if (assign == "speed-by-label") {
      std::map<int64_t, int64_t> counts;
      for (const int64_t sample : partition.of(client))
        ++counts[numbers.data_ptr<int64_t>()[sample * positions]];
      const auto most =
          std::max_element(counts.begin(), counts.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      key = most == counts.end() ? 0 : most->first;
    }
    order.emplace_back(key, client);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 0; i < order.size(); ++i)
    rows[static_cast<size_t>(order[i].second)] = speed[i].second;
  return rows;
}

}  // namespace fl_sim
