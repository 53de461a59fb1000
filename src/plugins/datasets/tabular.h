// Tables: rows of cells in text files, read into numbers, classes and clients.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugins/datasets/files.h"

namespace fl_sim {

// Rows of numbers.
struct Matrix {
  int64_t columns = 0;
  std::vector<double> values = {};  // [rows, columns]

  int64_t rows() const { return columns > 0 ? std::ssize(values) / columns : 0; }
  double* row(int64_t i) { return values.data() + i * columns; }
  const double* row(int64_t i) const { return values.data() + i * columns; }
  Matrix select(const std::vector<int64_t>& indices) const;
  torch::Tensor floats() const;  // [rows, columns] float32; throws Error for what overflows
};

// The rows of a text file with a separator (RFC 4180: a cell in double quotes may hold separators,
// line breaks and, doubled, quotes). Empty lines are skipped.
class CellReader {
 public:
  // With ' ' as separator any run of blanks is one.
  CellReader(const std::string& path, char separator) : lines_(path), separator_(separator) {}

  bool next(std::vector<std::string>& cells);  // false: the file has ended
  std::string where() const { return lines_.where(); }

 private:
  LineReader lines_;
  char separator_;
  std::string line_, more_;
};

// A column of texts as numbers: what stands for the same number is one level ("1" and "1.0"),
// unless texts are names ("007" and "7").
class LevelColumn {
 public:
  enum class Kind { kValues, kNames };
  explicit LevelColumn(Kind kind = Kind::kValues) : kind_(kind) {}

  void add(std::string_view cell);
  bool numeric() const { return numeric_; }      // every level is a number
  size_t size() const { return index_.size(); }  // levels
  // The levels that were met first after `known` others, in alphabetical order.
  std::vector<std::string> new_levels(size_t known) const;
  bool contains(std::string_view level) const { return index_.find(level) != index_.end(); }

  // The levels in order, of numbers if all are, else of texts; and each row's place among them.
  struct Sorted {
    std::vector<std::string> names;
    std::vector<double> numbers;  // of the names; empty unless all are numbers
    std::vector<int64_t> codes;   // [rows]
  };
  Sorted sorted() const;

 private:
  Kind kind_;
  std::map<std::string, int64_t, std::less<>> index_;
  std::vector<int64_t> codes_;
  bool numeric_ = true;
};

// What the columns of a table are. Columns are named as in the header, or by number: from 0, or
// from -1 backwards.
struct TableFormat {
  std::string key;  // what messages call the table: "csv"
  char separator = ',';
  bool header = true;
  std::vector<std::string> missing = {};  // cells that say that there is no value; "empty"
  std::string label;
  std::string client = {};  // empty: there is none
  std::vector<std::string> drop = {};
  std::vector<std::string> onehot = {};
  bool drop_first = false;  // a one-hot column's first level has no column of its own
};

// All rows of some files, in order, but those with missing values.
class Table {
 public:
  explicit Table(TableFormat format) : format_(std::move(format)) {}

  // Appends a file's rows; returns how many. Throws Error, naming file and line, for what does not
  // fit.
  int64_t read(const std::string& path);

  // [rows, inputs]: the columns of numbers in file order, then a column for each level of each
  // one-hot column, in order.
  Matrix inputs() const;
  const LevelColumn& labels() const { return labels_; }
  const LevelColumn& clients() const { return clients_; }
  int64_t rows() const { return rows_; }
  int64_t left_out() const { return left_out_; }  // rows with missing values

 private:
  enum class Role { kNumber, kLevels, kLabel, kClient, kDropped };
  void assign_roles(const std::string& path, const std::vector<std::string>& cells);
  int64_t column_of(const std::string& path, const std::string& name, const std::string& key) const;
  bool is_missing(const std::string& cell) const;
  std::string column_name(size_t column) const;

  TableFormat format_;
  std::vector<std::string> names_;  // of the header; empty: there is none
  std::vector<Role> roles_;         // one a column
  int64_t rows_ = 0, left_out_ = 0;
  int64_t numbers_ = 0;         // columns of numbers
  std::vector<double> values_;  // [rows, numbers]
  std::vector<LevelColumn> levels_;
  std::vector<std::string> level_names_;
  LevelColumn labels_, clients_{LevelColumn::Kind::kNames};
};

// Each row minus the mean, over the standard deviation (n - 1) of the training rows of its group; a
// column that is constant within a group is only centred there. Groups are 0, 1, ... Throws Error,
// named by `name`, for a test row of a group without training rows.
void standardise(Matrix& train, const std::vector<int64_t>& train_group, Matrix& test,
                 const std::vector<int64_t>& test_group, const std::string& name);

}  // namespace fl_sim
