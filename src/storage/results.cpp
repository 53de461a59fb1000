#include "storage/results.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/checksum.h"
#include "base/files.h"
#include "base/hdf5_file.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

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
  void column(const std::string& path, std::vector<Record>& records, const Field& field) {
    using Value = std::decay_t<decltype(std::invoke(field, records[0]))>;
    std::vector<Value> values;
    values.reserve(records.size());
    for (Record& record : records) values.push_back(std::invoke(field, record));
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
  void table(const std::string& path, std::vector<Record>& records, const Field& field) {
    size_t width = 0;
    for (Record& record : records) width = std::max(width, std::invoke(field, record).size());
    if (width == 0) return;
    std::vector<double> values;
    for (Record& record : records) {
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

// A model that several clients' evaluations are of: /rounds/<prefix>_<figure>.
template <class Io>
void summary_columns(Io& io, const std::string& prefix, std::vector<RoundRecord>& rounds,
                     EvaluationSummary RoundRecord::*summary) {
  const auto measured = [&](const RoundRecord& round) { return (round.*summary).clients > 0; };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto EvaluationSummary::*member) {
    io.column(
        "/rounds/" + prefix + "_" + name,
        rounds, [=](RoundRecord & round) -> auto& { return round.*summary.*member; });
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
}

// /rounds/test_<metric>, those that the job asks for.
template <class Io>
void metric_columns(Io& io, std::vector<RoundRecord>& rounds) {
  const auto column = [&](const std::string& name, double Metrics::*member) {
    const auto measured = [&](const RoundRecord& r) { return !std::isnan(r.metrics.*member); };
    if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
    io.column("/rounds/test_" + name, rounds,
              [=](RoundRecord& round) -> double& { return round.metrics.*member; });
  };
  column("balanced_accuracy", &Metrics::balanced_accuracy);
  column("auc", &Metrics::area_under_curve);
  column("perplexity", &Metrics::perplexity);
  io.table(
      "/rounds/test_class_accuracy", rounds,
      [](RoundRecord & round) -> auto& { return round.metrics.class_accuracy; });
}

template <class Io>
void round_columns(Io& io, std::vector<RoundRecord>& rounds) {
  io.column("/rounds/round", rounds, &RoundRecord::round);
  io.column("/rounds/seconds", rounds, &RoundRecord::seconds);
  io.column("/rounds/idle_share", rounds, &RoundRecord::idle_share);
  io.column("/rounds/train_loss", rounds, &RoundRecord::train_loss);
  io.column("/rounds/test_loss", rounds, &RoundRecord::test_loss);
  io.column("/rounds/test_accuracy", rounds, &RoundRecord::test_accuracy);
  io.column("/rounds/cohort", rounds, &RoundRecord::cohort);
  io.column("/rounds/failed", rounds, &RoundRecord::failed);
  io.column("/rounds/samples", rounds, &RoundRecord::samples);
  io.column("/rounds/bytes_down", rounds, &RoundRecord::bytes_down);
  io.column("/rounds/bytes_up", rounds, &RoundRecord::bytes_up);
  io.column("/rounds/bytes_state", rounds, &RoundRecord::bytes_state);
  summary_columns(io, "clients", rounds, &RoundRecord::clients);
  summary_columns(io, "personal", rounds, &RoundRecord::personal);
  summary_columns(io, "holdout", rounds, &RoundRecord::holdout_clients);
  summary_columns(io, "holdout_personal", rounds, &RoundRecord::holdout_personal);
  io.table("/rounds/model_test_loss", rounds, &RoundRecord::model_loss);
  io.table("/rounds/model_test_accuracy", rounds, &RoundRecord::model_accuracy);
  metric_columns(io, rounds);
}

template <class Io>
void evaluation_columns(Io& io, std::vector<ClientEvaluation>& evaluations) {
  io.column("/evaluations/round", evaluations, &ClientEvaluation::round);
  io.column("/evaluations/client", evaluations, &ClientEvaluation::client);
  io.column("/evaluations/rank", evaluations, &ClientEvaluation::rank);
  io.column("/evaluations/samples", evaluations, &ClientEvaluation::samples);
  io.column("/evaluations/holdout", evaluations, &ClientEvaluation::holdout);
  io.column("/evaluations/loss", evaluations, &ClientEvaluation::loss);
  io.column("/evaluations/accuracy", evaluations, &ClientEvaluation::accuracy);
  io.column("/evaluations/personal_loss", evaluations, &ClientEvaluation::personal_loss);
  io.column("/evaluations/personal_accuracy", evaluations, &ClientEvaluation::personal_accuracy);
  io.column("/evaluations/seconds", evaluations, &ClientEvaluation::seconds);
}

template <class Io>
void client_columns(Io& io, std::vector<ClientRecord>& clients,
                    const std::vector<std::string>& scalars) {
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
  for (size_t i = 0; i < scalars.size(); ++i) {
    io.column("/clients/" + scalars[i], clients,
              [i](ClientRecord& client) -> double& { return client.scalars[i]; });
  }
}

// All of a log, block by block: without rows, empty columns.
template <class Record, class Columns>
void write_blocks(Hdf5File& file, const RecordLog<Record>& log, const Columns& columns) {
  int64_t first = 0;
  do {
    std::vector<Record> block = log.read(first, std::min(kBlock, log.size() - first));
    Writer io(file, first, log.size());
    columns(io, block);
    first += std::ssize(block);
  } while (first < log.size());
}

// The same into an empty one.
template <class Record, class Columns>
void read_blocks(const Hdf5File& file, int64_t rows, RecordLog<Record>& log,
                 const Columns& columns) {
  for (int64_t first = 0; first < rows; first += kBlock) {
    std::vector<Record> block(static_cast<size_t>(std::min(kBlock, rows - first)));
    Reader io(file, first, rows);
    columns(io, block);
    log.add(block);
  }
}

void write_ranks(Hdf5File& file, std::vector<RankRecord> ranks) {
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

// A measure of skew, one value a client, with its mean over clients that hold samples and its
// maximum.
void write_measure(Hdf5File& file, const std::string& name, const std::vector<double>& values,
                   double mean, double largest) {
  file.write("/partition/" + name, values);
  file.write_attribute("/partition", name + "_mean", mean);
  file.write_attribute("/partition", name + "_max", largest);
}

void write_partition(Hdf5File& file, const Partition& partition, const Skew& skew,
                     const PartitionExtras& extras) {
  std::vector<int64_t> sizes;
  for (int64_t client = 0; client < partition.clients(); ++client)
    sizes.push_back(partition.size(client));
  file.write("/partition/offsets", partition.offsets);
  file.write("/partition/indices", partition.indices);
  file.write("/partition/size", sizes);
  if (!skew.histogram.empty()) {
    file.write("/partition/histogram", skew.histogram,
               {std::ssize(sizes), std::ssize(skew.histogram) / std::ssize(sizes)});
  }
  write_measure(file, "jensen_shannon", skew.jensen_shannon, skew.mean_jensen_shannon,
                skew.max_jensen_shannon);
  write_measure(file, "hellinger", skew.hellinger, skew.mean_hellinger, skew.max_hellinger);
  write_measure(file, "earth_mover", skew.earth_mover, skew.mean_earth_mover, skew.max_earth_mover);
  file.write_attribute("/partition", "checksum", partition_checksum(partition));
  const auto write_lists = [&](const std::string& name, const Partition& lists) {
    if (lists.indices.empty()) return;
    file.write("/partition/" + name + "_offsets", lists.offsets);
    file.write("/partition/" + name + "_indices", lists.indices);
  };
  write_lists("validation", extras.validation);
  write_lists("test", extras.test);
  if (!extras.holdout.empty()) file.write("/partition/holdout", extras.holdout);
  if (!extras.shift_group.empty()) file.write("/partition/shift_group", extras.shift_group);
}

void write_model(Hdf5File& file, const std::vector<NamedTensor>& model) {
  for (const NamedTensor& tensor : model)
    file.write("/model/" + tensor.name, tensor.values, tensor.shape);
  file.write_attribute("/model", "checksum", model_checksum(model));
}

void write_attributes(Hdf5File& file, const std::string& group,
                      const std::map<std::string, std::string>& values) {
  for (const auto& [name, value] : values) file.write_attribute(group, name, value);
}

std::string directory_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

std::string model_checksum(const std::vector<NamedTensor>& model) {
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : model) by_name[tensor.name] = &tensor;
  Checksum checksum;
  for (const auto& [name, tensor] : by_name) checksum.add(std::as_bytes(std::span(tensor->values)));
  return checksum.text();
}

namespace {

// A run in that file which is not through, if it is one of ours at all.
std::optional<Results::Former> begun_run(const Results& results) {
  try {
    const std::optional<Results::Former> former = results.former();
    return former && former->end.empty() && former->rounds > 0 ? former : std::nullopt;
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

Results::Results(std::string path, bool overwrite)
    : path_(std::move(path)), clients_(directory_of(path_)), evaluations_(directory_of(path_)) {
  std::error_code error;
  FL_CHECK(!path_.empty(),
           "output is empty (must be the name of the results file, such as results/run.h5)");
  FL_CHECK(!fs::is_directory(path_, error), path_,
           " is a directory (output must be a file, such as ", path_, "/run.h5)");
  if (!overwrite && fs::exists(path_, error)) {
    const std::optional<Former> begun = begun_run(*this);
    FL_CHECK(!begun, path_, " is of a run that ended after round ", begun->rounds, " of ",
             begun->job.at("rounds"), " (--resume auto goes on from its last checkpoint; ",
             "--overwrite begins anew)");
    throw Error(message(path_, " exists (choose another --output, or --overwrite)"));
  }
  const std::string directory = directory_of(path_);
  fs::create_directories(directory, error);
  FL_CHECK(!error, directory, " cannot be made (", error.message(), "); choose another --output");
  // Trying is the only test that holds for root, full quotas and read-only file systems.
  const std::string trial = message(path_, ".try.", getpid());
  const int descriptor = open(trial.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  FL_CHECK(descriptor >= 0, trial, " cannot be written (", std::strerror(errno),
           "); choose another --output");
  close(descriptor);
  fs::remove(trial, error);
}

// What is there already of a run that this one continues.
void Results::load(int64_t last_round) {
  const Hdf5File file = Hdf5File::open(path_);
  const auto rows = [&](const std::string& column) {
    return file.has(column) ? file.shape(column).at(0) : 0;
  };
  rounds_.assign(static_cast<size_t>(rows("/rounds/round")), {});
  clients_.truncate(0);
  evaluations_.truncate(0);
  try {
    Reader io(file);
    round_columns(io, rounds_);
    read_blocks(file, rows("/clients/round"), clients_,
                [&](Reader& block, auto& records) { client_columns(block, records, scalars_); });
    read_blocks(file, rows("/evaluations/round"), evaluations_,
                [](Reader& block, auto& records) { evaluation_columns(block, records); });
  } catch (const Error& error) {
    throw Error(message(path_, ": cannot be continued (", error.what(), ")"));
  }
  forget_after(last_round);
  FL_CHECK(std::ssize(rounds_) == last_round, path_, ": has ", rounds_.size(), " of ", last_round,
           " rounds of the run to continue (remove its checkpoint to begin anew)");
}

void Results::forget_after(int64_t last_round) {
  std::erase_if(rounds_, [&](const RoundRecord& record) { return record.round > last_round; });
  const auto cut = [&](auto& log) {  // its rows are in the order of rounds
    int64_t low = 0, high = log.size();
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (log.read(middle, 1)[0].round > last_round) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    log.truncate(low);
  };
  cut(clients_);
  cut(evaluations_);
}

std::optional<Results::Former> Results::former() const {
  std::error_code error;
  if (!fs::exists(path_, error)) return {};
  const Hdf5File file = Hdf5File::open(path_);
  Former former;
  former.job = Job::from_text(file.read_text("/job/text")).values();
  const auto read = [&](const std::string& name) {
    return file.has_attribute("/provenance", name) ? file.read_text_attribute("/provenance", name)
                                                   : std::string();
  };
  former.end = read("end");
  former.start = read("start");
  former.resumed = read("resumed");
  former.lost_ranks = read("lost_ranks");
  former.rounds = file.has("/rounds/round") ? file.shape("/rounds/round").at(0) : 0;
  return former;
}

void Results::set_job(std::string text, std::map<std::string, std::string> values) {
  job_text_ = std::move(text);
  job_ = std::move(values);
}

void Results::add_loss(const std::string& what) {
  std::string& all = provenance_["lost_ranks"];
  all += (all.empty() ? "" : "\n") + what;
}

void Results::set_provenance(std::map<std::string, std::string> values) {
  provenance_ = std::move(values);
}

void Results::add_provenance(const std::string& name, const std::string& value) {
  provenance_[name] = value;
}

void Results::set_partition(Partition partition, Skew skew, PartitionExtras extras) {
  partition_ = std::move(partition);
  skew_ = std::move(skew);
  extras_ = std::move(extras);
}

void Results::set_ranks(std::vector<RankRecord> ranks) { ranks_ = std::move(ranks); }

void Results::set_model(std::vector<NamedTensor> model) {
  std::vector<std::string> names;
  for (const NamedTensor& tensor : model) {
    FL_CHECK(
        !tensor.name.empty() && tensor.name != "." && tensor.name.find('/') == std::string::npos,
        "a parameter of the model is named '", tensor.name,
        "' (must not be empty, '.' or contain '/')");
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  FL_CHECK(twice == names.end(), "two parameters of the model are named '", *twice,
           "' (names must differ)");
  model_ = std::move(model);
}

void Results::add_round(const RoundRecord& round) { rounds_.push_back(round); }

void Results::add_evaluations(const std::vector<ClientEvaluation>& evaluations) {
  evaluations_.add(evaluations);
}

void Results::set_scalars(std::vector<std::string> names) { scalars_ = std::move(names); }

void Results::add_clients(const std::vector<ClientRecord>& clients) { clients_.add(clients); }

bool Results::due() const { return Clock::now() >= next_write_; }

void Results::save(bool force) {
  if (!force && !due()) return;
  const Clock::time_point start = Clock::now();
  const std::string temporary = path_ + ".tmp";
  std::error_code error;
  try {
    write(temporary);
    sync(temporary);
  } catch (const Error& problem) {
    fs::remove(temporary, error);
    throw Error(message(problem.what(), "; ", path_,
                        fs::exists(path_, error) ? " is as it was written before" : " is not there",
                        " (make room, or choose another --output)"));
  }
  fs::rename(temporary, path_, error);
  FL_CHECK(!error, path_, " cannot be written (", error.message(), "); the results are in ",
           temporary);
  sync(directory_of(path_));
  const Clock::time_point end = Clock::now();
  next_write_ = end + 100 * (end - start);
}

void Results::write(const std::string& path) {
  Hdf5File file = Hdf5File::create(path);
  file.write("/job/text", job_text_);
  write_attributes(file, "/job", job_);
  write_attributes(file, "/provenance", provenance_);
  Writer io(file);
  round_columns(io, rounds_);
  write_blocks(file, clients_,
               [&](Writer& block, auto& records) { client_columns(block, records, scalars_); });
  static_assert(static_cast<int64_t>(ClientStatus::kTrained) == 0 &&
                static_cast<int64_t>(ClientStatus::kPersonalDiverged) == 5);
  file.write_attribute("/clients/status", "codes",
                       "0 trained, 1 diverged, 2 straggler left out, 3 straggler's part counted, "
                       "4 lost, 5 trained but its own model diverged");
  if (evaluations_.size() > 0)
    write_blocks(file, evaluations_,
                 [](Writer& block, auto& records) { evaluation_columns(block, records); });
  write_ranks(file, ranks_);
  write_partition(file, partition_, skew_, extras_);
  write_model(file, model_);
  file.close();
}

}  // namespace fl_sim
