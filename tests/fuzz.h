// Mutation tests of everything that reads a file: small valid ones are damaged in many ways, by
// seed. A reader must refuse what it cannot read with an Error that names the file, or read
// something whole; never crash, hang, claim memory for what is not there, or throw anything else.
// The readers are built with AddressSanitizer and UndefinedBehaviorSanitizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "data_files.h"

namespace fl_sim::fuzz {

// What reading damaged files led to.
struct Outcome {
  int64_t refused = 0;  // parts of it, by an Error
  std::string refusal;  // the first one's words
  std::string wrong;    // empty: nothing
};

struct Case {
  // Damages the files, which are as they were; returns which of them.
  std::function<std::string(Rng&)> damage;
  std::function<void()> restore;
  std::function<Outcome()> read;
  // In a process of its own, for libraries that a damaged file can crash, which is no fault of
  // ours. What they are called, as in "libhdf5.so.103"; empty: in this process.
  std::string crashing_library;
};

// A case, and its part of all mutations.
struct Entry {
  std::string name;
  int64_t weight;
  std::function<Case()> make;
};

std::vector<Entry> dataset_cases();
std::vector<Entry> job_cases();
std::vector<Entry> results_cases();
std::vector<Entry> checkpoint_cases();
std::vector<Entry> torchscript_cases();

// `read` says what is wrong with what it has read, if anything. A refusal has to name one of
// `places`.
Outcome attempt(const std::vector<std::string>& places, const std::function<std::string()>& read);

// Both.
Outcome operator+(Outcome a, const Outcome& b);

using Folder = std::shared_ptr<const TemporaryFolder>;
Folder folder_of(const std::string& name);

std::string bytes_of(const std::filesystem::path& path);

// One to three changes: bits, bytes, spans that are lost, twice or strange, other numbers, another
// end.
std::string mutated(std::string bytes, Rng& rng);

// How a file's bytes are damaged.
using Damage = std::function<std::string(std::string, Rng&)>;

// One of these files is damaged at a time; they must be there.
Case files_case(Folder folder, std::vector<std::string> files, std::function<Outcome()> read,
                const Damage& damage = mutated);

// Changes something in an HDF5 file by the library's own means, so that it stays a whole one:
// objects and attributes that are missing, renamed, of another type, shape or value, or links to
// nowhere.
void damage_hdf5(const std::string& path, Rng& rng);

}  // namespace fl_sim::fuzz
