// All clients have the same device.
#include "learning/devices.h"

namespace fl_sim {
namespace {

class UniformDevices final : public Devices {
 public:
  explicit UniformDevices(const Setup& setup) : Devices(setup), clients_(setup.clients) {}

  static PluginInfo describe() {
    return {.summary = "the same device for every client",
            .rule = "`devices.seconds-per-sample`, `devices.down-bps` and `devices.up-bps`.",
            .reads = clock_keys({"devices.seconds-per-sample", "devices.down-bps", "devices.up-bps",
                                 "devices.jitter"}),
            .example = "--devices uniform"};
  }

  int64_t rows() const override { return clients_; }
  bool alike() const override { return true; }
  Device device(int64_t) const override { return options().device(); }

 private:
  int64_t clients_;
};

FL_REGISTER(Devices, "uniform", UniformDevices);

}  // namespace
}  // namespace fl_sim
