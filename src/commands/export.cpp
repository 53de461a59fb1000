#include "commands/export.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/job.h"
#include "base/registry.h"
#include "base/results_format.h"
#include "commands/words.h"
#include "learning/tracker.h"
#include "storage/columns.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExportHelp =
    "fl_sim export TRACKER FILE... --to FOLDER [options]: results files in another form, as\n"
    "--track TRACKER:FOLDER would have written them while the runs were running\n\n"
    "  tensorboard   FOLDER/<name of the file>/, for tensorboard --logdir FOLDER\n"
    "  csv           FOLDER/<name of the file>/rounds.csv, clients.csv, evaluations.csv\n"
    "  jsonl         FOLDER/<name of the file>.jsonl\n\n"
    "A tracker of a plug-in is named like these. Further options are the tracker's own\n"
    "(fl_sim --explain TRACKER), such as --tensorboard.clients.\n\n"
    "  --plugin FILE      plug-ins that the files' jobs name, or the tracker's\n";

// Seconds since 1970 of "2026-11-30T10:20:30Z"; 0 where it is something else.
double seconds_of_utc(const std::string& text) {
  std::tm time{};
  if (strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &time) == nullptr) return 0;
  return static_cast<double>(timegm(&time));
}

std::string text_attribute(const Hdf5File& file, const std::string& name) {
  return file.has_attribute("/provenance", name) ? file.read_text_attribute("/provenance", name)
                                                 : "";
}

// Rows of a log, those of one round after the other.
template <class Record>
class ByRound {
 public:
  explicit ByRound(const RecordLog<Record>& log) : log_(log) {}

  // Those of the next round, if it is this one or an earlier one.
  std::vector<Record> take(int64_t round) {
    std::vector<Record> records;
    while (next_ < log_.size()) {
      if (place_ == block_.size()) {
        block_ = log_.read(next_, std::min(kBlock, log_.size() - next_));
        place_ = 0;
      }
      const Record& record = block_[place_];
      if (record.round > round || (!records.empty() && records[0].round != record.round)) break;
      records.push_back(record);
      ++place_;
      ++next_;
    }
    return records;
  }

 private:
  static constexpr int64_t kBlock = 1 << 12;
  const RecordLog<Record>& log_;
  int64_t next_ = 0;
  std::vector<Record> block_;
  size_t place_ = 0;
};

// Tells all that a file has in the order in which a run would have told it. Returns the rounds.
int64_t tell_all(Tracker& tracker, const Hdf5File& file, const Job& job) {
  const std::vector<std::string> scalars = scalars_in(file);
  const std::vector<RoundRecord> rounds = read_rounds(file);
  const std::string folder = fs::temp_directory_path().string();
  RecordLog<ClientRecord> clients(folder);
  RecordLog<ClientEvaluation> evaluations(folder);
  read_clients(file, scalars, clients);
  read_evaluations(file, evaluations);
  const std::map<std::string, std::string> provenance = {{"start", text_attribute(file, "start")}};
  tracker.begin({.job = job,
                 .provenance = provenance,
                 .scalars = scalars,
                 .began = seconds_of_utc(provenance.at("start"))});
  ByRound<ClientRecord> trained(clients);
  ByRound<ClientEvaluation> evaluated(evaluations);
  Outcome outcome;
  for (const RoundRecord& round : rounds) {
    for (auto rows = trained.take(round.round); !rows.empty(); rows = trained.take(round.round))
      tracker.clients(rows);
    for (auto rows = evaluated.take(round.round); !rows.empty(); rows = evaluated.take(round.round))
      tracker.evaluations(rows);
    tracker.round(round);
    outcome.rounds = round.round;
    outcome.rounds_in_vain += round.failed == round.cohort ? 1 : 0;
    if (std::isnan(round.test_accuracy)) continue;
    outcome.last_accuracy = round.test_accuracy;
    if (!(outcome.best_accuracy >= round.test_accuracy))
      outcome.best_accuracy = round.test_accuracy;
  }
  if (text_attribute(file, "end").empty()) return outcome.rounds;  // it is not through
  if (file.has_attribute("/model", "checksum"))
    outcome.checksum = file.read_text_attribute("/model", "checksum");
  outcome.ranks = read_ranks(file);
  tracker.end(outcome);
  return outcome.rounds;
}

}  // namespace

int run_export(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    std::cout << kExportHelp;
    return 0;
  }
  const std::string name = words[0];
  plugin_info("tracker", name);
  words.erase(words.begin());
  const std::string to = take_option(words, "--to").value_or("");
  FL_CHECK(!to.empty(), "export needs --to FOLDER (fl_sim export --help)");
  std::vector<std::string> files, options;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!words[i].starts_with("--")) {
      files.push_back(words[i]);
      continue;
    }
    const std::string key = words[i].substr(2, words[i].find('=') - 2);
    FL_CHECK(key.starts_with(name + "."), "unknown option ", words[i], " (fl_sim export --help; ",
             "a tracker's own are called --", name, ".NAME)");
    options.push_back(words[i]);
    if (words[i].find('=') == std::string::npos && i + 1 < words.size() &&
        !words[i + 1].starts_with("--") && !words[i + 1].ends_with(".h5"))
      options.push_back(words[++i]);
  }
  FL_CHECK(!files.empty(), "export needs a results file (fl_sim export --help)");
  std::map<std::string, std::string> stems;  // and whose they are
  for (const std::string& path : files) {
    const auto [other, is_new] = stems.emplace(fs::path(path).stem().string(), path);
    FL_CHECK(is_new, path, " and ", other->second,
             " have the same name, and would become one (export them to folders of their own)");
  }
  std::error_code error;
  fs::create_directories(to, error);
  FL_CHECK(!error, to, " cannot be made (", error.message(), "); --to names it");
  for (const std::string& path : files) {
    const Hdf5File file = Hdf5File::open(path);
    check_results_format(file, path);
    std::vector<std::string> own = {"--job", path,      "--output",
                                    path,    "--track", name + ":" + to + "/"};
    own.insert(own.end(), options.begin(), options.end());
    const Job job = Job::parse(own);
    const auto [unused, argument] = split_name(job.names("track").front());
    const auto tracker = make<Tracker>(name, {job, argument});
    FL_CHECK(!tracker->wants_models(), "tracker ", name,
             " writes models of rounds, and a results file has the last one alone (--track ", name,
             ":FOLDER while the run runs)");
    std::cout << path << "  " << tell_all(*tracker, file, job) << " rounds\n";
  }
  return 0;
}

}  // namespace fl_sim
