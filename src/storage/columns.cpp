#include "storage/columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <set>
#include <span>
#include <utility>

#include "base/check.h"

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

// A model that several clients' evaluations are of: /rounds/<prefix>_<figure>.
template <class Io, class Rounds>
void summary_columns(Io& io, const std::string& prefix, Rounds& rounds,
                     EvaluationSummary RoundRecord::*summary, const std::set<std::string>& asked) {
  const auto measured = [&](const RoundRecord& round) { return (round.*summary).clients > 0; };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto EvaluationSummary::*member) {
    io.column(
        "/rounds/" + prefix + "_" + name,
        rounds, [=](auto& round) -> auto& { return round.*summary.*member; });
  };
  column("evaluated", &EvaluationSummary::clients);
  column("loss", &EvaluationSummary::loss);
  column("accuracy", &EvaluationSummary::accuracy);
  column("mean_loss", &EvaluationSummary::mean_loss);
  column("mean_accuracy", &EvaluationSummary::mean_accuracy);
  column("accuracy_variance", &EvaluationSummary::variance);
  column("accuracy_worst_10", &EvaluationSummary::worst_tenth);
  column("accuracy_best_10", &EvaluationSummary::best_tenth);
  column("accuracy_p10", &EvaluationSummary::percentile_10);
  column("accuracy_p50", &EvaluationSummary::percentile_50);
  column("accuracy_p90", &EvaluationSummary::percentile_90);
  const auto metric = [&](const std::string& asked_as, const std::string& name,
                          double EvaluationSummary::*weighted, double EvaluationSummary::*mean) {
    if (!Io::kReads && !asked.contains(asked_as)) return;
    column(name, weighted);
    column("mean_" + name, mean);
  };
  metric("balanced-accuracy", "balanced_accuracy", &EvaluationSummary::balanced_accuracy,
         &EvaluationSummary::mean_balanced_accuracy);
  metric("auc", "auc", &EvaluationSummary::area_under_curve,
         &EvaluationSummary::mean_area_under_curve);
  metric("f1", "f1", &EvaluationSummary::macro_f1, &EvaluationSummary::mean_macro_f1);
}

// /rounds/test_<metric>, those that the job asks for. One that is not defined, as the area under
// the curve of a single class, is a column of NaN.
template <class Io, class Rounds>
void metric_columns(Io& io, Rounds& rounds, const std::set<std::string>& asked) {
  const auto column = [&](const std::string& name, double Metrics::*member,
                          const std::string& metric) {
    const auto measured = [&](const RoundRecord& r) { return !std::isnan(r.metrics.*member); };
    if (!Io::kReads && !asked.contains(metric) &&
        std::none_of(rounds.begin(), rounds.end(), measured))
      return;
    io.column(
        "/rounds/test_" + name,
        rounds, [=](auto& round) -> auto& { return round.metrics.*member; });
  };
  column("balanced_accuracy", &Metrics::balanced_accuracy, "balanced-accuracy");
  column("auc", &Metrics::area_under_curve, "auc");
  column("f1", &Metrics::macro_f1, "f1");
  column("perplexity", &Metrics::perplexity, "perplexity");
  io.table(
      "/rounds/test_class_accuracy", rounds,
      [](auto& round) -> auto& { return round.metrics.class_accuracy; });
  io.table(
      "/rounds/test_class_f1", rounds, [](auto& round) -> auto& { return round.metrics.class_f1; });
}

// Of asynchronous runs.
template <class Io, class Rounds>
void staleness_columns(Io& io, Rounds& rounds) {
  const auto measured = [](const RoundRecord& round) { return round.virtual_time.asynchronous(); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto VirtualRound::*member) {
    io.column(
        "/rounds/" + name,
        rounds, [=](auto& round) -> auto& { return round.virtual_time.*member; });
  };
  column("stale", &VirtualRound::stale);
  column("staleness_mean", &VirtualRound::staleness_mean);
  column("staleness_max", &VirtualRound::staleness_max);
}

// Of runs with virtual time.
template <class Io, class Rounds>
void time_columns(Io& io, Rounds& rounds) {
  const auto measured = [](const RoundRecord& round) { return round.virtual_time.measured(); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto VirtualRound::*member) {
    io.column(
        "/rounds/" + name,
        rounds, [=](auto& round) -> auto& { return round.virtual_time.*member; });
  };
  column("virtual_seconds", &VirtualRound::end);
  column("round_seconds_virtual", &VirtualRound::length);
  column("online", &VirtualRound::online);
  column("started", &VirtualRound::started);
  column("finished", &VirtualRound::finished);
  column("offline", &VirtualRound::offline);
  column("not_needed", &VirtualRound::not_needed);
  column("wasted_samples", &VirtualRound::wasted_samples);
  column("wasted_bytes_down", &VirtualRound::wasted_bytes_down);
  column("wasted_bytes_up", &VirtualRound::wasted_bytes_up);
  const auto costs = [](const RoundRecord& r) { return !std::isnan(r.virtual_time.joules); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), costs)) return;
  column("joules", &VirtualRound::joules);
  column("wasted_joules", &VirtualRound::wasted_joules);
}

