#include "learning/trace_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/text.h"

namespace fl_sim {
namespace {

const char* const kConvert = " (scripts/convert_trace makes an HDF5 file of it)";

// Cells between commas, without the blanks around them.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  size_t at = 0;
  for (;;) {
    const size_t comma = std::min(line.find(',', at), line.size());
    const size_t first = std::min(line.find_first_not_of(" \t", at), comma);
    size_t last = comma;
    while (last > first && (line[last - 1] == ' ' || line[last - 1] == '\t')) --last;
    cells.push_back(line.substr(first, last - first));
    if (comma == line.size()) return cells;
    at = comma + 1;
  }
}

std::string joined_cells(const std::vector<std::string>& cells) {
  std::string text;
  for (const std::string& cell : cells) text += (text.empty() ? "" : ",") + cell;
  return text;
}

// What a message shows of a text: the beginning, unprintable bytes as '.'.
std::string beginning_of(std::string text) {
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '.';
  }
  return "'" + text + "'";
}

}  // namespace

std::string trace_path(const std::string& key, const std::string& argument) {
  FL_CHECK(!argument.empty(), key,
           " is file, and names no file (must be file:PATH, HDF5 or CSV; "
           "--explain file says what is in it)");
  return argument;
}

bool is_hdf5_trace(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  FL_CHECK(in.good() && !std::filesystem::is_directory(path), path,
           ": cannot be read (must be a file, HDF5 or CSV)");
  std::string start(8, ' ');
  in.read(start.data(), 8);
  FL_CHECK(in.gcount() > 0, path, ": is empty (must be HDF5 or CSV)");
  // The first byte says so, the second which protocol: 2 to 5.
  FL_CHECK(
      start[0] != '\x80' || start[1] < 2 || start[1] > 5, path,
      ": is a Python pickle, as FedScale's traces are, which could run anything and is not read",
      kConvert);
  FL_CHECK(start[0] != '{', path, ": is JSON, as FLASH's traces are", kConvert);
  return start == "\x89HDF\r\n\x1a\n";
}

CsvRows::CsvRows(const std::string& path, std::vector<std::string> header)
    : path_(path), header_(std::move(header)) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  FL_CHECK(in.good() && bytes.good(), path, ": cannot be read");
  text_ = plain_text(std::move(bytes).str(), path);
  std::string line;
  FL_CHECK(next_line(line) && cells_of(line) == header_, where(), ": is ", beginning_of(line),
           " (must be the header ", joined_cells(header_), ")");
}

bool CsvRows::next_line(std::string& line) {
  while (at_ < text_.size()) {
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    line.assign(text_, at_, end - at_);
    at_ = end + 1;
    ++line_;
    if (line.find_first_not_of(" \t") != std::string::npos) return true;
  }
  return false;
}

bool CsvRows::next(std::vector<std::optional<double>>& cells) {
  std::string line;
  if (!next_line(line)) return false;
  const std::vector<std::string> texts = cells_of(line);
  FL_CHECK(texts.size() == header_.size(), where(), ": has ", texts.size(), " cells (must be ",
           header_.size(), ": ", joined_cells(header_), ")");
  cells.assign(texts.size(), std::nullopt);
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty()) continue;
    double value = 0;
    FL_CHECK(read_number(texts[i], value) && std::isfinite(value), where(), ": ", header_[i],
             " is ", beginning_of(texts[i]), " (must be a finite number)");
    cells[i] = value;
  }
  return true;
}

std::string CsvRows::where() const { return message(path_, ", line ", line_); }

int64_t CsvRows::row(const std::vector<std::optional<double>>& cells, int64_t last,
                     bool again) const {
  const double next = static_cast<double>(last + 1);
  FL_CHECK(
      cells[0].has_value() && (*cells[0] == next || (again && last >= 0 && *cells[0] == next - 1)),
      where(), ": row is ", cells[0] ? message(*cells[0]) : std::string("empty"), " (must be ",
      again && last >= 0 ? message(last, " or ") : std::string(), last + 1,
      "; rows are numbered from 0, in order, none left out)");
  return static_cast<int64_t>(*cells[0]);
}

}  // namespace fl_sim
