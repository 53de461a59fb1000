// Files of devices and of when clients can be reached: what their readers share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fl_sim {

// What stands behind the colon of "file:PATH", the value of the job's key `key`. Throws Error if
// that is nothing.
std::string trace_path(const std::string& key, const std::string& argument);

// Whether it is HDF5; other files are taken for CSV. Throws Error if it cannot be read, or is what
// scripts/convert_trace makes such a file of.
bool is_hdf5_trace(const std::string& path);

// A CSV file of numbers under a header that is known. Empty lines are skipped. Throws Error, naming
// file and line, for what does not fit.
class CsvRows {
 public:
  CsvRows(const std::string& path, std::vector<std::string> header);

  // The next line's cells, one for each column: finite numbers, or none where nothing stands
  // between the commas. False: the file has ended.
  bool next(std::vector<std::optional<double>>& cells);
  std::string where() const;  // "devices.csv, line 7"

  // Of the first cell, which numbers rows from 0: it may be the last row's number, if `again`, or
  // the next one's.
  int64_t row(const std::vector<std::optional<double>>& cells, int64_t last, bool again) const;

 private:
  bool next_line(std::string& line);

  std::string path_, text_;
  std::vector<std::string> header_;
  size_t at_ = 0;
  int64_t line_ = 0;
};

}  // namespace fl_sim
