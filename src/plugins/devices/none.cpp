// No devices: a run without virtual time.
#include "learning/devices.h"

namespace fl_sim {
namespace {

class NoDevices final : public Devices {
 public:
  explicit NoDevices(const Setup& setup) : Devices(setup) {}

  static PluginInfo describe() {
    return {.summary = "no devices: the run has no virtual time",
            .rule = "Rounds are what time there is; nobody is faster than others."};
  }

  bool none() const override { return true; }
  int64_t rows() const override { return 1; }
  Device device(int64_t) const override { return {}; }
};

FL_REGISTER(Devices, "none", NoDevices);

}  // namespace
}  // namespace fl_sim