template <class Io, class Rounds>
void round_columns(Io& io, Rounds& rounds, const std::set<std::string>& asked = {}) {
  io.column("/rounds/round", rounds, &RoundRecord::round);
  io.column("/rounds/seconds", rounds, &RoundRecord::seconds);
  io.column("/rounds/idle_share", rounds, &RoundRecord::idle_share);
  io.column("/rounds/train_loss", rounds, &RoundRecord::train_loss);
  io.column("/rounds/test_loss", rounds, &RoundRecord::test_loss);
  io.column("/rounds/test_accuracy", rounds, &RoundRecord::test_accuracy);
  io.column("/rounds/cohort", rounds, &RoundRecord::cohort);
  io.column("/rounds/failed", rounds, &RoundRecord::failed);
  io.column("/rounds/diverged", rounds, &RoundRecord::diverged);
  io.column("/rounds/stragglers", rounds, &RoundRecord::stragglers);
  io.column("/rounds/lost", rounds, &RoundRecord::lost);
  io.column("/rounds/set_aside", rounds, &RoundRecord::set_aside);
  io.column("/rounds/partial", rounds, &RoundRecord::partial);
  io.column("/rounds/absent", rounds, &RoundRecord::absent);
  io.column("/rounds/samples", rounds, &RoundRecord::samples);
  io.column("/rounds/bytes_down", rounds, &RoundRecord::bytes_down);
  io.column("/rounds/bytes_up", rounds, &RoundRecord::bytes_up);
  io.column("/rounds/bytes_state", rounds, &RoundRecord::bytes_state);
  time_columns(io, rounds);
  staleness_columns(io, rounds);
  summary_columns(io, "clients", rounds, &RoundRecord::clients, asked);
  summary_columns(io, "personal", rounds, &RoundRecord::personal, asked);
  summary_columns(io, "holdout", rounds, &RoundRecord::holdout_clients, asked);
  summary_columns(io, "holdout_personal", rounds, &RoundRecord::holdout_personal, asked);
  io.table("/rounds/model_test_loss", rounds, &RoundRecord::model_loss);
  io.table("/rounds/model_test_accuracy", rounds, &RoundRecord::model_accuracy);
  metric_columns(io, rounds, asked);
}

// What plug-ins add to that: NaN in rounds without it.
template <class Io, class Rounds>
void figure_columns(Io& io, const std::set<std::string>& names, Rounds& rounds) {
  for (const std::string& name : names) {
    io.column(
        "/rounds/" + name, rounds, [&](auto& round) -> auto& {
          if constexpr (Io::kReads) {
            return round.figures[name];
          } else {
            const auto found = round.figures.find(name);
            return found == round.figures.end() ? kNotMeasured : found->second;
          }
        });
  }
}

template <class Io, class Evaluations>
void evaluation_columns(Io& io, Evaluations& evaluations, const std::set<std::string>& asked) {
  io.column("/evaluations/round", evaluations, &ClientEvaluation::round);
  io.column("/evaluations/client", evaluations, &ClientEvaluation::client);
  io.column("/evaluations/rank", evaluations, &ClientEvaluation::rank);
  io.column("/evaluations/samples", evaluations, &ClientEvaluation::samples);
  io.column("/evaluations/holdout", evaluations, &ClientEvaluation::holdout);
  io.column("/evaluations/loss", evaluations, &ClientEvaluation::loss);
  io.column("/evaluations/accuracy", evaluations, &ClientEvaluation::accuracy);
  io.column("/evaluations/personal_loss", evaluations, &ClientEvaluation::personal_loss);
  io.column("/evaluations/personal_accuracy", evaluations, &ClientEvaluation::personal_accuracy);
  const auto metric = [&](const std::string& name, const std::string& column,
                          double ClientEvaluation::*shared, double ClientEvaluation::*personal) {
    if (!Io::kReads && !asked.contains(name)) return;
    io.column("/evaluations/" + column, evaluations, shared);
    io.column("/evaluations/personal_" + column, evaluations, personal);
  };
  metric("balanced-accuracy", "balanced_accuracy", &ClientEvaluation::balanced_accuracy,
         &ClientEvaluation::personal_balanced_accuracy);
  metric("auc", "auc", &ClientEvaluation::area_under_curve,
         &ClientEvaluation::personal_area_under_curve);
  metric("f1", "f1", &ClientEvaluation::macro_f1, &ClientEvaluation::personal_macro_f1);
  io.column("/evaluations/seconds", evaluations, &ClientEvaluation::seconds);
}

