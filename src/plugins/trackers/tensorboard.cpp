// A run for TensorBoard, written as it goes.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>

#include "base/check.h"
#include "base/checksum.h"
#include "base/engine_options.h"
#include "base/files.h"
#include "learning/record_values.h"
#include "learning/tracker.h"
#include "plugins/trackers/event_file.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

// "test_accuracy" is in the group "test", what belongs to no group in "round".
std::string tag_of(const std::string& column) {
  for (const char* group :
       {"test", "train", "clients", "personal", "holdout_personal", "holdout", "wasted"}) {
    const std::string start = std::string(group) + "_";
    if (column.starts_with(start)) return std::string(group) + "/" + column.substr(start.size());
  }
  const size_t dot = column.find('.');  // a plug-in's
  if (dot != std::string::npos) return column.substr(0, dot) + "/" + column.substr(dot + 1);
  return "round/" + column;
}

// A value of the job as what it is.
Setting setting_of(const std::string& text) {
  if (text == "true" || text == "false") return text == "true";
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (!text.empty() && *end == '\0' && std::isfinite(number)) return number;
  return text;
}

// Whether a job that does not say this key has this value: most keys of most jobs, which nobody
// compares. What names a plug-in is never left out, nor the seed.
bool is_default(const std::string& key, const std::string& value) {
  static const std::vector<Option> options = all_options();
  if (key == "output" || key == "track") return true;
  const auto option = std::find_if(options.begin(), options.end(),
                                   [&](const Option& one) { return one.name == key; });
  return option != options.end() && option->plugin_kind.empty() && key != "seed" &&
         std::count(plugin_kinds().begin(), plugin_kinds().end(), key) == 0 &&
         option->default_value == value;
}

class TensorBoard final : public Tracker {
 public:
  explicit TensorBoard(const Setup& setup)
      : of_clients_(setup.job.get<bool>("tensorboard.clients")) {
    FL_CHECK(!setup.argument.empty(),
             "track names tensorboard without a folder (must be tensorboard:FOLDER, such as "
             "tensorboard:results/board; tensorboard --logdir takes the same)");
    folder_ = setup.own_place();
  }

  static PluginInfo describe() {
    return {.summary = "tensorboard:FOLDER, curves for TensorBoard, W&B, Aim and others",
            .rule =
                "FOLDER/<name of the results file>/ gets an event file, a flush a round: scalars "
                "of all columns of /rounds that were measured (test/accuracy, train/loss, "
                "round/seconds, ...), the job as a text, and for the HPARAMS page those of its "
                "values that are no defaults; runs that differ in the seed alone are one group "
                "there. A step is a "
                "round. A run that goes on removes what was written of rounds that it repeats.",
            .options = {{.name = "clients",
                         .type = Option::Type::kFlag,
                         .default_value = "false",
                         .meaning = "curves of each client, too: many in a large population",
                         .changes_results = false}},
            .takes_argument = true};
  }

  void begin(const RunFacts& facts) override {
    std::error_code error;
    fs::create_directories(folder_, error);
    FL_CHECK(!error, folder_, " cannot be made (", error.message(),
             "); track names it for tensorboard");
    scalars_ = facts.scalars;
    if (facts.began) begin_ = *facts.began;
    start_ = begin_ ? *begin_ : now();
    char name[80];
    std::snprintf(name, sizeof name, "events.out.tfevents.%010lld.fl_sim.%ld.0",
                  static_cast<long long>(start_), static_cast<long>(getpid()));
    // Who reads on from a former file finds a new one, and what that says in place of the former.
    std::string kept;
    constexpr size_t kHeads = 2;  // records that each file begins with
    for (const std::string& former : files()) {
      if (facts.after > 0) kept += records_until(former, facts.after, kHeads);
    }
    remove_files();
    path_ = folder_ + "/" + name;
    std::ofstream(path_, std::ios::trunc | std::ios::binary);
    constexpr int64_t kStart = 1;  // SessionLog
    write(record_of(version_event(start_)) +
          record_of(Message().number(1, start_).message(7, Message().integer(1, kStart))));
    if (facts.after > 0) {
      write(kept);
    } else {
      describe_run(facts.job);
    }
    round_ = facts.after;
  }

