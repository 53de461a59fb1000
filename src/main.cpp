// fl_sim: chooses the BLAS's kernels, then loads the library that is everything else.
//
// The program is not linked with that library, since LibTorch comes with it and takes a third of a
// second to load: where the program has to start anew for the BLAS, that happens before.
#include <dlfcn.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/fast_blas.h"

int main(int argc, char** argv) {
  fl_sim::restart_for_fast_blas(argv);
  // Who starts a run may have it outlive its terminal (nohup); UCX, which MPI loads, takes the
  // signal.
  struct sigaction hangup = {};
  sigaction(SIGHUP, nullptr, &hangup);
  // For all: MPI, LibTorch and plug-ins load libraries that look for symbols in what is there.
  void* library = dlopen(FL_SIM_LIBRARY, RTLD_LAZY | RTLD_GLOBAL);
  // Where somebody else's dlopen() stands between, as a sanitizer's does, this program's run path
  // is not looked at.
  for (const char* place : {"/", "/../lib/"}) {
    if (library != nullptr) break;
    std::error_code failed;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", failed);
    const std::string path = program.parent_path().string() + place + FL_SIM_LIBRARY;
    library = dlopen(path.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  }
  sigaction(SIGHUP, &hangup, nullptr);
  void* const entry = library != nullptr ? dlsym(library, "fl_sim_main") : nullptr;
  if (entry == nullptr) {
    std::fprintf(stderr,
                 "fl_sim: its library cannot be loaded (%s); it belongs beside the program, or "
                 "into ../lib\n",
                 dlerror());
    return 1;
  }
  return reinterpret_cast<int (*)(int, char**)>(entry)(argc, argv);
}
