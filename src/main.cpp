// fl_sim: chooses the BLAS's kernels, then loads the library that is everything else.
//
// The program is not linked with that library, since LibTorch comes with it and takes a third of a
// second to load: where the program has to start anew for the BLAS, that happens before.
#include <dlfcn.h>

#include <cstdio>

#include "base/fast_blas.h"

int main(int argc, char** argv) {
  fl_sim::restart_for_fast_blas(argv);
  // For all: MPI, LibTorch and plug-ins load libraries that look for symbols in what is there.
  void* const library = dlopen(FL_SIM_LIBRARY, RTLD_LAZY | RTLD_GLOBAL);
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
