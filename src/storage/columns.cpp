#include "storage/columns.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <span>
#include <utility>

#include "base/check.h"
#include "learning/record_columns.h"

namespace fl_sim {
namespace {

// So many rows at a time pass through memory.
constexpr int64_t kBlock = 1 << 14;

// Columns of records, written to a file or read from one: the list of them is the same for both.
class Writer {
 public:
  static constexpr bool kReads = false;
  explicit Writer(Hdf5File& file) : file_(file) {}
  // The records are rows `first` and following of `rows`.
  Writer(Hdf5File& file, int64_t first, int64_t rows) : file_(file), first_(first), rows_(rows) {}

  // `field`: of a record, a member or a function that gives a reference to one.
  template <class Record, class Field>
  void column(const std::string& path, const std::vector<Record>& records, const Field& field) {
    using Value = std::decay_t<decltype(std::invoke(field, records[0]))>;
    std::vector<Value> values;
    values.reserve(records.size());
    for (const Record& record : records) values.push_back(std::invoke(field, record));
    if (rows_ < 0) {
      file_.write(path, values);
      return;
    }
    constexpr bool kDouble = std::is_same_v<Value, double>;
    using Numbers = Hdf5File::Numbers;
    if (first_ == 0)
      file_.make_column(path, rows_, kDouble ? Numbers::kDoubles : Numbers::kIntegers);
    file_.write_rows(path, first_, std::span<const Value>(values));
  }

  // [records, numbers of each], where some have numbers; NaN for those that have none.
  template <class Record, class Field>
  void table(const std::string& path, const std::vector<Record>& records, const Field& field) {
    size_t width = 0;
    for (const Record& record : records) width = std::max(width, std::invoke(field, record).size());
    if (width == 0) return;
    std::vector<double> values;
    for (const Record& record : records) {
      const std::vector<double>& numbers = std::invoke(field, record);
      for (size_t i = 0; i < width; ++i)
        values.push_back(i < numbers.size() ? numbers[i] : kNotMeasured);
    }
    file_.write(path, values, {std::ssize(records), static_cast<int64_t>(width)});
  }

 private:
  Hdf5File& file_;
  int64_t first_ = 0, rows_ = -1;  // -1: the records are all
};

// Into records of the right number. A column that is not there leaves them as they are.
class Reader {
 public:
  static constexpr bool kReads = true;
  explicit Reader(const Hdf5File& file) : file_(file) {}
  Reader(const Hdf5File& file, int64_t first, int64_t rows)
      : file_(file), first_(first), rows_(rows) {}

  template <class Record, class Field>
  void column(const std::string& path, std::vector<Record>& records, const Field& field) {
    if (!file_.has(path)) return;
    using Value = std::decay_t<decltype(std::invoke(field, records[0]))>;
    const int64_t rows = rows_ < 0 ? std::ssize(records) : rows_;
    const std::vector<int64_t> shape = file_.shape(path);
    FL_CHECK(shape.size() == 1 && shape[0] == rows, path, " has ", shape.empty() ? 1 : shape[0],
             " rows, others ", rows);
    std::vector<Value> values(records.size());
    file_.read_rows(path, first_, std::span<Value>(values));
    for (size_t i = 0; i < values.size(); ++i) std::invoke(field, records[i]) = values[i];
  }

  template <class Record, class Field>
  void table(const std::string& path, std::vector<Record>& records, const Field& field) {
    if (!file_.has(path)) return;
    const std::vector<double> values = file_.read_doubles(path);
    const size_t width = records.empty() ? 0 : values.size() / records.size();
    FL_CHECK(values.size() == width * records.size(), path, " has ", values.size(), " numbers for ",
             records.size(), " rows");
    for (size_t i = 0; i < records.size(); ++i) {
      const auto row = values.begin() + static_cast<std::ptrdiff_t>(i * width);
      std::invoke(field, records[i]).assign(row, row + static_cast<std::ptrdiff_t>(width));
    }
  }

