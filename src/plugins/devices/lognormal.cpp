// Devices whose speeds are spread lognormally.
#include <cmath>

#include "base/rng.h"
#include "learning/devices.h"

namespace fl_sim {
namespace {

class LognormalDevices final : public Devices {
 public:
  explicit LognormalDevices(const Setup& setup) : Devices(setup), clients_(setup.clients) {}

  static PluginInfo describe() {
    return {.summary = "computing speeds spread lognormally, one network",
            .source = "FedScale, the option of its client_metadata.py: 0.005 LN(1, 0.6) s a sample",
            .rule =
                "Device r takes `devices.seconds-per-sample` e^(s z_r) seconds a sample, z_r "
                "standard normal and s `devices.sigma`.",
            .reads = clock_keys({"devices.seconds-per-sample", "devices.sigma", "devices.down-bps",
                                 "devices.up-bps", "devices.jitter"}),
            .elsewhere =
                "FedScale draws anew whenever it asks, so that planned and charged times "
                "differ.",
            .example = "--devices lognormal"};
  }

  int64_t rows() const override { return clients_; }
  Device device(int64_t row) const override {
    Device device = options().device();
    device.seconds_per_sample *=
        std::exp(options().sigma * Rng(seed(), "lognormal devices", 0, row).normal());
    return device;
  }

 private:
  int64_t clients_;
};

FL_REGISTER(Devices, "lognormal", LognormalDevices);

}  // namespace
}  // namespace fl_sim
