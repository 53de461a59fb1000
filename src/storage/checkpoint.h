// Checkpoints: what a run needs to go on after a round with the same bits, on any number of ranks.
//
//   <folder>/round-<r>/server.h5     the server's state: /server/round, after which it was taken;
//                                    /server/weights, /server/shared/..., /server/hidden/...,
//                                    and in an asynchronous run /server/versions/<v>/...,
//                                    tensors, each with its `type`, and /server/drawn
//   <folder>/round-<r>/rank-<k>.h5   of the clients whose state rank k held: /clients/id [n] and
//                                    /clients/state [n, length]
//   <folder>/round-<r>/manifest      what belongs to it, with sizes and checksums, and the job
//
// Every rank writes its own file, in a thread beside its training. The manifest is written when all
// others are there, and renamed into place last: without one there is no checkpoint. The former
// checkpoint stays until then. Rows of the results are in the results file, which is written first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/job.h"
#include "base/option_set.h"
#include "learning/algorithm.h"
#include "storage/client_store.h"

namespace fl_sim {

struct CheckpointOptions {
  int64_t every = 0;   // rounds; 0: only when a signal stops the run
  std::string folder;  // "auto": where the results file is
  std::string resume;  // "no", "auto" or "must"
  bool keep = false;   // a run that is through leaves its last one
  static const OptionSet<CheckpointOptions> kOptions;
};

struct CheckpointFile {
  std::string name;
  int64_t bytes = 0;
  std::string checksum = {};  // crc32, 8 hexadecimal digits
  int64_t clients = 0;
};

struct Manifest {
  static constexpr int64_t kVersion = 2;  // counted up with every change

  int64_t round = 0;           // after which it was taken
  std::string folder = {};     // where it lies: <folder>/round-<r>
  std::string program = {};    // fl_sim's version
  std::string partition = {};  // checksums of what the job was given
  std::string data = {};
  std::map<std::string, std::string> job = {};  // as resolved
  std::vector<CheckpointFile> files = {};       // server.h5 first
};

// Numbers of clients' states, of `length` each, that pass through memory at a time while a
// checkpoint is written.
int64_t saving_block(int64_t length);

// The folder of a job's checkpoints: named as its results file, in checkpoint-dir or beside it.
std::string checkpoint_folder(const Job& job);

std::string round_folder(const std::string& folder, int64_t round);

// Lines "key: there ..., here ...", of keys that may not differ.
std::vector<std::string> differences(const std::map<std::string, std::string>& there,
                                     const std::map<std::string, std::string>& here);

// What is said in a round's folder. Throws Error if it is damaged, of another program or of another
// format.
Manifest read_manifest(const std::string& round_folder);

// The newest checkpoint of a folder, if there is one; what was begun and not finished is removed.
// Throws Error if there are only damaged ones, or those of another program or another format of
// it.
std::optional<Manifest> find_checkpoint(const std::string& folder);

// Throws Error if a file is missing, or is not what the manifest says.
void verify(const Manifest& manifest, const CheckpointFile& file);

// The server's file.
CheckpointFile write_server_file(const std::string& folder, const ServerState& server);
ServerState read_server_file(const Manifest& manifest);

// The states that another rank's file holds go into `clients`.
void read_clients_file(const Manifest& manifest, const CheckpointFile& file, ClientStore& clients);

// The last step: makes the checkpoint one, and removes the others of its folder.
void commit(const Manifest& manifest);

// All checkpoints of a folder, and the folder if nothing else is in it.
void remove_checkpoints(const std::string& folder);

// Those of a job that is through, unless it keeps them.
void tidy_checkpoints(const Job& job);

// Throws Error if nothing can be written there; makes it if need be.
void prepare_checkpoints(const std::string& folder);

// Writes a rank's states in a thread of its own.
class CheckpointWriter {
 public:
  CheckpointWriter() = default;
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Begins to write rank-<rank>.h5, after the one before is through. `length`: of a state.
  void start(const std::string& folder, int rank, int64_t round, int64_t length,
             torch::ScalarType type, std::vector<ClientStore::Saved> states);

  // What became of it, once; nothing while it is under way or if there was none. wait: until it is
  // through.
  struct Done {
    int64_t round;
    CheckpointFile file;
    std::string error;  // empty: it is there
  };
  std::optional<Done> take(bool wait = false);

 private:
  struct Task;
  std::thread thread_;
  std::shared_ptr<Task> task_;
};

}  // namespace fl_sim
