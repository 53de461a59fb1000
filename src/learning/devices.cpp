#include "learning/devices.h"

#include <cmath>

#include "base/rng.h"

namespace fl_sim {

// The rates are the medians of 19 networks that Yang et al. measured phones on (Characterizing
// impacts of heterogeneity in federated learning upon large-scale smartphone data, WWW 2021);
// the seconds are FedScale's, 0.005 e a sample.
const OptionSet<DeviceOptions> DeviceOptions::kOptions(
    1020, {{&DeviceOptions::seconds_per_sample,
            {.name = "devices.seconds-per-sample",
             .default_value = "0.0136",
             .meaning = "seconds of a forward pass for one sample, on a device in the middle",
             .range = at_least(0),
             .read_by = "devices"}},
           {&DeviceOptions::sigma,
            {.name = "devices.sigma",
             .default_value = "0.6",
             .meaning = "spread of its logarithm over devices",
             .range = at_least(0),
             .read_by = "devices"}},
           {&DeviceOptions::down_bps,
            {.name = "devices.down-bps",
             .default_value = "41376000",
             .meaning = "bit/s to a device; 0: in no time",
             .range = at_least(0),
             .read_by = "devices"}},
           {&DeviceOptions::up_bps,
            {.name = "devices.up-bps",
             .default_value = "24824000",
             .meaning = "bit/s from a device; 0: in no time",
             .range = at_least(0),
             .read_by = "devices"}},
           {&DeviceOptions::jitter,
            {.name = "devices.jitter",
             .default_value = "0",
             .meaning = "spread of the logarithm of a client's computing time over its tasks",
             .range = at_least(0),
             .read_by = "devices"}}});

std::vector<std::string> clock_keys(std::vector<std::string> more) {
  for (const char* key : {"clock.rule",           "clock.pass-factor",
                          "clock.kappa",          "clock.over-commit",
                          "clock.keep",           "clock.deadline",
                          "clock.deadline-rule",  "clock.deadline-ratio",
                          "clock.deadline-share", "clock.late",
                          "clock.quorum",         "clock.wait-lost",
                          "clock.min-online",     "clock.server-seconds",
                          "clock.server-bps",     "clock.latency",
                          "clock.limit",          "clock.evaluate-seconds",
                          "clock.energy",         "devices.watts",
                          "devices.assign",       "availability.interruption"})
    more.emplace_back(key);
  return more;
}

Device DeviceOptions::device() const {
  const auto rate = [](double bps) {
    return bps > 0 ? bps : std::numeric_limits<double>::infinity();
  };
  return {
      .seconds_per_sample = seconds_per_sample, .down_bps = rate(down_bps), .up_bps = rate(up_bps)};
}

Devices::Devices(const Setup& setup)
    : options_(read_options<DeviceOptions>(setup.job)), seed_(setup.job.seed()) {}

Device Devices::in_task(const Device& device, int64_t client, int64_t task) const {
  Device now = device;
  const double s = options_.jitter;
  if (s > 0)
    now.seconds_per_sample *= std::exp(s * Rng(seed_, "jitter", task, client).normal() - s * s / 2);
  return now;
}

}  // namespace fl_sim
