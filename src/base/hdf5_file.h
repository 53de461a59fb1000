// HDF5 files, as much of them as we need. Only hdf5_file.cpp includes <hdf5.h>.
#pragma once

#include <cstdint>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fl_sim {

template <class Data>
concept Hdf5Numbers = std::ranges::contiguous_range<Data> &&
    (std::is_same_v<std::ranges::range_value_t<Data>, double> ||
     std::is_same_v<std::ranges::range_value_t<Data>, float> ||
     std::is_same_v<std::ranges::range_value_t<Data>, int64_t>);

// An open file; closed by the destructor. Threads may work on different files. Every failure throws
// Error with the file's name and the path inside it. Paths are absolute ("/rounds/loss"); groups on
// the way are made as needed. Not copyable.
class Hdf5File {
 public:
  // A new file; whatever stood at `path` is replaced.
  static Hdf5File create(const std::string& path);
  // An existing file, for reading. Throws Error if it is missing or not an HDF5 file.
  static Hdf5File open(const std::string& path);

  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&&) = delete;
  ~Hdf5File();

  // Datasets: double, float or int64_t, one behind the other in memory. `shape` by default: one
  // dimension of the data's size; empty: a scalar.
  template <Hdf5Numbers Data>
  void write(const std::string& path, const Data& data, const std::vector<int64_t>& shape = {-1}) {
    write_numbers(path, std::span<const std::ranges::range_value_t<Data>>(data), shape);
  }
  void write(const std::string& path, std::span<const std::string> data);  // [n] UTF-8 strings
  void write(const std::string& path, const std::string& text);            // a scalar UTF-8 string

  // A table [rows, columns], or a column [rows], that is filled some rows at a time. The data begin
  // at row `first`, and are numbers of the table's kind: floating-point ones or integers.
  enum class Numbers { kFloats, kDoubles, kIntegers };
  void make_table(const std::string& path, int64_t rows, int64_t columns, bool doubles);
  void make_column(const std::string& path, int64_t rows, Numbers type);
  template <class Number>
  void write_rows(const std::string& path, int64_t first, std::span<const Number> data);
  template <class Number>
  void read_rows(const std::string& path, int64_t first, std::span<Number> data) const;

  // Attributes of a group or dataset that exists, or of a group that is made.
  void write_attribute(const std::string& path, const std::string& name, const std::string& text);
  void write_attribute(const std::string& path, const std::string& name, double value);
  void write_attribute(const std::string& path, const std::string& name, int64_t value);

  bool has(const std::string& path) const;
  std::vector<std::string> names(const std::string& group) const;  // of a group's members, sorted
  std::vector<int64_t> shape(const std::string& path) const;
  bool holds_floats(const std::string& path) const;  // a dataset of float32 or float64
  std::vector<double> read_doubles(const std::string& path) const;  // any numeric type, converted
  std::vector<float> read_floats(const std::string& path) const;
  std::vector<int64_t> read_integers(const std::string& path) const;  // any integer type, converted
  std::string read_text(const std::string& path) const;
  std::vector<std::string> read_texts(const std::string& path) const;  // [n] strings
  bool has_attribute(const std::string& path, const std::string& name) const;
  std::string read_text_attribute(const std::string& path, const std::string& name) const;
  double read_number_attribute(const std::string& path, const std::string& name) const;

  // Flushes to the file system and closes, reporting errors that a destructor could not. fsync is
  // the caller's.
  void close();

 private:
  Hdf5File(std::string path, int64_t id) : path_(std::move(path)), id_(id) {}
  void make(const std::string& path, const std::vector<int64_t>& shape, Numbers type);
  template <class Number>
  void write_numbers(const std::string& path, std::span<const Number> data,
                     const std::vector<int64_t>& shape);

  std::string path_;
  int64_t id_;  // hid_t; -1 once closed
};

// From now on a crash of the library over a damaged file, and 5 s of the processor's time and one
// more for each megabyte, end the process with status 1 and the file's name. For programs' mains:
// while the library is at work it takes SIGSEGV, its like and SIGPROF, and the calling thread's
// second stack.
void tell_of_hdf5_crashes();

std::string hdf5_library_version();  // "1.10.8"

}  // namespace fl_sim
