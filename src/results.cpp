#include "results.h"

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

#include "check.h"
#include "checksum.h"
#include "hdf5_file.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

template <class Record, class Value>
void write_column(Hdf5File& file, const std::string& path, const std::vector<Record>& records,
                  Value Record::*member) {
  std::vector<Value> column;
  column.reserve(records.size());
  for (const Record& record : records) column.push_back(record.*member);
  file.write(path, column);
}

// A model that several clients' evaluations are of: /rounds/<prefix>_<figure>.
void write_summary(Hdf5File& file, const std::string& prefix,
                   const std::vector<RoundRecord>& rounds,
                   EvaluationSummary RoundRecord::*summary) {
  const auto write = [&](const std::string& name, auto EvaluationSummary::*member) {
    std::vector<std::decay_t<decltype(rounds[0].clients.*member)>> column;
    for (const RoundRecord& round : rounds) column.push_back(round.*summary.*member);
    file.write("/rounds/" + prefix + "_" + name, column);
  };
  const auto measured = [&](const RoundRecord& round) { return (round.*summary).clients > 0; };
  if (std::none_of(rounds.begin(), rounds.end(), measured)) return;
  write("evaluated", &EvaluationSummary::clients);
  write("loss", &EvaluationSummary::loss);
  write("accuracy", &EvaluationSummary::accuracy);
  write("mean_loss", &EvaluationSummary::mean_loss);
  write("mean_accuracy", &EvaluationSummary::mean_accuracy);
  write("accuracy_variance", &EvaluationSummary::variance);
  write("accuracy_worst_10", &EvaluationSummary::worst_tenth);
  write("accuracy_best_10", &EvaluationSummary::best_tenth);
  write("accuracy_p10", &EvaluationSummary::percentile_10);
  write("accuracy_p50", &EvaluationSummary::percentile_50);
  write("accuracy_p90", &EvaluationSummary::percentile_90);
}

// [rounds, models] or [rounds, classes], where there are some; NaN where they were not evaluated.
template <class Numbers>
void write_table(Hdf5File& file, const std::string& name, const std::vector<RoundRecord>& rounds,
                 const Numbers& numbers_of) {
  size_t width = 0;
  for (const RoundRecord& round : rounds) width = std::max(width, numbers_of(round).size());
  if (width == 0) return;
  std::vector<double> table;
  for (const RoundRecord& round : rounds) {
    const std::vector<double>& numbers = numbers_of(round);
    for (size_t i = 0; i < width; ++i)
      table.push_back(i < numbers.size() ? numbers[i] : kNotMeasured);
  }
  file.write("/rounds/" + name, table, {std::ssize(rounds), static_cast<int64_t>(width)});
}

// /rounds/test_<metric>, those that the job asks for.
void write_metrics(Hdf5File& file, const std::vector<RoundRecord>& rounds) {
  const auto write = [&](const std::string& name, double Metrics::*member) {
    std::vector<double> column;
    for (const RoundRecord& round : rounds) column.push_back(round.metrics.*member);
    const bool measured =
        std::any_of(column.begin(), column.end(), [](double x) { return !std::isnan(x); });
    if (measured) file.write("/rounds/test_" + name, column);
  };
  write("balanced_accuracy", &Metrics::balanced_accuracy);
  write("auc", &Metrics::area_under_curve);
  write("perplexity", &Metrics::perplexity);
  write_table(
      file, "test_class_accuracy", rounds,
      [](const RoundRecord& round) -> const auto& { return round.metrics.class_accuracy; });
}

