#include "commands/provenance.h"

#include <ATen/Version.h>
#include <torch/version.h>
#include <boost/version.hpp>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/version.h"
#include "network/arithmetic.h"
#include "process/communicator.h"

namespace fl_sim {

namespace {

// The instruction set that LibTorch's own kernels use, "AVX2": results depend on it.
std::string cpu_capability() {
  const std::string config = at::show_config(), key = "CPU capability usage: ";
  const size_t begin = config.find(key);
  if (begin == std::string::npos) return "unknown";
  return config.substr(begin + key.size(), config.find('\n', begin) - begin - key.size());
}

}  // namespace

std::map<std::string, std::string> provenance() {
  return {{"fl_sim", version()},
          {"libtorch", TORCH_VERSION},
          {"cpu_capability", cpu_capability()},
          {"blas", blas_kernels()},
          {"kernels", own_kernels()},
          {"mpi", mpi_library_version()},
          {"hdf5", hdf5_library_version()},
          {"boost", BOOST_LIB_VERSION},
          {"compiler", __VERSION__}};
}

std::string libraries() {
  const auto all = provenance();
  return message("LibTorch ", all.at("libtorch"), " (", all.at("cpu_capability"), ", BLAS ",
                 all.at("blas"), "), own kernels ", all.at("kernels"), ", ", all.at("mpi"),
                 ", HDF5 ", all.at("hdf5"), ", Boost ", all.at("boost"));
}

}  // namespace fl_sim
