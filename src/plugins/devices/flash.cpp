// Phones of three classes on the networks that FLASH measured.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/rng.h"
#include "learning/devices.h"

namespace fl_sim {
namespace {

constexpr size_t kClasses = 3;
// Phones of each in FLASH's list: Nexus S, Redmi Note 7 Pro, Pixel 4.
constexpr std::array<double, kClasses> kPhones = {18820, 16428, 159};

// What one training step takes, in milliseconds, on each class.
struct Workload {
  const char* name;
  double batch;
  std::array<double, kClasses> mean, deviation;  // deviation 0: not published
};
constexpr std::array<Workload, 4> kWorkloads = {{
    {"femnist", 10, {1642, 588, 179}, {99.5, 23.9, 2.3}},
    {"reddit", 10, {2596, 916, 527.7}, {}},
    {"celeba", 10, {5392, 1355, 561}, {}},
    {"shakespeare", 100, {28621, 13579, 10681}, {}},
}};

// Fitted to the means of its 19 network profiles: medians in byte/s, spreads of the logarithms and
// their correlation, and the deviation within a device over its mean.
constexpr double kDown = 5172e3, kDownSigma = 0.484, kDownWithin = 0.37;
constexpr double kUp = 3103e3, kUpSigma = 0.70, kUpWithin = 0.40;
constexpr double kCorrelation = 0.63;

Workload workload_of(const std::string& name) {
  return *std::find_if(kWorkloads.begin(), kWorkloads.end(),
                       [&](const Workload& w) { return w.name == name; });
}

// A normal draw that is no less than a tenth of its mean.
double positive(double mean, double deviation, Rng& rng) {
  return std::max(mean / 10, mean + deviation * rng.normal());
}

class FlashDevices final : public Devices {
 public:
  explicit FlashDevices(const Setup& setup)
      : Devices(setup),
        clients_(setup.clients),
        work_(workload_of(setup.job.get<std::string>("flash.workload"))),
        pass_(setup.job.get<double>("clock.pass-factor")) {}

  static PluginInfo describe() {
    return {
        .summary = "three classes of phones, and their networks",
        .source =
            "Yang et al., Characterizing impacts of heterogeneity in federated learning upon "
            "large-scale smartphone data, WWW 2021; device_util.py and speed_distri.json of "
            "FLASH",
        .rule =
            "53.15, 46.40 and 0.45 % of the devices are of the classes of a Nexus S, a Redmi Note "
            "7 Pro and a Pixel 4, which need as long for a batch as was measured on these "
            "(/clients/compute_seconds_virtual; normal in each task where the deviation is "
            "published). "
            "Rates to and from a device are lognormal with medians of 41.4 and 24.8 Mbit/s, "
            "spreads of 0.484 and 0.70 and a correlation of 0.63, fitted to FLASH's 19 networks; "
            "in each task normal around them with 37 and 40 % (no less than a tenth of the mean). "
            "clock.kappa auto takes LEAF's CNN for FEMNIST as what the phones were timed with; of "
            "the other models nobody says what they compute.",
        .options = {{.name = "workload",
                     .default_value = "femnist",
                     .meaning = "which of FLASH's models the phones were timed with",
                     .choices = {"femnist", "reddit", "celeba", "shakespeare"}}},
        .reads = clock_keys({}),
        .example = "--devices flash"};
  }

  int64_t rows() const override { return clients_; }

  // LEAF's CNN for FEMNIST: 5x5 convolutions to 32 and 64 channels at 28x28 and 14x14 pixels, 2048
  // units, 62 classes.
  double reference_flops() const override {
    constexpr double kFemnist =
        2.0 * (28 * 28 * 25 * 32 + 14 * 14 * 25 * 32 * 64 + 7 * 7 * 64 * 2048 + 2048 * 62);
    return work_.name == std::string("femnist") ? kFemnist : 0;
  }

  Device device(int64_t row) const override {
    Rng rng(seed(), "flash", 0, row);
    const double all = kPhones[0] + kPhones[1] + kPhones[2], u = rng.uniform() * all;
    Device device;
    device.kind = u < kPhones[0] ? 0 : u < kPhones[0] + kPhones[1] ? 1 : 2;
    device.seconds_per_sample =
        work_.mean[static_cast<size_t>(device.kind)] / 1000 / (work_.batch * pass_);
    const double a = rng.normal(), b = rng.normal();
    const double mixed = kCorrelation * a + std::sqrt(1 - kCorrelation * kCorrelation) * b;
    device.down_bps = 8 * kDown * std::exp(kDownSigma * a);
    device.up_bps = 8 * kUp * std::exp(kUpSigma * mixed);
    return device;
  }

  Device in_task(const Device& device, int64_t client, int64_t task) const override {
    Rng rng(seed(), "flash task", task, client);
    const auto kind = static_cast<size_t>(device.kind);
    Device now = device;
    now.seconds_per_sample *= positive(1, work_.deviation[kind] / work_.mean[kind], rng);
    now.down_bps = positive(device.down_bps, kDownWithin * device.down_bps, rng);
    now.up_bps = positive(device.up_bps, kUpWithin * device.up_bps, rng);
    return now;
  }

 private:
  int64_t clients_;
  Workload work_;
  double pass_;
};

FL_REGISTER(Devices, "flash", FlashDevices);

}  // namespace
}  // namespace fl_sim
