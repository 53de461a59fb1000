#include "storage/results.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "base/hdf5_file.h"
#include "base/job_parts.h"
#include "base/results_format.h"
#include "base/text.h"
#include "learning/named_model.h"
#include "storage/columns.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

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
  if (extras.own_tests)
    file.write_attribute("/partition", "test_indices_are_of", std::string("the test set"));
  if (!extras.holdout.empty()) file.write("/partition/holdout", extras.holdout);
  if (!extras.shift_group.empty()) file.write("/partition/shift_group", extras.shift_group);
}

constexpr const char* kBest = "/best_model";

void write_attributes(Hdf5File& file, const std::string& group,
                      const std::map<std::string, std::string>& values) {
  for (const auto& [name, value] : values) file.write_attribute(group, name, value);
}

// The metrics that a job asks for.
std::set<std::string> metrics_of(const std::map<std::string, std::string>& job) {
  const auto found = job.find("metrics");
  if (found == job.end()) return {};
  const std::vector<std::string> names = split_list(found->second);
  return {names.begin(), names.end()};
}

// [classes, classes]: row by label, column by what the model took it for.
void write_confusion(Hdf5File& file, const std::vector<int64_t>& matrix, int64_t round) {
  if (matrix.empty()) return;
  const auto classes = std::llround(std::sqrt(static_cast<double>(matrix.size())));
  file.write("/confusion", matrix, {classes, classes});
  file.write_attribute("/confusion", "round", round);
}

// When the job's target was first reached, and what that took: nothing where it was not, or where
// there is none.
void write_target(Hdf5File& file, const std::map<std::string, std::string>& job,
                  const std::vector<RoundRecord>& rounds) {
  const auto key = job.find("target-accuracy");
  double target = 0;
  if (key == job.end() || !read_number(key->second, target) || target <= 0) return;
  int64_t samples = 0, bytes = 0;
  double joules = 0;
  for (const RoundRecord& round : rounds) {
    const VirtualRound& time = round.virtual_time;
    samples += round.samples + time.wasted_samples;
    bytes += round.bytes_down + round.bytes_up + time.wasted_bytes_up;
    joules += time.joules;
    if (!(round.test_accuracy >= target)) continue;
    const std::string group = "/target";
    file.write_attribute(group, "target", target);
    file.write_attribute(group, "accuracy", round.test_accuracy);
    file.write_attribute(group, "round", round.round);
    file.write_attribute(group, "samples", samples);
    file.write_attribute(group, "bytes", bytes);
    if (time.measured()) file.write_attribute(group, "virtual_seconds", time.end);
    if (!std::isnan(joules)) file.write_attribute(group, "joules", joules);
    return;
  }
}

std::string directory_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

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
  const std::string trial = message(path_, ".try.", getpid());
  error = try_file(trial);
  FL_CHECK(!error, trial, " cannot be written (", error.message(), "); choose another --output");
}

namespace {

// The attribute that says after which round a part of the file was what it is.
int64_t round_of(const Hdf5File& file, const std::string& path) {
  const double round = file.read_number_attribute(path, "round");
  FL_CHECK(round >= 1 && round < 9e15 && round == std::floor(round), "attribute round of ", path,
           " is ", round, " (must be a round)");
  return static_cast<int64_t>(round);
}

}  // namespace

// What is there already of a run that this one continues.
void Results::load(int64_t last_round) {
  const Hdf5File file = Hdf5File::open(path_);
  clients_.truncate(0);
  evaluations_.truncate(0);
  try {
    rounds_ = read_rounds(file);
    read_clients(file, scalars_, clients_);
    read_evaluations(file, evaluations_);
    if (file.has(kBest)) {
      best_ = {round_of(file, kBest), file.read_number_attribute(kBest, "value")};
      for (const std::string& name : file.names(kBest)) {
        const std::string path = std::string(kBest) + "/" + name;
        best_.model.push_back({name, file.shape(path), file.read_floats(path)});
      }
    }
    if (file.has("/confusion")) {
      confusion_ = file.read_integers("/confusion");
      confusion_round_ = round_of(file, "/confusion");
    }
  } catch (const Error& error) {
    throw Error(message(path_, ": cannot be continued (", error.what(), ")"));
  }
  forget_after(last_round);
  FL_CHECK(std::ssize(rounds_) == last_round, path_, ": has ", rounds_.size(), " of ", last_round,
           " rounds of the run to continue (remove its checkpoint to begin anew)");
}

