#include "engine/time_model.h"

#include <algorithm>

namespace fl_sim {
namespace {

constexpr double kKept = 0.8;   // of what the line knows, from round to round
constexpr double kOutlier = 4;  // times as long, or as short, as expected
constexpr double kSame = 1.05;  // a host that differs less from the others does not differ
constexpr size_t kRounds = 5;   // that a host's speed follows from

// The middle one; of an even number the smaller of the two.
double middle_of(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + (std::ssize(sorted) - 1) / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

}  // namespace

TimeModel::TimeModel(const std::vector<int64_t>& hosts) : ratios_(hosts.size(), {1}) {
  for (const int64_t rank : hosts) hosts_.push_back({.rank = rank});
}

double TimeModel::seconds(int64_t steps) const { return line_.at(steps); }

double TimeModel::makespan(const std::vector<PlannedGroup>& groups) const {
  std::vector<double> load(hosts_.size());
  if (learnt_) {
    for (const PlannedGroup& group : groups) {
      const size_t host = host_of(group.rank);
      load[host] += group.seconds / hosts_[host].speed;
    }
  }
  return *std::max_element(load.begin(), load.end());
}

size_t TimeModel::host_of(int64_t rank) const {
  const auto host =
      std::lower_bound(hosts_.begin(), hosts_.end(), rank,
                       [](const HostSpeed& host, int64_t wanted) { return host.rank < wanted; });
  return static_cast<size_t>(host - hosts_.begin());
}

// The line through the weighted sums; where it would fall or start below 0, the nearest one that
// does not.
TimeModel::Line TimeModel::fitted() const {
  const double determinant = w_ * wss_ - ws_ * ws_;
  Line line{.start = 0, .step = wss_ > 0 ? wst_ / wss_ : 0};
  if (determinant > 1e-9 * w_ * wss_) {
    line.step = (w_ * wst_ - ws_ * wt_) / determinant;
    line.start = (wt_ - line.step * ws_) / w_;
    if (line.start < 0) line = {.start = 0, .step = wst_ / wss_};
  }
  if (line.step <= 0) line = {.start = wt_ / w_, .step = 0};
  return line;
}

void TimeModel::learn(const std::vector<ClientRecord>& records) {
  if (records.empty()) return;
  Line expected = line_;
  if (!learnt_) {  // as if to start cost a step; the rate is the middle one of all clients
    std::vector<double> rates;
    for (const ClientRecord& record : records)
      rates.push_back(record.seconds / static_cast<double>(record.steps + 1));
    std::nth_element(rates.begin(), rates.begin() + std::ssize(rates) / 2, rates.end());
    expected.start = expected.step = rates[rates.size() / 2];
  }
  for (double* sum : {&w_, &ws_, &wss_, &wt_, &wst_}) *sum *= kKept;
  for (const ClientRecord& record : records) {
    const double speed = hosts_[host_of(record.rank)].speed;
    const double middle = expected.at(record.steps);
    const double t = std::clamp(record.seconds * speed, middle / kOutlier, middle * kOutlier);
    const auto s = static_cast<double>(record.steps);
    const double weight = 1 / (s + 1);  // the longer, the less certain
    w_ += weight;
    ws_ += weight * s;
    wss_ += weight * s * s;
    wt_ += weight * t;
    wst_ += weight * s * t;
  }
  line_ = fitted();
  learnt_ = true;

  std::vector<double> measured(hosts_.size()), predicted(hosts_.size());
  for (const ClientRecord& record : records) {
    const size_t host = host_of(record.rank);
    measured[host] += record.seconds;
    predicted[host] += line_.at(record.steps);
  }
  double total = 0;
  for (size_t i = 0; i < hosts_.size(); ++i) {
    const bool measurable = measured[i] > 0 && predicted[i] > 0;
    ratios_[i].push_back(measurable ? measured[i] / predicted[i] : 1);
    if (ratios_[i].size() > kRounds) ratios_[i].pop_front();
    const double ratio = middle_of(ratios_[i]);
    hosts_[i].speed = ratio < kSame && ratio > 1 / kSame ? 1 : 1 / ratio;
    total += hosts_[i].speed;
  }
  for (HostSpeed& host : hosts_) host.speed *= static_cast<double>(hosts_.size()) / total;
}

}  // namespace fl_sim
