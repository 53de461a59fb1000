// Who is told of a run while it runs, on rank 0: the results file, the display, a log.
//
// Plug-ins live in src/plugins/trackers/; a job names them by its key `track`, "jsonl:run.jsonl".
// Rows of a kind come in order and once each, but for what forget_after() takes back. Rows of
// different kinds meet by their `round`: a model is evaluated while the next rounds are trained, so
// that clients of later rounds may come before a round's own row.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/job.h"
#include "learning/records.h"

namespace fl_sim {

// Each level includes those before it.
enum class LogLevel { kError, kWarning, kInfo, kDebug };

// A parameter of the trained model, as in PyTorch's state_dict.
struct NamedTensor {
  std::string name;            // "conv1.weight": no slashes
  std::vector<int64_t> shape;  // empty: a scalar
  std::vector<float> values;   // row by row
};

// What a run is.
struct RunFacts {
  const Job& job;
  const std::map<std::string, std::string>& provenance;
  const std::vector<std::string>& scalars;  // names of ClientOutcome::scalars, the first ones
  int64_t after = 0;  // the round of a former run that this one goes on after; 0: none
  // Of a run that is told afterwards: when it began, in seconds since 1970. Nothing: it begins now.
  std::optional<double> began = {};
};

// What a run came to.
struct Outcome {
  int64_t rounds = 0;   // that made the model
  int64_t samples = 0;  // processed by them, those of a former run left out
  int64_t bytes = 0;    // sent to and by clients
  std::string checksum = {};
  bool paused = false;           // interrupted by a signal
  int64_t rounds_of_former = 0;  // that a run before this one did
  double best_accuracy = kNotMeasured, last_accuracy = kNotMeasured;
  double last_loss = kNotMeasured;  // on the test set, as the metrics
  Metrics last_metrics = {};
  RoundRecord evaluated = {};  // the last round whose model clients evaluated
  bool target_reached = false;
  // Of clients' answers that were asked for, those of a former run included: what RoundRecord says
  // of each.
  int64_t asked = 0, diverged = 0, stragglers = 0, lost = 0, set_aside = 0, partial = 0;
  VirtualRound virtual_time = {};  // of all rounds, where the run has devices
  int64_t rounds_in_vain = 0;      // rounds without a client whose update counts
  bool gave_up = false;            // after so many of them in a row as the job allows

  // Whether no update ever counted: the model is the one that the run began with.
  bool in_vain() const { return rounds > 0 && rounds_in_vain == rounds; }
  bool out_of_patience = false;
  int64_t best_round = 0;            // by the job's best-metric; 0: none was measured
  double best_value = kNotMeasured;  // of that metric
  std::vector<RankRecord> ranks = {};
};

class Tracker {
 public:
  static constexpr const char* kKind = "tracker";
  struct Setup {
    const Job& job;
    std::string argument;  // behind the colon of its name

    // In the folder that the argument names, what a run of this job calls its own: the name of its
    // results file.
    std::string own_place() const {
      const std::filesystem::path output = job.get<std::string>("output");
      return (std::filesystem::path(argument) / output.stem()).string();
    }
  };

  virtual ~Tracker() = default;

  // Whether it wants the models of rounds, which no results file has.
  virtual bool wants_models() const { return false; }

  // Before the first round. Rows of rounds up to `after` have been told to a tracker of the former
  // run; what that told of later ones does not count. Throws Error where it cannot go on from
  // there.
  virtual void begin(const RunFacts& facts) { (void)facts; }

  virtual void note(const std::string& text, LogLevel level) { (void)text, (void)level; }

  // Of a round its clients, ascending by id, when it is through; who evaluated its model; and, once
  // all of its evaluations are there, the round itself.
  virtual void clients(std::span<const ClientRecord> records) { (void)records; }
  virtual void evaluations(std::span<const ClientEvaluation> evaluations) { (void)evaluations; }
  virtual void round(const RoundRecord& record) { (void)record; }

  // Rounds after this one are done again: what was told of them does not count.
  virtual void forget_after(int64_t round) { (void)round; }

  // The model after that round is the best so far by the job's best-metric, which has this value.
  // Only told where the job says save-best.
  virtual void best(int64_t round, double value, const std::vector<NamedTensor>& model) {
    (void)round, (void)value, (void)model;
  }

  // What was told so far is to outlive a kill (`force`), or may be written if it is time.
  // `model` makes the tensors of the model as it is now.
  virtual void save(const std::function<std::vector<NamedTensor>()>& model, bool force) {
    (void)model, (void)force;
  }

  // After the last round, or before the run pauses; save() comes after it.
  virtual void end(const Outcome& outcome) { (void)outcome; }
};

}  // namespace fl_sim
