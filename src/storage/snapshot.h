// What a run remembers after a round, as an HDF5 file: the server's state and that of the clients
// of one rank. A simulation that resumes from it goes on with the same bits.
//
//   /server/round                the round after which it was taken
//   /server/weights, /server/shared/..., /server/hidden/...   tensors, each with its `type`
//   /clients/<id>                [n] the client's state
#pragma once

#include <string>

#include "base/hdf5_file.h"
#include "learning/algorithm.h"
#include "storage/client_store.h"

namespace fl_sim {

// Of the server alone, in a file with whatever else.
void write_server(Hdf5File& file, const ServerState& server);
ServerState read_server(const Hdf5File& file);

// Throws Error if the file cannot be written.
void save_snapshot(const std::string& path, const ServerState& server, ClientStore& clients);

// Puts the clients' state into `clients`, which must be empty. The tensors are on the CPU. Throws
// Error if the file cannot be read.
ServerState load_snapshot(const std::string& path, ClientStore& clients);

}  // namespace fl_sim
