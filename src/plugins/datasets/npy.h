// NumPy's .npy arrays, alone and within .npz archives. Only npy.cpp includes <zip.h>.
#pragma once

#include <torch/types.h>

#include <map>
#include <string>
#include <vector>

namespace fl_sim {

// Arrays by name, in the type they are stored in (unsigned 16 and 32 bit as int64), C-contiguous.
using NumpyArrays = std::map<std::string, torch::Tensor>;

// The names of the arrays that are there, in order. Throws Error if there is no whole archive.
std::vector<std::string> numpy_names(const std::string& path);

// Reads the arrays named by `wanted` (all others are skipped) from an .npz archive, or from the
// .npy files in a folder. Memory grows with what the files hold. Throws Error, naming the file and
// the array, unless each is a whole array of numbers.
NumpyArrays read_numpy(const std::string& path, const std::vector<std::string>& wanted);

}  // namespace fl_sim
