// Tasks whose durations are drawn, each anew.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/rng.h"
#include "learning/devices.h"

namespace fl_sim {
namespace {

// |N(0, 1)| units for a task, and nothing else takes time.
class HalfNormalDevices final : public Devices {
 public:
  explicit HalfNormalDevices(const Setup& setup)
      : Devices(setup), clients_(setup.clients), unit_(setup.job.get<double>("halfnormal.unit")) {}

  static PluginInfo describe() {
    return {.summary = "each task takes |N(0, 1)| units, whoever does it",
            .source =
                "Nguyen et al., Federated learning with buffered asynchronous aggregation, "
                "AISTATS 2022; FLSim's example",
            .rule =
                "A task takes `halfnormal.unit` |z| seconds, z standard normal, drawn for each "
                "client and round; 0.798 units on average. Samples and bytes take no time.",
            .options = {{.name = "unit",
                         .type = Option::Type::kNumber,
                         .default_value = "1",
                         .meaning = "seconds of a unit",
                         .range = more_than(0)}},
            .reads = clock_keys({}),
            .example = "--devices halfnormal"};
  }

  int64_t rows() const override { return clients_; }
  bool alike() const override { return true; }
  Device device(int64_t) const override { return {}; }
  Device in_task(const Device& device, int64_t, int64_t) const override { return device; }
  double extra_seconds(int64_t client, int64_t task, int64_t) const override {
    return unit_ * std::abs(Rng(seed(), "duration", task, client).normal());
  }

 private:
  int64_t clients_;
  double unit_;
};

// Equal devices that idle for a while in each epoch.
class ParetoDevices final : public Devices {
 public:
  explicit ParetoDevices(const Setup& setup)
      : Devices(setup),
        clients_(setup.clients),
        shape_(setup.job.get<double>("pareto.shape")),
        most_(setup.job.get<double>("pareto.most")) {}

  static PluginInfo describe() {
    return {.summary = "equal devices that lose Pareto-distributed seconds in each epoch",
            .source = "Plato (Li et al.), clients/simple.py, its simulation of heterogeneity",
            .rule =
                "A client has min(X_k, `pareto.most`) seconds more for each epoch, X_k Pareto "
                "with minimum 1, drawn once for each client.",
            .options = {{.name = "shape",
                         .type = Option::Type::kNumber,
                         .default_value = "1",
                         .meaning = "the shape of the distribution; smaller: longer tails",
                         .range = more_than(0)},
                        {.name = "most",
                         .type = Option::Type::kNumber,
                         .default_value = "60",
                         .meaning = "most seconds an epoch",
                         .range = at_least(0)}},
            .reads = clock_keys({"devices.seconds-per-sample", "devices.down-bps", "devices.up-bps",
                                 "devices.jitter"}),
            .example = "--devices pareto"};
  }

  int64_t rows() const override { return clients_; }
  bool alike() const override { return true; }
  Device device(int64_t) const override { return options().device(); }
  double extra_seconds(int64_t client, int64_t, int64_t epochs) const override {
    const double u = Rng(seed(), "pareto", 0, client).uniform();
    return static_cast<double>(epochs) * std::min(most_, std::pow(1 - u, -1 / shape_));
  }

 private:
  int64_t clients_;
  double shape_, most_;
};

FL_REGISTER(Devices, "halfnormal", HalfNormalDevices);
FL_REGISTER(Devices, "pareto", ParetoDevices);

}  // namespace
}  // namespace fl_sim
