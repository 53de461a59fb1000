// Initial weights from a file: `init = FILE`.
//
// FILE is a results file, whose /model is taken, or an HDF5 file with one dataset a parameter,
// named as in PyTorch's state_dict, at the root or in a group `model` or `state_dict`. From
// PyTorch:
//
//   with h5py.File("net.h5", "w") as file:
//       for name, tensor in net.state_dict().items():
//           file[name] = tensor.cpu().numpy()
#pragma once

#include <torch/types.h>

#include <string>

#include "network/parameter_layout.h"

namespace fl_sim {

// A row [row()] float32. Throws Error, with the file's name, what was expected and what was found,
// unless every parameter is there in its shape, as finite float32 or float64, and nothing else but
// `num_batches_tracked`, which PyTorch counts and nothing here needs.
torch::Tensor initial_row_from(const std::string& path, const ParameterLayout& layout);

}  // namespace fl_sim
