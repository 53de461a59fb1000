// What differs from one MPI to another: extensions of the standard, launchers, and what they read
// and write in the environment. Open MPI has most of it; for MPICH and its kin (Intel's, Cray's)
// and for others the answers are plain. Everything else in this room speaks standard MPI.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "process/mpi_internal.h"

namespace fl_sim::dialect {

// Whether MPI reads and writes the memory of CUDA devices, and what it says of that.
bool reads_device_memory(std::string& reason);

// ULFM. Whether this MPI can go on after a rank's death, and whether it was started for that; the
// other functions are MPIX_Comm_revoke() and so on, and fail where it cannot.
bool knows_losses();
bool reports_losses();
int revoke(MPI_Comm comm);
int shrink(MPI_Comm comm, MPI_Comm* left);
int agree(MPI_Comm comm, int* flag);

// Before MPI starts: a rank that waits in a blocking call is to let others have the processor.
// Returns whether this MPI can do that; others spin.
bool yield_when_idle();

// Before MPI starts: where it makes the files of the memory that ranks share, unless the
// environment says so already. Returns whether this MPI can be told; others have to take care of
// their files themselves, as MPICH does: its files lose their names at once.
bool put_memory_files_in(const std::string& folder);

// Where these files are, and how much there each rank of a machine may come to take for its
// messages, in bytes; 0: nothing, or nothing that is known.
std::string memory_folder();
int64_t memory_of_a_rank();

// Where the launcher keeps this run's files on this machine, such as
// /tmp/ompi.<host>.<uid>/pid.<launcher>; empty: it does not.
std::string session_folder();

// Whether a process of this name (/proc/PID/comm) is mpirun, or its daemon for this run alone.
bool is_own_launcher(const std::string& name);

// Programs that start ranks of this MPI, the one that is surest to do so first.
std::vector<const char*> launchers();

// With what its launcher starts a few ranks on whatever machine this is, root or not; others do not
// mind. scripts/environment says why.
std::vector<std::pair<const char*, const char*>> few_ranks_anywhere();

}  // namespace fl_sim::dialect
