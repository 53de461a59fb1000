// What readers of data files share: where files are looked for, bytes and lines (plain or gzip),
// numbers in text, and tensors that take over a reader's memory.
//
// Every failure throws Error with the file's name. Memory grows with what a file holds, whatever
// its header claims.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/dataset.h"

namespace fl_sim {

constexpr const char* kFetchAgain = "; fetch the file again";

// Where data are looked for, in order: data-dir, or where that is auto $FL_SIM_DATA and then
// /usr/share/datasets.
std::vector<std::filesystem::path> data_folders(const Job& job);

// The folder that holds one of `files` (with `gzip` also ending in .gz): of each data folder first
// its subfolders `names`, then itself. Throws Error, with `advice` at its end, if there is none.
std::filesystem::path find_set(const Job& job, const std::vector<std::string>& names,
                               const std::vector<std::string>& files, const std::string& advice,
                               bool gzip = false);

// The file or its compressed form `file`.gz; empty if there is neither.
std::filesystem::path find_file(const std::filesystem::path& folder, const std::string& file);

// What `name` names: a path as it stands, or one within a data folder. `key` is what the job calls
// it. Throws Error if nothing is there.
std::filesystem::path find_path(const Job& job, const std::string& key, const std::string& name);

// Whether a path has one of `endings` (".json"), in small or capital letters.
bool has_ending(const std::filesystem::path& path, const std::vector<std::string>& endings);

// Regular files in `folder` with one of `endings`, sorted by name; hidden ones are none, such as
// the ._FILE that macOS puts beside each FILE.
std::vector<std::filesystem::path> list_files(const std::filesystem::path& folder,
                                              const std::vector<std::string>& endings);

// The bytes of a file, decompressed if they are gzip.
class ByteStream {
 public:
  explicit ByteStream(const std::string& path);
  ~ByteStream();
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  // Up to n bytes; fewer only where the data end, and then all checksums are right.
  size_t read(uint8_t* to, size_t n);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A file, byte by byte.
std::vector<uint8_t> read_bytes(const std::string& path);

// The lines of a text, which end with \n or \r\n; a byte order mark of UTF-8 is skipped. Throws
// Error, which says what it is, for a file that is no such text by its beginning.
class LineReader {
 public:
  explicit LineReader(const std::string& path);

  bool next(std::string& line);               // false: the text has ended
  int64_t number() const { return number_; }  // of the last line, from 1
  std::string where() const;                  // "data.csv, line 7"

 private:
  std::string path_;
  ByteStream in_;
  std::vector<uint8_t> buffer_;
  size_t at_ = 0, end_ = 0;
  int64_t number_ = 0;
};

// The number that the whole text stands for, blanks around it aside. False if it is none, or not
// finite.
bool parse_number(std::string_view text, double& value);
bool parse_number(std::string_view text, int64_t& value);

std::string_view trimmed(std::string_view text);

// What a message shows of a text: in quotes, cut short, unprintable bytes as '.'.
std::string shown(std::string_view text);

// "2 x 3"
std::string shape_text(torch::IntArrayRef sizes);

// A tensor of this shape over the vector's own memory.
template <class Value>
torch::Tensor to_tensor(std::vector<Value> values, std::vector<int64_t> shape) {
  constexpr auto type = c10::CppTypeToScalarType<Value>::value;
  if (values.empty()) return torch::empty(shape, type);
  auto owner = std::make_shared<std::vector<Value>>(std::move(values));
  Value* data = owner->data();
  return torch::from_blob(
      data, shape, [owner](void*) {}, type);
}

// Which of n samples are test samples, when a share of them is set aside by the job's seed: of each
// group (`group` [n]; empty: all are one), round(fraction * size) at random, but never a whole
// group. Throws Error, naming `path`, if that is not one sample in all.
std::vector<bool> draw_test_samples(const Job& job, const std::string& path, int64_t n,
                                    double fraction, const std::vector<int64_t>& group);

// Numbers the users of a file, those with training samples from 0 as they come.
class Owners {
 public:
  // The next n training samples are this user's, or the next n test samples, once all training
  // samples are known. A user without training samples owns none.
  void add(const std::string& user, int64_t n, Dataset& data, bool train = true);

 private:
  std::map<std::string, int64_t> numbers_;
};

// Runs `read` in a process of its own first, and throws Error, naming `path`, if that process
// crashes or hangs: for libraries that a damaged file can crash. An exception in there is none
// here.
void survive(const std::string& path, const std::function<void()>& read);

}  // namespace fl_sim
