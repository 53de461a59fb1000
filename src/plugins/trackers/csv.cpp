// A run as tables for R, Julia and spreadsheets, written as it goes.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "learning/record_values.h"
#include "learning/tracker.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

// As few digits as say which number it is.
std::string text_of(const RecordValue& value) {
  std::array<char, 40> digits;
  const auto end = std::visit(
      [&](const auto number) {
        return std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
      },
      value.value);
  return {digits.data(), end};
}

// A name that may have a comma or a quotation mark.
std::string quoted(const std::string& name) {
  if (name.find_first_of(",\"\n") == std::string::npos) return name;
  std::string text = "\"";
  for (const char c : name) text += c == '"' ? "\"\"" : std::string(1, c);
  return text + "\"";
}

// One file: a heading, then a row a record, its first cell the round. A column that comes later is
// empty in the rows before.
class Table {
 public:
  explicit Table(std::string path) : path_(std::move(path)) {}

  // Removes rows behind a round; none is left of another run.
  void begin(int64_t after) {
    columns_.clear();
    if (after > 0 && fs::exists(path_)) {
      forget_after(after);
    } else {
      fs::remove(path_);
    }
  }

  void forget_after(int64_t round) {
    std::ifstream file(path_);
    if (!file) return;
    std::string heading, kept;
    std::getline(file, heading);
    columns_ = cells_of(heading);
    for (std::string line; std::getline(file, line) && !file.eof();) {  // what is cut off goes
      if (std::atoll(line.c_str()) <= round) kept += line + "\n";
    }
    file.close();
    rewrite(heading + "\n" + kept);
  }

  void add(const std::vector<std::vector<RecordValue>>& rows) {
    if (rows.empty()) return;
    const size_t before = columns_.size();
    for (const auto& row : rows) {
      for (const RecordValue& value : row) {
        if (std::find(columns_.begin(), columns_.end(), quoted(value.name)) == columns_.end())
          columns_.push_back(quoted(value.name));
      }
    }
    if (columns_.size() > before) widen(columns_.size() - before);
    std::string lines;
    for (const auto& row : rows) {
      size_t next = 0;  // columns and values have the same order, but for what is missing
      std::vector<std::string> cells(columns_.size());
      for (const RecordValue& value : row) {
        const std::string name = quoted(value.name);
        if (next >= columns_.size() || columns_[next] != name)
          next = static_cast<size_t>(std::find(columns_.begin(), columns_.end(), name) -
                                     columns_.begin());
        cells[next++] = text_of(value);
      }
      lines += joined(cells) + "\n";
    }
    std::ofstream out(path_, std::ios::app);
    out << lines << std::flush;
    FL_CHECK(out, path_, " cannot be written (track names it for csv)");
  }

 private:
  static std::string joined(const std::vector<std::string>& cells) {
    std::string line;
    for (size_t i = 0; i < cells.size(); ++i) line += (i > 0 ? "," : "") + cells[i];
    return line;
  }

  static std::vector<std::string> cells_of(const std::string& line) {
    std::vector<std::string> cells(1);
    bool within = false;
    for (const char c : line) {
      within = within != (c == '"');
      if (c == ',' && !within) {
        cells.emplace_back();
      } else {
        cells.back() += c;
      }
    }
    return cells;
  }

  // So many columns more, empty so far.
  void widen(size_t more) {
    std::string text = joined(columns_) + "\n";
    std::ifstream file(path_);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) text += line + std::string(more, ',') + "\n";
    file.close();
    rewrite(text);
  }

  void rewrite(const std::string& text) const {
    replace_file(path_, [&](const std::string& place) {
      std::ofstream out(place, std::ios::trunc);
      out << text << std::flush;
      FL_CHECK(out, place, " cannot be written (track names it for csv)");
    });
  }

  const std::string path_;
  std::vector<std::string> columns_;
};

class Csv final : public Tracker {
 public:
  explicit Csv(const Setup& setup)
      : folder_(setup.own_place()),
        rounds_(folder_ + "/rounds.csv"),
        clients_(folder_ + "/clients.csv"),
        evaluations_(folder_ + "/evaluations.csv"),
        ranks_(folder_ + "/ranks.csv") {
    FL_CHECK(!setup.argument.empty(),
             "track names csv without a folder (must be csv:FOLDER, such as csv:results/tables)");
  }

  static PluginInfo describe() {
    return {.summary = "csv:FOLDER, tables with a row a round, a client and an evaluation",
            .rule =
                "FOLDER/<name of the results file>/ gets rounds.csv, clients.csv, "
                "evaluations.csv where clients evaluate, ranks.csv at the end: the columns of the "
                "results file's tables that were measured, with a heading; what was not measured "
                "in a row is empty. Numbers have as many digits as say which double it is. A run "
                "that goes on removes the rows of rounds that it repeats.",
            .takes_argument = true};
  }

  void begin(const RunFacts& facts) override {
    std::error_code error;
    fs::create_directories(folder_, error);
    FL_CHECK(!error, folder_, " cannot be made (", error.message(), "); track names it for csv");
    scalars_ = facts.scalars;
    for (Table* table : {&rounds_, &clients_, &evaluations_}) table->begin(facts.after);
    ranks_.begin(0);
  }

  void clients(std::span<const ClientRecord> records) override {
    std::vector<std::vector<RecordValue>> rows;
    for (const ClientRecord& record : records) rows.push_back(values_of(record, scalars_));
    clients_.add(rows);
  }

  void evaluations(std::span<const ClientEvaluation> evaluations) override {
    std::vector<std::vector<RecordValue>> rows;
    for (const ClientEvaluation& one : evaluations) rows.push_back(values_of(one));
    evaluations_.add(rows);
  }

  void round(const RoundRecord& record) override { rounds_.add({values_of(record)}); }

  void forget_after(int64_t round) override {
    for (Table* table : {&rounds_, &clients_, &evaluations_}) table->forget_after(round);
  }

  void end(const Outcome& outcome) override {
    std::vector<std::vector<RecordValue>> rows;
    for (const RankRecord& rank : outcome.ranks) {
      rows.push_back({{"rank", rank.rank},
                      {"compute_seconds", rank.compute_seconds},
                      {"wait_seconds", rank.wait_seconds},
                      {"comm_seconds", rank.comm_seconds},
                      {"evaluate_seconds", rank.evaluate_seconds}});
    }
    ranks_.begin(0);
    ranks_.add(rows);
  }

 private:
  const std::string folder_;
  Table rounds_, clients_, evaluations_, ranks_;
  std::vector<std::string> scalars_;
};

FL_REGISTER(Tracker, "csv", Csv);

}  // namespace
}  // namespace fl_sim
