// Devices from the slowest to the fastest in even steps.
#include "learning/devices.h"

namespace fl_sim {
namespace {

class SpreadDevices final : public Devices {
 public:
  explicit SpreadDevices(const Setup& setup)
      : Devices(setup),
        clients_(setup.clients),
        percent_(setup.job.get<double>("spread.percent")) {}

  static PluginInfo describe() {
    return {.summary = "computing times in even steps, the last device the fastest",
            .source =
                "Fraboni et al., A general theory for federated optimization with "
                "asynchronous and heterogeneous clients updates, 2022, Section 5",
            .rule =
                "Device r of N takes `devices.seconds-per-sample` (1 - P r / (100 (N - 1))) "
                "seconds a sample: with P = 80 the first is 5 times as slow as the last.",
            .options = {{.name = "percent",
                         .type = Option::Type::kNumber,
                         .default_value = "80",
                         .meaning = "P, by how much the last device's time is shorter",
                         .range = from_below(0, 100)}},
            .reads = clock_keys({"devices.seconds-per-sample", "devices.down-bps", "devices.up-bps",
                                 "devices.jitter"}),
            .example = "--devices spread"};
  }

  int64_t rows() const override { return clients_; }
  Device device(int64_t row) const override {
    Device device = options().device();
    const auto steps = static_cast<double>(clients_ > 1 ? clients_ - 1 : 1);
    device.seconds_per_sample *= 1 - percent_ / 100 * static_cast<double>(row) / steps;
    return device;
  }

 private:
  int64_t clients_;
  double percent_;
};

FL_REGISTER(Devices, "spread", SpreadDevices);

}  // namespace
}  // namespace fl_sim
