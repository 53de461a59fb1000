// Tables for a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace fl_sim {

class TextTable {
 public:
  struct Column {
    bool right = false;  // cells stand at its right end
    size_t least = 0;    // code points that it takes at least; else as many as its widest cell
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // A row, from the left; cells may be missing at its end.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // A line a row, columns two blanks apart, no blanks at its end.
  std::string text() const;

  // For Markdown; the first row is the heading.
  std::string markdown() const;

 private:
  std::vector<size_t> widths() const;
  // The cells of a row, as wide as their columns.
  std::vector<std::string> padded(const std::vector<std::string>& row,
                                  const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace fl_sim