// What a run has beside: virtual time, energy, and versions of the model instead of rounds.
struct Further {
  bool timed, powered, asynchronous;
};

template <class Io, class Clients>
void client_columns(Io& io, const std::vector<std::string>& scalars, const Further& has,
                    Clients& clients) {
  io.column("/clients/round", clients, &ClientRecord::round);
  io.column("/clients/client", clients, &ClientRecord::client);
  io.column("/clients/rank", clients, &ClientRecord::rank);
  io.column("/clients/samples", clients, &ClientRecord::samples);
  io.column("/clients/steps", clients, &ClientRecord::steps);
  io.column("/clients/samples_seen", clients, &ClientRecord::samples_seen);
  io.column("/clients/status", clients, &ClientRecord::status);
  io.column("/clients/weight", clients, &ClientRecord::weight);
  io.column("/clients/loss", clients, &ClientRecord::loss);
  io.column("/clients/loss_before", clients, &ClientRecord::loss_before);
  io.column("/clients/loss_after", clients, &ClientRecord::loss_after);
  io.column("/clients/delta_norm", clients, &ClientRecord::delta_norm);
  io.column("/clients/seconds", clients, &ClientRecord::seconds);
  io.column("/clients/model", clients, &ClientRecord::model);
  if (has.timed) {
    io.column("/clients/start_seconds", clients, &ClientRecord::start_seconds);
    io.column("/clients/finish_seconds", clients, &ClientRecord::finish_seconds);
    io.column("/clients/download_seconds", clients, &ClientRecord::download_seconds);
    io.column("/clients/compute_seconds_virtual", clients, &ClientRecord::compute_seconds);
    io.column("/clients/upload_seconds", clients, &ClientRecord::upload_seconds);
  }
  if (has.asynchronous) {
    io.column("/clients/dispatch", clients, &ClientRecord::dispatch);
    io.column("/clients/base_version", clients, &ClientRecord::base_version);
    io.column("/clients/staleness", clients, &ClientRecord::staleness);
  }
  if (has.powered) io.column("/clients/joules", clients, &ClientRecord::joules);
  for (size_t i = 0; i < scalars.size(); ++i) {
    io.column(
        "/clients/" + scalars[i],
        clients, [i](auto& client) -> auto& { return client.scalars[i]; });
  }
}

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
  if (clients.size() > 0) {
    const ClientRecord first = clients.read(0, 1)[0];
    has = {.timed = !std::isnan(first.start_seconds),
           .powered = !std::isnan(first.joules),
           .asynchronous = first.dispatch >= 0};
  }
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

void write_evaluations(Hdf5File& file, const RecordLog<ClientEvaluation>& evaluations,
                       const std::set<std::string>& asked) {
  write_blocks(file, evaluations,
               [&](Writer& io, auto& records) { evaluation_columns(io, records, asked); });
}

void read_evaluations(const Hdf5File& file, RecordLog<ClientEvaluation>& evaluations) {
  read_blocks(file, "/evaluations", evaluations,
              [](Reader& io, auto& records) { evaluation_columns(io, records, {}); });
}

void write_ranks(Hdf5File& file, const std::vector<RankRecord>& ranks) {
  std::vector<std::string> hosts, devices;
  for (const RankRecord& rank : ranks) {
    hosts.emplace_back(rank.host, strnlen(rank.host, sizeof rank.host));
    devices.emplace_back(rank.device, strnlen(rank.device, sizeof rank.device));
  }
  Writer io(file);
  io.column("/ranks/rank", ranks, &RankRecord::rank);
  file.write("/ranks/host", hosts);
  file.write("/ranks/device", devices);
  io.column("/ranks/compute_seconds", ranks, &RankRecord::compute_seconds);
  io.column("/ranks/wait_seconds", ranks, &RankRecord::wait_seconds);
  io.column("/ranks/comm_seconds", ranks, &RankRecord::comm_seconds);
  io.column("/ranks/evaluate_seconds", ranks, &RankRecord::evaluate_seconds);
}

}  // namespace fl_sim