  void clients(std::span<const ClientRecord> records) override {
    if (!of_clients_) return;
    for (const ClientRecord& record : records)
      write_values(message("client ", record.client, "/"), record.round,
                   values_of(record, scalars_), {"round", "client", "rank"});
  }

  void evaluations(std::span<const ClientEvaluation> evaluations) override {
    if (!of_clients_) return;
    for (const ClientEvaluation& one : evaluations)
      write_values(message("client ", one.client, "/evaluated_"), one.round, values_of(one),
                   {"round", "client", "rank", "holdout"});
  }

  void round(const RoundRecord& record) override {
    seconds_ += record.seconds;
    std::vector<std::pair<std::string, double>> values;
    for (const RecordValue& value : values_of(record)) {
      if (value.name != "round") values.emplace_back(tag_of(value.name), value.number());
    }
    write(record_of(event(time(), record.round, scalars_summary(values))));
    round_ = record.round;
  }

  void forget_after(int64_t round) override {
    const std::string kept = records_until(path_, round, 0);
    replace_file(path_, [&](const std::string& place) {
      std::ofstream out(place, std::ios::trunc | std::ios::binary);
      out << kept << std::flush;
      FL_CHECK(out, place, " cannot be written (track is tensorboard)");
    });
    round_ = std::min(round_, round);
  }

  void end(const Outcome& outcome) override {
    if (outcome.paused) return;  // the session goes on
    const SessionStatus status =
        outcome.in_vain() || outcome.gave_up ? SessionStatus::kFailure : SessionStatus::kSuccess;
    // Of no step: of a run that goes on it goes with the last round.
    write(record_of(event(time(), round_ + 1, session_end_summary(status, time()))));
  }

 private:
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
  // Of a run that is told afterwards, as far as it is known.
  double time() const { return begin_ ? *begin_ + seconds_ : now(); }

  void describe_run(const Job& job) {
    std::string lines;
    std::map<std::string, Setting> settings;
    Checksum group;
    for (const auto& [key, value] : job.values()) {
      lines += "    " + key + " = " + value + "\n";
      if (!is_default(key, value)) settings[key] = setting_of(value);
      const std::string both = key + "=" + value + "\n";
      if (key != "seed" && !may_differ(key)) group.add(std::as_bytes(std::span(both)));
    }
    write(record_of(event(start_, 0, text_summary("job", lines))) +
          record_of(event(start_, 0,
                          experiment_summary("fl_sim", settings,
                                             {"test/accuracy", "test/loss", "train/loss"}))) +
          record_of(event(start_, 0, session_start_summary(settings, group.text(), start_))));
  }

  std::vector<std::string> files() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("events.out.tfevents.") && name.find(".fl_sim.") != std::string::npos)
        found.push_back(entry.path().string());
    }
    return found;
  }

  // What a file has of rounds up to this one, less its first records.
  static std::string records_until(const std::string& path, int64_t round, size_t without) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<EventRecord> records =
        whole_records({std::istreambuf_iterator<char>(file), {}});
    std::string kept;
    for (size_t i = without; i < records.size(); ++i) {
      if (records[i].step <= round) kept += records[i].bytes;
    }
    return kept;
  }

  void remove_files() const {
    for (const std::string& path : files()) fs::remove(path);
  }

  void write_values(const std::string& group, int64_t step, const std::vector<RecordValue>& values,
                    const std::vector<std::string>& without) {
    std::vector<std::pair<std::string, double>> all;
    for (const RecordValue& value : values) {
      if (std::find(without.begin(), without.end(), value.name) == without.end())
        all.emplace_back(group + value.name, value.number());
    }
    write(record_of(event(time(), step, scalars_summary(all))));
  }

  void write(const std::string& bytes) const {
    std::ofstream out(path_, std::ios::app | std::ios::binary);
    out << bytes << std::flush;
    FL_CHECK(out, path_, " cannot be written (track names it for tensorboard)");
  }

  const bool of_clients_;
  std::string folder_, path_;
  std::vector<std::string> scalars_;
  std::optional<double> begin_;  // of a run that is told afterwards: when it began
  double start_ = 0, seconds_ = 0;
  int64_t round_ = 0;
};

FL_REGISTER(Tracker, "tensorboard", TensorBoard);

}  // namespace
}  // namespace fl_sim
