// Reading a TorchScript file, and saying why one cannot be read.
#pragma once

#include <torch/script.h>

#include <string>

namespace fl_sim {

// The module of `path` on the CPU. Throws Error, naming the file and what is wrong with it:
// operators that this LibTorch lacks, a file of weights without code, a file of another format.
torch::jit::Module load_torchscript(const std::string& path);

}  // namespace fl_sim