void write_rounds(Hdf5File& file, const std::vector<RoundRecord>& rounds) {
  write_column(file, "/rounds/round", rounds, &RoundRecord::round);
  write_column(file, "/rounds/seconds", rounds, &RoundRecord::seconds);
  write_column(file, "/rounds/idle_share", rounds, &RoundRecord::idle_share);
  write_column(file, "/rounds/train_loss", rounds, &RoundRecord::train_loss);
  write_column(file, "/rounds/test_loss", rounds, &RoundRecord::test_loss);
  write_column(file, "/rounds/test_accuracy", rounds, &RoundRecord::test_accuracy);
  write_column(file, "/rounds/cohort", rounds, &RoundRecord::cohort);
  write_column(file, "/rounds/failed", rounds, &RoundRecord::failed);
  write_column(file, "/rounds/samples", rounds, &RoundRecord::samples);
  write_column(file, "/rounds/bytes_down", rounds, &RoundRecord::bytes_down);
  write_column(file, "/rounds/bytes_up", rounds, &RoundRecord::bytes_up);
  write_column(file, "/rounds/bytes_state", rounds, &RoundRecord::bytes_state);
  write_summary(file, "clients", rounds, &RoundRecord::clients);
  write_summary(file, "personal", rounds, &RoundRecord::personal);
  write_summary(file, "holdout", rounds, &RoundRecord::holdout_clients);
  write_summary(file, "holdout_personal", rounds, &RoundRecord::holdout_personal);
  write_table(file, "model_test_loss", rounds, std::mem_fn(&RoundRecord::model_loss));
  write_table(file, "model_test_accuracy", rounds, std::mem_fn(&RoundRecord::model_accuracy));
  write_metrics(file, rounds);
}

void write_evaluations(Hdf5File& file, const std::vector<ClientEvaluation>& evaluations) {
  write_column(file, "/evaluations/round", evaluations, &ClientEvaluation::round);
  write_column(file, "/evaluations/client", evaluations, &ClientEvaluation::client);
  write_column(file, "/evaluations/rank", evaluations, &ClientEvaluation::rank);
  write_column(file, "/evaluations/samples", evaluations, &ClientEvaluation::samples);
  write_column(file, "/evaluations/holdout", evaluations, &ClientEvaluation::holdout);
  write_column(file, "/evaluations/loss", evaluations, &ClientEvaluation::loss);
  write_column(file, "/evaluations/accuracy", evaluations, &ClientEvaluation::accuracy);
  write_column(file, "/evaluations/personal_loss", evaluations, &ClientEvaluation::personal_loss);
  write_column(file, "/evaluations/personal_accuracy", evaluations,
               &ClientEvaluation::personal_accuracy);
  write_column(file, "/evaluations/seconds", evaluations, &ClientEvaluation::seconds);
}

void write_clients(Hdf5File& file, const std::vector<ClientRecord>& clients,
                   const std::vector<std::string>& scalars) {
  write_column(file, "/clients/round", clients, &ClientRecord::round);
  write_column(file, "/clients/client", clients, &ClientRecord::client);
  write_column(file, "/clients/rank", clients, &ClientRecord::rank);
  write_column(file, "/clients/samples", clients, &ClientRecord::samples);
  write_column(file, "/clients/steps", clients, &ClientRecord::steps);
  write_column(file, "/clients/samples_seen", clients, &ClientRecord::samples_seen);
  write_column(file, "/clients/status", clients, &ClientRecord::status);
  write_column(file, "/clients/weight", clients, &ClientRecord::weight);
  write_column(file, "/clients/loss", clients, &ClientRecord::loss);
  write_column(file, "/clients/loss_before", clients, &ClientRecord::loss_before);
  write_column(file, "/clients/loss_after", clients, &ClientRecord::loss_after);
  write_column(file, "/clients/delta_norm", clients, &ClientRecord::delta_norm);
  write_column(file, "/clients/seconds", clients, &ClientRecord::seconds);
  write_column(file, "/clients/model", clients, &ClientRecord::model);
  for (size_t i = 0; i < scalars.size(); ++i) {
    std::vector<double> column;
    for (const ClientRecord& client : clients) column.push_back(client.scalars[i]);
    file.write("/clients/" + scalars[i], column);
  }
  static_assert(static_cast<int64_t>(ClientStatus::kTrained) == 0 &&
                static_cast<int64_t>(ClientStatus::kPersonalDiverged) == 5);
  file.write_attribute("/clients/status", "codes",
                       "0 trained, 1 diverged, 2 straggler left out, 3 straggler's part counted, "
                       "4 lost, 5 trained but its own model diverged");
}

