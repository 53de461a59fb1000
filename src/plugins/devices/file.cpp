// Devices from a file: FedScale's, or one's own.
#include <cmath>

#include "base/hdf5_file.h"
#include "learning/devices.h"
#include "learning/trace_file.h"

namespace fl_sim {
namespace {

class DeviceFile final : public Devices {
 public:
  explicit DeviceFile(const Setup& setup)
      : Devices(setup), path_(trace_path("devices", setup.argument)) {
    if (is_hdf5_trace(path_)) {
      read_hdf5();
    } else {
      read_csv();
    }
  }

  static PluginInfo describe() {
    return {.summary = "devices from a file, devices = file:PATH",
            .source =
                "Lai et al., FedScale: Benchmarking Model and System Performance of "
                "Federated Learning at Scale, ICML 2022",
            .rule =
                "Each of the file's D rows is a device; `devices.assign` says who has which.\n"
                "HDF5: /devices/seconds_per_sample (of one forward pass), down_bps, up_bps (bit/s) "
                "and class (integers, for results alone), each [D]. Its attribute "
                "reference_flops says how many operations the forward pass of a sample had that "
                "was timed, a multiplication with its addition being two, for `clock.kappa auto`; "
                "source and pass_factor are for people: `clock.pass-factor` says what counts. "
                "scripts/convert_trace makes it of FedScale's "
                "client_device_capacity.\n"
                "CSV: a header row,seconds_per_sample,down_bps,up_bps,class and a line for each "
                "device; rows are numbered from 0, in order.",
            .takes_argument = true,
            .reads = clock_keys({"devices.jitter"})};
  }

  int64_t rows() const override { return std::ssize(devices_); }
  double reference_flops() const override { return reference_flops_; }
  Device device(int64_t row) const override { return devices_[static_cast<size_t>(row)]; }

 private:
  // `where()` says in messages which row it is.
  template <class Where>
  void add(const Device& device, const Where& where) {
    const double seconds = device.seconds_per_sample;
    FL_CHECK(std::isfinite(seconds) && seconds >= 0, where(), ": seconds_per_sample is ", seconds,
             " (must be a finite number, at least 0)");
    const auto check_rate = [&](const char* name, double bps) {
      FL_CHECK(std::isfinite(bps) && bps > 0, where(), ": ", name, " is ", bps,
               " (must be a finite number of bit/s, more than 0)");
    };
    check_rate("down_bps", device.down_bps);
    check_rate("up_bps", device.up_bps);
    FL_CHECK(device.kind >= 0 && device.kind <= INT32_MAX, where(), ": class is ", device.kind,
             " (must be 0 to ", INT32_MAX, ")");
    devices_.push_back(device);
  }

  void read_hdf5() {
    const Hdf5File file = Hdf5File::open(path_);
    const auto check = [&](const std::string& what) {
      FL_CHECK(file.has(what), path_, ": has no ", what,
               " (must have /devices/seconds_per_sample, down_bps, up_bps and class)");
      FL_CHECK(file.shape(what).size() == 1, path_, ": ", what, " has ", file.shape(what).size(),
               " dimensions (must be a list)");
      return what;
    };
    const std::vector<double> seconds = file.read_doubles(check("/devices/seconds_per_sample"));
    const std::vector<double> down = file.read_doubles(check("/devices/down_bps"));
    const std::vector<double> up = file.read_doubles(check("/devices/up_bps"));
    const std::vector<int64_t> kinds = file.read_integers(check("/devices/class"));
    FL_CHECK(down.size() == seconds.size() && up.size() == seconds.size() &&
                 kinds.size() == seconds.size(),
             path_, ": has ", seconds.size(), " seconds_per_sample, ", down.size(), " down_bps, ",
             up.size(), " up_bps and ", kinds.size(),
             " class (must be one each for a device; cut short?)");
    FL_CHECK(!seconds.empty(), path_, ": holds no devices");
    if (file.has_attribute("/devices", "reference_flops")) {
      reference_flops_ = file.read_number_attribute("/devices", "reference_flops");
      FL_CHECK(std::isfinite(reference_flops_) && reference_flops_ >= 0, path_,
               ": attribute reference_flops of /devices is ", reference_flops_,
               " (must be a number of operations, 0 where it is not known)");
    }
    for (size_t row = 0; row < seconds.size(); ++row) {
      add({.seconds_per_sample = seconds[row],
           .down_bps = down[row],
           .up_bps = up[row],
           .kind = kinds[row]},
          [&] { return message(path_, ": row ", row); });
    }
  }

  void read_csv() {
    const std::vector<std::string> header = {"row", "seconds_per_sample", "down_bps", "up_bps",
                                             "class"};
    CsvRows rows(path_, header);
    for (std::vector<std::optional<double>> cells; rows.next(cells);) {
      const int64_t row = rows.row(cells, std::ssize(devices_) - 1, false);
      const auto where = [&] { return message(rows.where(), ": row ", row); };
      for (size_t i = 1; i < cells.size(); ++i) {
        FL_CHECK(cells[i], where(), ": ", header[i], " is empty (must be a number)");
      }
      FL_CHECK(*cells[4] == std::floor(*cells[4]) && std::abs(*cells[4]) <= INT32_MAX, where(),
               ": class is ", *cells[4], " (must be a whole number, 0 to ", INT32_MAX, ")");
      add({.seconds_per_sample = *cells[1],
           .down_bps = *cells[2],
           .up_bps = *cells[3],
           .kind = static_cast<int64_t>(*cells[4])},
          where);
    }
    FL_CHECK(!devices_.empty(), path_, ": holds no devices behind its header");
  }

  std::string path_;
  std::vector<Device> devices_;
  double reference_flops_ = 0;
};

FL_REGISTER(Devices, "file", DeviceFile);

}  // namespace
}  // namespace fl_sim
