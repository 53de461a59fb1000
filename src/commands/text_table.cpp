#include "commands/text_table.h"

#include <algorithm>

#include "base/text.h"

namespace fl_sim {

std::vector<size_t> TextTable::widths() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.least);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  return widths;
}

std::vector<std::string> TextTable::padded(const std::vector<std::string>& row,
                                           const std::vector<size_t>& widths) const {
  std::vector<std::string> cells;
  for (size_t i = 0; i < widths.size(); ++i) {
    const std::string cell = i < row.size() ? row[i] : "";
    const std::string space(widths[i] - width_of(cell), ' ');
    cells.push_back(columns_[i].right ? space + cell : cell + space);
  }
  return cells;
}

std::string TextTable::text() const {
  const std::vector<size_t> widths = this->widths();
  std::string all;
  for (const auto& row : rows_) {
    std::string line;
    for (const std::string& cell : padded(row, widths)) line += cell + "  ";
    line.erase(line.find_last_not_of(' ') + 1);
    all += line + "\n";
  }
  return all;
}

std::string TextTable::markdown() const {
  const std::vector<size_t> widths = this->widths();
  std::string all;
  for (const auto& row : rows_) {
    for (const std::string& cell : padded(row, widths)) all.append("| ").append(cell).append(" ");
    all += "|\n";
    if (&row != &rows_.front()) continue;
    for (const size_t width : widths) all.append("|").append(width + 2, '-');
    all += "|\n";
  }
  return all;
}

}  // namespace fl_sim
