// What clients run on: how long they compute, and how fast they send and receive.
//
// Plug-ins live in src/plugins/devices/: populations of devices, generated or from files. Like
// availability they are pure functions of the job, so that whoever asks, and when, is told the
// same; nothing is kept per device.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/option_set.h"
#include "base/registry.h"

namespace fl_sim {

struct Device {
  double seconds_per_sample = 0;                              // of one forward pass
  double down_bps = std::numeric_limits<double>::infinity();  // bit/s to it
  double up_bps = std::numeric_limits<double>::infinity();    // and from it
  int64_t kind = 0;                                           // which of the population's classes
};

// Figures of devices that several populations read.
struct DeviceOptions {
  double seconds_per_sample = 0, sigma = 0;
  double down_bps = 0, up_bps = 0;  // 0: at once
  double jitter = 0;
  static const OptionSet<DeviceOptions> kOptions;

  Device device() const;  // with these figures
};

// The engine's keys that every job with devices has, for PluginInfo::reads of each population but
// `none`, and these beside them.
std::vector<std::string> clock_keys(std::vector<std::string> more);

class Devices {
 public:
  static constexpr const char* kKind = "devices";
  struct Setup {
    const Job& job;
    std::string argument;  // behind the colon of its name
    int64_t clients;       // ids 0 to clients - 1, those held out included
  };

  virtual ~Devices() = default;

  // Whether there are none: then the run has no virtual time.
  virtual bool none() const { return false; }

  // How many there are, 0 to rows() - 1; which client has which is for `devices.assign` to say.
  virtual int64_t rows() const = 0;
  virtual Device device(int64_t row) const = 0;

  // The operations of the forward pass, for a sample, that its seconds were measured for, a
  // multiplication with its addition being two; 0: not known.
  virtual double reference_flops() const { return 0; }

  // Whether it does not matter who has which.
  virtual bool alike() const { return false; }

  // What the device's figures are in one task, numbered `task`: by default its computing lasts
  // J times as long, J lognormal with mean 1 and sigma `devices.jitter`.
  virtual Device in_task(const Device& device, int64_t client, int64_t task) const;

  // Seconds that the client computes beside that, in one task of so many epochs.
  virtual double extra_seconds(int64_t client, int64_t task, int64_t epochs) const {
    (void)client, (void)task, (void)epochs;
    return 0;
  }

 protected:
  explicit Devices(const Setup& setup);
  const DeviceOptions& options() const { return options_; }
  uint64_t seed() const { return seed_; }

 private:
  const DeviceOptions options_;
  const uint64_t seed_;
};

}  // namespace fl_sim
