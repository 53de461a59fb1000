// Where a result comes from: versions, revision, hosts.
#pragma once

#include <map>
#include <string>

namespace fl_sim {

// Versions of fl_sim and of the libraries it runs on, and the processor's instruction set as
// LibTorch uses it.
std::map<std::string, std::string> provenance();

// The libraries of them in a line, "LibTorch 1.13.0 (AVX512, BLAS OpenBLAS SkylakeX), ...".
std::string libraries();

}  // namespace fl_sim
