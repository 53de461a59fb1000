// A run as lines of JSON, one a round, written as soon as its evaluation is there.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "learning/record_values.h"
#include "learning/tracker.h"

namespace fl_sim {
namespace {

using nlohmann::json;

// Not a number is null.
json number(double value) { return std::isfinite(value) ? json(value) : json(); }

class Jsonl final : public Tracker {
 public:
  explicit Jsonl(const Setup& setup) : path_(setup.argument) {
    FL_CHECK(!path_.empty(),
             "track names jsonl without a file (must be jsonl:FILE, such as "
             "jsonl:results/run.jsonl)");
    if (path_.ends_with('/')) path_ = setup.own_place() + ".jsonl";
  }

  static PluginInfo describe() {
    return {.summary = "jsonl:FILE, or jsonl:FOLDER/, a line of JSON a round",
            .rule =
                "Lines {\"event\": \"run\", …} with the job, {\"event\": \"round\", …} with the "
                "columns of /rounds that were measured, {\"event\": \"end\", …}; each is written "
                "when it is known. In a folder the file is called like the results file. A run "
                "that goes on "
                "removes the lines of rounds that it repeats.",
            .takes_argument = true};
  }

  void begin(const RunFacts& facts) override {
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    if (!folder.empty()) std::filesystem::create_directories(folder);
    if (facts.after > 0) {
      forget_after(facts.after);
    } else {
      std::ofstream(path_, std::ios::trunc);
    }
    json job(facts.job.values());
    write({{"event", "run"}, {"after", facts.after}, {"job", std::move(job)}});
  }

  void round(const RoundRecord& r) override {
    json line = {{"event", "round"}, {"train_loss", nullptr}};
    for (const RecordValue& measured : values_of(r)) {
      const auto* whole = std::get_if<int64_t>(&measured.value);
      line[measured.name] = whole != nullptr ? json(*whole) : number(measured.number());
    }
    write(line);
  }

  // Whole lines of rounds up to this one stay; what a kill has cut off does not.
  void forget_after(int64_t round) override {
    std::string kept;
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line) && !file.eof();) {
      const json event = json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (event.is_discarded() || !event.is_object()) continue;
      if (event.value("event", "") == "end") continue;
      if (event.value("event", "") == "round" && event.value("round", int64_t{0}) > round) continue;
      kept += line + "\n";
    }
    file.close();
    std::ofstream out(path_, std::ios::trunc);
    out << kept << std::flush;
    FL_CHECK(out, path_, " cannot be written (track is jsonl:", path_, ")");
  }

  void end(const Outcome& outcome) override {
    write({{"event", "end"},
           {"paused", outcome.paused},
           {"rounds", outcome.rounds},
           {"checksum", outcome.checksum},
           {"best_accuracy", number(outcome.best_accuracy)},
           {"last_accuracy", number(outcome.last_accuracy)}});
  }

 private:
  void write(const json& line) const {
    std::ofstream out(path_, std::ios::app);
    out << line.dump(-1, ' ', false, json::error_handler_t::replace) << "\n" << std::flush;
    FL_CHECK(out, path_, " cannot be written (track is jsonl:", path_, ")");
  }

  std::string path_;
};

FL_REGISTER(Tracker, "jsonl", Jsonl);

}  // namespace
}  // namespace fl_sim
