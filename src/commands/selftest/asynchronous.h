// Asynchronous runs whose every arrival can be worked out by hand.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "commands/selftest/experiments.h"
#include "learning/devices.h"
#include "learning/sampler.h"

namespace fl_sim::selftest {

// Tasks that take so many seconds, whatever the client holds.
class FixedDevices final : public Devices {
 public:
  using Seconds = std::function<double(int64_t client, int64_t task)>;
  FixedDevices(const Job& job, Seconds seconds)
      : Devices(Setup{job, "", 1}), seconds_(std::move(seconds)) {}
  int64_t rows() const override { return 1; }
  Device device(int64_t) const override { return {}; }
  Device in_task(const Device& device, int64_t, int64_t) const override { return device; }
  double extra_seconds(int64_t client, int64_t task, int64_t) const override {
    return seconds_(client, task);
  }

 private:
  Seconds seconds_;
};

// Client k has the loss (w - a_k)^2 / 2, of one sample, and takes so many seconds; w is 0 at first.
struct Pulls {
  Vector targets = {0, 1, 4};  // a
  std::vector<double> seconds = {2, 3, 5};
  std::string algorithm = "fedbuff";
  std::string lines = "async.buffer = 2";
  double lr = 0.5;
};
Experiment experiment_of(const Pulls& pulls, int64_t rounds);
double weight_after(const Pulls& pulls, int64_t rounds);

// Draws those whose updates have counted least, of them the first ones.
std::unique_ptr<Sampler> fewest_first();

}  // namespace fl_sim::selftest
