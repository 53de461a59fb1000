// OpenBLAS picks its kernels when it is loaded, by the processor that it finds or by the variable
// OPENBLAS_CORETYPE.
#pragma once

namespace fl_sim {

// OpenBLAS takes a processor that it does not know for an old one and is then several times too
// slow. If so, starts the program anew, with the kernels of the processor's vectors named in the
// environment; call it first in main(), and before LibTorch is loaded if that can be had: the BLAS
// alone takes milliseconds. A choice of the user's stands.
void restart_for_fast_blas(char** argv);

}  // namespace fl_sim
