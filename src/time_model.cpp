#include "time_model.h"

#include <algorithm>
#include <numeric>

namespace fl_sim {
namespace {

constexpr double kKept = 0.8;    // of what was learnt, from round to round
constexpr double kOutlier = 4;   // times as long, or as short, as expected
constexpr double kDoubt = 0.05;  // how far each speed is drawn to 1

}  // namespace

TimeModel::TimeModel(const std::vector<int64_t>& hosts)
    : measured_(hosts.size()), predicted_(hosts.size()) {
  for (const int64_t rank : hosts) hosts_.push_back({.rank = rank});
}

double TimeModel::seconds(int64_t steps) const { return line_.at(steps); }

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
  for (double& sum : measured_) sum *= kKept;
  for (double& sum : predicted_) sum *= kKept;

  std::vector<double> seconds;  // without outliers
  for (const ClientRecord& record : records) {
    const double speed = hosts_[host_of(record.rank)].speed;
    const double middle = expected.at(record.steps) / speed;
    seconds.push_back(std::clamp(record.seconds, middle / kOutlier, middle * kOutlier));
    const auto s = static_cast<double>(record.steps);
    const double t = seconds.back() * speed;
    const double weight = 1 / (s + 1);  // the longer, the less certain
    w_ += weight;
    ws_ += weight * s;
    wss_ += weight * s * s;
    wt_ += weight * t;
    wst_ += weight * s * t;
  }
  line_ = fitted();
  learnt_ = true;

  for (size_t i = 0; i < records.size(); ++i) {
    const size_t host = host_of(records[i].rank);
    measured_[host] += seconds[i];
    predicted_[host] += line_.at(records[i].steps);
  }
  // A little of the average goes in, so that a host that was dealt nothing is tried again.
  const double doubt = kDoubt * std::accumulate(predicted_.begin(), predicted_.end(), 0.0) /
                       static_cast<double>(hosts_.size());
  double total = 0;
  for (size_t i = 0; i < hosts_.size(); ++i) {
    if (doubt > 0) hosts_[i].speed = (predicted_[i] + doubt) / (measured_[i] + doubt);
    total += hosts_[i].speed;
  }
  for (HostSpeed& host : hosts_) host.speed *= static_cast<double>(hosts_.size()) / total;
}

}  // namespace fl_sim
