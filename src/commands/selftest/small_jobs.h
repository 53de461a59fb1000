// A small job of every algorithm, as PluginInfo::example describes it: what is checked of an
// algorithm without knowing it, "ranks" and "save/load".
#pragma once

#include <string>
#include <vector>

namespace fl_sim::selftest {

// Rank 0 writes a line for each small job of these algorithms, "fedavg 2nn 3 <checksum>": model,
// group size and checksum of the model that it ends with, whatever the number of ranks. All ranks
// together, which are all that MPI was started with.
void print_checksums(const std::vector<std::string>& algorithms);

// The algorithms that are run together when the first "ranks" check wants to know the checksums for
// several ranks, which takes one start of mpirun for each number of ranks. Not chosen: all.
void choose_for_ranks(std::vector<std::string> algorithms);

}  // namespace fl_sim::selftest