 private:
  const Hdf5File& file_;
  int64_t first_ = 0, rows_ = -1;
};

// Only what the columns are called, all that there may be.
class Names {
 public:
  static constexpr bool kReads = true;
  template <class Rows, class Field>
  void column(const std::string& path, Rows&, const Field&) {
    names_.insert(path.substr(path.rfind('/') + 1));
  }
  template <class Rows, class Field>
  void table(const std::string& path, Rows& records, const Field& field) {
    column(path, records, field);
  }
  std::set<std::string> take() { return std::move(names_); }

 private:
  std::set<std::string> names_;
};

// Of /rounds and /clients, less those of plug-ins.
const std::set<std::string>& own_round_columns() {
  static const std::set<std::string> names = [] {
    Names io;
    std::vector<RoundRecord> none;
    round_columns(io, none);
    return io.take();
  }();
  return names;
}
const std::set<std::string>& own_client_columns() {
  static const std::set<std::string> names = [] {
    Names io;
    std::vector<ClientRecord> none;
    client_columns(io, {}, {true, true, true}, none);
    return io.take();
  }();
  return names;
}

// Of a plug-in's figure or an algorithm's scalar.
void check_name(const std::string& what, const std::string& name, const std::string& table,
                const std::set<std::string>& taken) {
  FL_CHECK(!name.empty() && name != "." && name.find('/') == std::string::npos, what, " is named '",
           name, "' (must not be empty, '.' or contain '/'): it is a column of ", table);
  FL_CHECK(!taken.contains(name), what, " is named '", name, "', but ", table,
           " has a column of that name already (give it another one, such as the plug-in's, a dot "
           "and a word)");
}

// All of a log, block by block: without rows, empty columns.
template <class Record, class Columns>
void write_blocks(Hdf5File& file, const RecordLog<Record>& log, const Columns& columns) {
  int64_t first = 0;
  do {
    const std::vector<Record> block = log.read(first, std::min(kBlock, log.size() - first));
    Writer io(file, first, log.size());
    columns(io, block);
    first += std::ssize(block);
  } while (first < log.size());
}

int64_t rows_of(const Hdf5File& file, const std::string& column) {
  if (!file.has(column)) return 0;
  const std::vector<int64_t> shape = file.shape(column);
  FL_CHECK(shape.size() == 1, column, " is no column (it has ", shape.size(), " dimensions)");
  return shape[0];
}

// Rows are in the order of rounds, which begin with 1: what a damaged file claims beside its data
// reads as zeros.
template <class Record>
void check_rounds(const std::vector<Record>& rows, int64_t last, const std::string& table) {
  for (const Record& row : rows) {
    FL_CHECK(row.round >= std::max<int64_t>(1, last), table, " has a row of round ", row.round,
             " behind one of round ", last, " (damaged?)");
    last = row.round;
  }
}

// A table into an empty log, block by block. `columns` reads those of a block.
template <class Record, class Columns>
void read_blocks(const Hdf5File& file, const std::string& table, RecordLog<Record>& log,
                 const Columns& columns) {
  const int64_t rows = rows_of(file, table + "/round");
  int64_t last = 0;
  for (int64_t first = 0; first < rows; first += kBlock) {
    std::vector<Record> block(static_cast<size_t>(std::min(kBlock, rows - first)));
    Reader io(file, first, rows);
    columns(io, block);
    check_rounds(block, last, table);
    last = block.back().round;
    log.add(block);
  }
}

}  // namespace

void check_figures(const std::map<std::string, double>& figures) {
  for (const auto& [name, value] : figures)
    check_name("a plug-in's figure", name, "/rounds", own_round_columns());
}

void check_scalars(const std::vector<std::string>& scalars) {
  std::set<std::string> taken = own_client_columns();
  for (const std::string& name : scalars) {
    check_name("an algorithm's number per client", name, "/clients", taken);
    taken.insert(name);
  }
}

void write_rounds(Hdf5File& file, const std::vector<RoundRecord>& rounds,
                  const std::set<std::string>& asked) {
  std::set<std::string> figures;
  for (const RoundRecord& round : rounds) {
    for (const auto& [name, value] : round.figures) figures.insert(name);
  }
  Writer io(file);
  round_columns(io, rounds, asked);
  figure_columns(io, figures, rounds);
}

std::vector<RoundRecord> read_rounds(const Hdf5File& file) {
  const int64_t rows = rows_of(file, "/rounds/round");
  // Before there is a record for each: those are a hundred times as large.
  const std::vector<int64_t> numbers =
      rows > 0 ? file.read_integers("/rounds/round") : std::vector<int64_t>();
  for (int64_t i = 0; i < rows; ++i) {
    FL_CHECK(numbers[static_cast<size_t>(i)] == i + 1, "row ", i, " of /rounds is of round ",
             numbers[static_cast<size_t>(i)], " (must be ", i + 1, "; damaged?)");
  }
  std::vector<RoundRecord> rounds(static_cast<size_t>(rows));
  std::set<std::string> figures;
  if (file.has("/rounds")) {
    for (std::string& name : file.names("/rounds")) {
      if (!own_round_columns().contains(name)) figures.insert(std::move(name));
    }
  }
  Reader io(file);
  round_columns(io, rounds);
  figure_columns(io, figures, rounds);
  return rounds;
}

void write_clients(Hdf5File& file, const RecordLog<ClientRecord>& clients,
                   const std::vector<std::string>& scalars) {
  Further has{.timed = false, .powered = false, .asynchronous = false};
  if (clients.size() > 0) has = further_of(clients.read(0, 1)[0]);
  write_blocks(file, clients,
               [&](Writer& io, auto& records) { client_columns(io, scalars, has, records); });
  static_assert(static_cast<int64_t>(ClientStatus::kTrained) == 0 &&
                static_cast<int64_t>(ClientStatus::kNotNeeded) == 8);
  file.write_attribute("/clients/status", "codes",
                       "0 trained, 1 diverged, 2 straggler left out, 3 straggler's part counted, "
                       "4 lost, 5 trained but its own model diverged, 6 offline, 7 too old, "
                       "8 not needed");
}

void read_clients(const Hdf5File& file, const std::vector<std::string>& scalars,
                  RecordLog<ClientRecord>& clients) {
  read_blocks(file, "/clients", clients, [&](Reader& io, auto& records) {
    client_columns(io, scalars, {true, true, true}, records);
  });
}

std::vector<std::string> scalars_in(const Hdf5File& file) {
  std::vector<std::string> scalars;
  if (!file.has("/clients")) return scalars;
  for (const std::string& name : file.names("/clients")) {
    if (!own_client_columns().contains(name) && std::ssize(scalars) < ClientOutcome::kScalars)
      scalars.push_back(name);
  }
  return scalars;
}

void write_evaluations(Hdf5File& file, const RecordLog<ClientEvaluation>& evaluations,
                       const std::set<std::string>& asked) {
  write_blocks(file, evaluations,
               [&](Writer& io, auto& records) { evaluation_columns(io, records, asked); });
}

void read_evaluations(const Hdf5File& file, RecordLog<ClientEvaluation>& evaluations) {
  read_blocks(file, "/evaluations", evaluations,
              [](Reader& io, auto& records) { evaluation_columns(io, records, {}); });
}

namespace {

template <class Io, class Ranks>
void rank_columns(Io& io, Ranks& ranks) {
  io.column("/ranks/rank", ranks, &RankRecord::rank);
  io.column("/ranks/compute_seconds", ranks, &RankRecord::compute_seconds);
  io.column("/ranks/wait_seconds", ranks, &RankRecord::wait_seconds);
  io.column("/ranks/comm_seconds", ranks, &RankRecord::comm_seconds);
  io.column("/ranks/evaluate_seconds", ranks, &RankRecord::evaluate_seconds);
}

}  // namespace

void write_ranks(Hdf5File& file, const std::vector<RankRecord>& ranks) {
  std::vector<std::string> hosts, devices;
  for (const RankRecord& rank : ranks) {
    hosts.emplace_back(rank.host, strnlen(rank.host, sizeof rank.host));
    devices.emplace_back(rank.device, strnlen(rank.device, sizeof rank.device));
  }
  Writer io(file);
  rank_columns(io, ranks);
  file.write("/ranks/host", hosts);
  file.write("/ranks/device", devices);
}

std::vector<RankRecord> read_ranks(const Hdf5File& file) {
  std::vector<RankRecord> ranks(static_cast<size_t>(rows_of(file, "/ranks/rank")));
  Reader io(file);
  rank_columns(io, ranks);
  return ranks;
}

}  // namespace fl_sim
