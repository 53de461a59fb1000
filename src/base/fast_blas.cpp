#include "base/fast_blas.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace fl_sim {

void restart_for_fast_blas([[maybe_unused]] char** argv) {
  // The BLAS that LibTorch was built with, if that is one of the system's.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(FL_SIM_BLAS)
  constexpr const char* kVariable = "OPENBLAS_CORETYPE";
  if (std::getenv(kVariable) != nullptr) return;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
  void* const blas = dlopen(FL_SIM_BLAS, RTLD_LAZY);  // stays, for LibTorch
  void* const symbol = blas != nullptr ? dlsym(blas, "openblas_get_corename") : nullptr;
  if (symbol == nullptr) return;
  const std::string core = reinterpret_cast<const char* (*)()>(symbol)();
  const bool old = core == "Prescott" || core == "Core2" || core == "Nehalem" || core == "Penryn" ||
                   core == "Dunnington" || core == "Generic";
  if (!old) return;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  setenv(kVariable, avx512 ? "SkylakeX" : "Haswell", 1);
  std::error_code failed;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (!failed) execv(program.c_str(), argv);  // comes back if it fails: all works, if slower
#endif
}

}  // namespace fl_sim
