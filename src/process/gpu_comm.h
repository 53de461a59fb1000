// How the tensors of a device reach MPI: as device pointers, or through the host's memory.
#pragma once

#include <torch/types.h>

#include <string>

namespace fl_sim {

struct GpuComm {
  bool direct = false;  // MPI gets device pointers
  bool copies = false;  // also tensors on the CPU go through a copy
  std::string reason;   // for the run's header
};

// `mode` is gpu-comm's auto, host or direct; `device` is where ranks compute. Throws Error if
// direct is asked for and MPI cannot.
GpuComm choose_gpu_comm(const std::string& mode, torch::Device device);

}  // namespace fl_sim