void write_ranks(Hdf5File& file, const std::vector<RankRecord>& ranks) {
  std::vector<std::string> hosts, devices;
  for (const RankRecord& rank : ranks) {
    hosts.emplace_back(rank.host, strnlen(rank.host, sizeof rank.host));
    devices.emplace_back(rank.device, strnlen(rank.device, sizeof rank.device));
  }
  write_column(file, "/ranks/rank", ranks, &RankRecord::rank);
  file.write("/ranks/host", hosts);
  file.write("/ranks/device", devices);
  write_column(file, "/ranks/compute_seconds", ranks, &RankRecord::compute_seconds);
  write_column(file, "/ranks/wait_seconds", ranks, &RankRecord::wait_seconds);
  write_column(file, "/ranks/comm_seconds", ranks, &RankRecord::comm_seconds);
  write_column(file, "/ranks/evaluate_seconds", ranks, &RankRecord::evaluate_seconds);
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

// What is in memory of the kernel only is lost when the machine is.
void sync(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  FL_CHECK(descriptor >= 0, path, ": cannot be synced (", std::strerror(errno), ")");
  const int result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  // EINVAL: a file system that cannot sync directories.
  FL_CHECK(result == 0 || error == EINVAL, path, ": cannot be synced (", std::strerror(error), ")");
}

}  // namespace

std::string model_checksum(const std::vector<NamedTensor>& model) {
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : model) by_name[tensor.name] = &tensor;
  Checksum checksum;
  for (const auto& [name, tensor] : by_name) checksum.add(std::as_bytes(std::span(tensor->values)));
  return checksum.text();
}

std::string partition_checksum(const Partition& partition) {
  Checksum checksum;
  checksum.add(std::as_bytes(partition.offsets));
  checksum.add(std::as_bytes(partition.indices));
  return checksum.text();
}

Results::Results(std::string path, bool overwrite) : path_(std::move(path)) {
  std::error_code error;
  FL_CHECK(!path_.empty(),
           "output is empty (must be the name of the results file, such as results/run.h5)");
  FL_CHECK(!fs::is_directory(path_, error), path_,
           " is a directory (output must be a file, such as ", path_, "/run.h5)");
  FL_CHECK(overwrite || !fs::exists(path_, error), path_,
           " exists (choose another --output, or --overwrite)");
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

void Results::set_job(std::string text, std::map<std::string, std::string> values) {
  job_text_ = std::move(text);
  job_ = std::move(values);
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
  evaluations_.insert(evaluations_.end(), evaluations.begin(), evaluations.end());
}

void Results::set_scalars(std::vector<std::string> names) { scalars_ = std::move(names); }

void Results::add_clients(const std::vector<ClientRecord>& clients) {
  clients_.insert(clients_.end(), clients.begin(), clients.end());
}

bool Results::due() const { return Clock::now() >= next_write_; }

void Results::save(bool force) {
  if (!force && !due()) return;
  const Clock::time_point start = Clock::now();
  const std::string temporary = path_ + ".tmp";
  std::error_code error;
  try {
    write(temporary);
    sync(temporary);
  } catch (...) {
    fs::remove(temporary, error);
    throw;
  }
  fs::rename(temporary, path_, error);
  FL_CHECK(!error, path_, " cannot be written (", error.message(), "); the results are in ",
           temporary);
  sync(directory_of(path_));
  const Clock::time_point end = Clock::now();
  next_write_ = end + 100 * (end - start);
}

void Results::write(const std::string& path) const {
  Hdf5File file = Hdf5File::create(path);
  file.write("/job/text", job_text_);
  write_attributes(file, "/job", job_);
  write_attributes(file, "/provenance", provenance_);
  write_rounds(file, rounds_);
  write_clients(file, clients_, scalars_);
  if (!evaluations_.empty()) write_evaluations(file, evaluations_);
  write_ranks(file, ranks_);
  write_partition(file, partition_, skew_, extras_);
  write_model(file, model_);
  file.close();
}

}  // namespace fl_sim
