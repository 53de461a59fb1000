// What starts ranks: mpirun, its daemons on other machines, or a batch system.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fl_sim {

// From now on this process is a run of its own, whatever a launcher has started beside it: the
// answers below are those without a launcher.
void ignore_launcher();
bool launcher_ignored();

// Whether this process is rank 0, as its launcher's environment says; true without a launcher. For
// before MPI starts.
bool launched_as_root();

// How many ranks the launcher has started, likewise; 0: it does not say.
int launched_ranks();

// The same of a batch job whose script has started this process instead of ranks: "SLURM_NTASKS=4".
std::string unused_tasks();

// How many of them are on this machine, and which of those this one is, likewise; {1, 0}: it does
// not say.
std::pair<int, int> launched_here();

// The variable that says so: "SLURM_STEP_NUM_TASKS=4"; empty: none does.
std::string launched_by();

// Whether the run has this one rank, likewise: false where it cannot be known.
bool launched_alone();

// A program that starts ranks of the MPI that this one was built with: what the environment
// variable FL_SIM_MPIRUN says, or else from the PATH. Empty: there is none.
std::string find_launcher();

// A list of variables (NAME=value) for the environment of a launcher that starts a few ranks on
// this machine, whatever it is: `own` without what an earlier launcher said to its ranks, and with
// what it lacks.
std::vector<std::string> environment_to_launch(const std::vector<std::string>& own);

// MPI_Abort reaches other machines by the network. Where that is cut, mpirun waits for its daemons
// and they for it. Leaves a process behind that ends this rank's launcher if it has not ended by
// itself after `seconds`, and then ends too. Does nothing under other launchers, such as Slurm's,
// which look after their nodes. Any thread.
void end_launcher_after(int seconds);

}  // namespace fl_sim
