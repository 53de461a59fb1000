// Records of a long run: a sequence that grows at its end, of which a megabyte stays in memory.
// What came before is in a file without a name, which ends with the process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fl_sim {

// The bytes of it.
class SpillFile {
 public:
  // Will lie in `folder`, which must exist by the first append().
  explicit SpillFile(std::string folder) : folder_(std::move(folder)) {}
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // Throw Error, naming the folder.
  void append(std::span<const std::byte> bytes);
  void read(int64_t first, std::span<std::byte> bytes) const;

  int64_t size() const { return size_; }
  void truncate(int64_t size) { size_ = size; }

 private:
  std::string folder_;
  int file_ = -1;  // descriptor
  int64_t size_ = 0;
};

template <class Record>
class RecordLog {
  static_assert(std::is_trivially_copyable_v<Record>);

 public:
  explicit RecordLog(std::string folder) : file_(std::move(folder)) {}

  int64_t size() const { return in_file() + std::ssize(latest_); }

  // Only the first `count` records stay.
  void truncate(int64_t count) {
    latest_.resize(static_cast<size_t>(std::max<int64_t>(0, count - in_file())));
    file_.truncate(std::min(count, in_file()) * kSize);
  }

  void add(std::span<const Record> records) {
    if (std::ssize(latest_) + std::ssize(records) > kInMemory) {
      file_.append(std::as_bytes(std::span(latest_)));
      latest_.clear();
    }
    if (std::ssize(records) > kInMemory) {
      file_.append(std::as_bytes(records));
    } else {
      latest_.insert(latest_.end(), records.begin(), records.end());
    }
  }

  // `count` records from `first` on, which must be there.
  std::vector<Record> read(int64_t first, int64_t count) const {
    std::vector<Record> records(static_cast<size_t>(count));
    const int64_t early = std::clamp<int64_t>(in_file() - first, 0, count);
    file_.read(first * kSize,
               std::as_writable_bytes(std::span(records).first(static_cast<size_t>(early))));
    std::copy_n(latest_.begin() + (first + early - in_file()), count - early,
                records.begin() + early);
    return records;
  }
  std::vector<Record> all() const { return read(0, size()); }

 private:
  static constexpr int64_t kSize = sizeof(Record);
  static constexpr int64_t kInMemory = (1 << 20) / kSize;

  int64_t in_file() const { return file_.size() / kSize; }

  SpillFile file_;
  std::vector<Record> latest_;
};

}  // namespace fl_sim