void Results::forget_after(int64_t last_round) {
  std::erase_if(rounds_, [&](const RoundRecord& record) { return record.round > last_round; });
  if (confusion_round_ > last_round) confusion_.clear();
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
  if (best_.round > last_round) best_ = {};  // that round is done again
}

std::optional<Results::Former> Results::former() const {
  std::error_code error;
  if (!fs::exists(path_, error)) return {};
  const Hdf5File file = Hdf5File::open(path_);
  check_results_format(file, path_);
  Former former;
  // As it stands there: it may be of plug-ins that this run does without.
  try {
    former.job = values_in_text(file.read_text("/job/text"));
  } catch (const Error& error) {
    throw Error(message(path_, ": its /job/text cannot be understood: ", error.what()));
  }
  const auto read = [&](const std::string& name) {
    return file.has_attribute("/provenance", name) ? file.read_text_attribute("/provenance", name)
                                                   : std::string();
  };
  former.end = read("end");
  former.start = read("start");
  former.resumed = read("resumed");
  former.lost_ranks = read("lost_ranks");
  if (file.has("/rounds/round")) {
    const std::vector<int64_t> shape = file.shape("/rounds/round");
    FL_CHECK(shape.size() == 1, path_, ": /rounds/round is no column (damaged?)");
    former.rounds = shape[0];
  }
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
  provenance_["format"] = std::to_string(kResultsFormat);
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

void Results::round(const RoundRecord& record) {
  check_figures(record.figures);
  rounds_.push_back(record);
  std::vector<int64_t>& confusion = rounds_.back().metrics.confusion;
  if (confusion.empty()) return;
  // Of every round it would be too much for memory.
  confusion_ = std::exchange(confusion, {});
  confusion_round_ = record.round;
}

void Results::best(int64_t round, double value, const std::vector<NamedTensor>& model) {
  best_ = {round, value, model};
}

void Results::evaluations(std::span<const ClientEvaluation> records) { evaluations_.add(records); }

void Results::end(const Outcome& outcome) {
  set_ranks(outcome.ranks);
  if (!outcome.paused) add_provenance("end", utc_now());
}

void Results::save(const std::function<std::vector<NamedTensor>()>& model, bool force) {
  if (!force && !due()) return;
  set_model(model());
  save(force);
}

void Results::set_scalars(std::vector<std::string> names) {
  check_scalars(names);
  scalars_ = std::move(names);
}

bool Results::due() const { return Clock::now() >= next_write_; }

void Results::save(bool force) {
  if (!force && !due()) return;
  const Clock::time_point start = Clock::now();
  const std::string temporary = path_ + ".tmp";
  std::error_code error;
  try {
    make_file(temporary, [&](const std::string& path) { write(path); });
  } catch (const Error& problem) {
    throw Error(message(problem.what(), "; ", path_,
                        fs::exists(path_, error) ? " is as it was written before" : " is not there",
                        " (make room, or choose another --output)"));
  }
  fs::rename(temporary, path_, error);
  FL_CHECK(!error, path_, " cannot be written (", error.message(), "); the results are in ",
           temporary);
  sync(directory_of(path_));
  written_ = std::ssize(rounds_);
  const Clock::time_point end = Clock::now();
  next_write_ = end + 100 * (end - start);
}

void Results::write(const std::string& path) {
  Hdf5File file = Hdf5File::create(path);
  file.write("/job/text", job_text_);
  write_attributes(file, "/job", job_);
  write_attributes(file, "/provenance", provenance_);
  const std::set<std::string> metrics = metrics_of(job_);
  write_rounds(file, rounds_, metrics);
  write_confusion(file, confusion_, confusion_round_);
  write_target(file, job_, rounds_);
  write_clients(file, clients_, scalars_);
  if (evaluations_.size() > 0) write_evaluations(file, evaluations_, metrics);
  write_ranks(file, ranks_);
  write_partition(file, partition_, skew_, extras_);
  write_model(file, "/model", model_);
  if (best_.round > 0) {
    write_model(file, kBest, best_.model);
    file.write_attribute(kBest, "round", best_.round);
    file.write_attribute(kBest, "value", best_.value);
  }
  file.close();
}

}  // namespace fl_sim
