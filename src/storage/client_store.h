// Where a rank keeps what an algorithm remembers of each client, such as its own model or its
// control variate: in memory, and beyond a limit in files.
//
// Files hold the states used least recently, one each, in <directory>/rank-<r>/. They belong to
// this object: they are removed with it, and what a dead run has left there is removed at the
// start.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

namespace fl_sim {

class ClientStore {
 public:
  // Without a directory there are no files; 0 for `memory_bytes` sets no limit. Throws Error if
  // nothing can be written to the directory, which is made if need be, or if another run uses it.
  ClientStore(const std::string& directory, int64_t memory_bytes, int rank);
  ~ClientStore();

  // What a dead run on more ranks than these has left, on this machine.
  static void remove_leftovers(const std::string& directory, int ranks);

  ClientStore(const ClientStore&) = delete;
  ClientStore& operator=(const ClientStore&) = delete;

  bool has(int64_t client) const { return entries_.contains(client); }

  // The state as it was put, bit by bit, on the CPU; undefined if there is none. It shares the
  // store's memory: change it only to put it back. Throws Error if a file was lost or damaged.
  torch::Tensor get(int64_t client);

  // Keeps a state [n], float32 or float64, from any device, in place of the client's former one. It
  // is copied, unless it is what get() gave and nothing else refers to its memory. Throws Error if
  // it does not fit into memory without files, or if a file cannot be written.
  void put(int64_t client, torch::Tensor state);

  void erase(int64_t client);

  std::vector<int64_t> clients() const;  // that have a state, in ascending order

  // From here on what clients had stays in memory beside what is put, whatever the limit, until
  // roll_back() brings it back or the next begin_round() forgets it.
  void begin_round();
  void roll_back();

  // All states as they are now, for a thread that saves them while the store goes on: by client,
  // ascending. A state in a file is given as a file of its own, for that thread to remove.
  struct Saved {
    int64_t client;
    torch::ScalarType type;
    int64_t size;         // numbers
    torch::Tensor state;  // undefined: in the file
    std::string file = {};
    torch::Tensor load() const;  // from either; throws Error if the file is damaged
  };
  std::vector<Saved> capture() const;
  int64_t bytes_in_memory() const { return bytes_; }

 private:
  struct Entry {
    torch::Tensor state;    // undefined: in the file only
    bool has_file = false;  // which holds the same bits
    torch::ScalarType type;
    int64_t size;                        // numbers
    std::list<int64_t>::iterator place;  // in recent_, if in memory
  };

  std::string path(int64_t client) const;
  void keep(int64_t client, Entry& entry, torch::Tensor state);
  void release(Entry& entry);  // what it has in memory
  void remove_file(int64_t client, Entry& entry) const;
  void make_room();
  void write(int64_t client, const Entry& entry) const;
  void remember(int64_t client);

  std::string directory_;  // this rank's; empty: none
  int64_t limit_;          // bytes
  int rank_;
  int lock_ = -1;  // file descriptor
  int64_t bytes_ = 0;
  std::unordered_map<int64_t, Entry> entries_;
  std::list<int64_t> recent_;  // clients with a state in memory, the latest used first
  std::unordered_map<int64_t, torch::Tensor> undo_;  // as at the round's beginning; undefined: none
  bool remembers_ = false;
};

}  // namespace fl_sim
