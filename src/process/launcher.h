// The process that started this rank on its machine: mpirun, or its daemon there.
#pragma once

namespace fl_sim {

// MPI_Abort reaches other machines by the network. Where that is cut, mpirun waits for its daemons
// and they for it. Leaves a process behind that ends this rank's launcher if it has not ended by
// itself after `seconds`, and then ends too. Does nothing under other launchers, such as Slurm's,
// which look after their nodes.
void end_launcher_after(int seconds);

}  // namespace fl_sim
