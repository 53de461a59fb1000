#include "process/gpu_comm.h"

#include "base/check.h"
#include "process/mpi_dialect.h"

namespace fl_sim {

GpuComm choose_gpu_comm(const std::string& mode, torch::Device device) {
  if (device.is_cpu()) {
    FL_CHECK(mode != "direct",
             "gpu-comm is direct, but ranks compute on CPUs (choose auto or host)");
    if (mode == "host") return {.copies = true, .reason = "host memory, copied as asked for"};
    return {.reason = "host memory"};
  }
  std::string reason;
  const bool aware = dialect::reads_device_memory(reason);
  FL_CHECK(mode != "direct" || aware, "gpu-comm is direct, but ", reason, " (choose auto or host)");
  if (aware && mode != "host") return {.direct = true, .reason = "device pointers: " + reason};
  if (mode == "host") reason = "as asked for";
  return {.reason = "staged through pinned host memory: " + reason};
}

}  // namespace fl_sim
