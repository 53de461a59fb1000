// What is measured: rows of the results file, and fixed-size so that they travel between ranks as
// bytes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace fl_sim {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// What became of a client that was drawn. A straggler that came late is left out; a partial one did
// a part of its work, which counts; a lost one never answered. Where a client's own model diverged,
// it stays as it was, and what the client gave to the global one counts. In virtual time an offline
// client could not be reached any more, and others were enough without one that was not needed. In
// an asynchronous run an update of a stale one would have been too old.
enum class ClientStatus : int64_t {
  kTrained = 0,
  kDiverged = 1,
  kStraggler = 2,
  kPartial = 3,
  kLost = 4,
  kPersonalDiverged = 5,
  kOffline = 6,
  kStale = 7,
  kNotNeeded = 8
};

// What a client's training came to, beside tensors.
struct ClientOutcome {
  // Of its update: p_k over the planned cohort. An algorithm that sets the weights itself says so
  // here, all of a cohort's summing to at most 1; not measured: the job's weighting.
  double weight = kNotMeasured;
  int64_t model = 0;         // which of the group's global models it trained
  int64_t steps = 0;         // local optimiser steps
  int64_t samples_seen = 0;  // processed in this round, over all its steps
  // The sum of the weights that its gradients have in its delta, ||a_k||_1 (Wang et al. 2020): its
  // number of steps without momentum.
  double step_weight = 0;
  double loss = kNotMeasured;          // mean over all samples seen
  double squared_loss = kNotMeasured;  // mean of samples' squared losses, where a sampler asks
  double loss_before = kNotMeasured;   // on its first batch, with the weights it received
  double loss_after = kNotMeasured;    // on its last batch, before the last step
  double delta_norm = kNotMeasured;    // l2 norm of the trainable part of its delta, as trained
  double sent_norm = kNotMeasured;     // the same as it is sent, after the job's transforms

  // Numbers of the algorithm and the transforms, as Needs::scalars names them.
  static constexpr int64_t kScalars = 8;
  using Scalars = std::array<double, kScalars>;
  static constexpr Scalars no_scalars() {
    Scalars none;
    none.fill(kNotMeasured);
    return none;
  }
  Scalars scalars = no_scalars();
};

// One client's part in one round.
struct ClientRecord : ClientOutcome {
  int64_t round = 0;
  int64_t client = 0;
  int64_t rank = 0;
  int64_t samples = 0;  // training samples that it holds
  int64_t status = 0;   // ClientStatus
  double seconds = 0;   // its share of the time that its group took
  // Virtual times, where the run has devices: since its start, and of the task's phases.
  double start_seconds = kNotMeasured, finish_seconds = kNotMeasured;
  double download_seconds = kNotMeasured, compute_seconds = kNotMeasured,
         upload_seconds = kNotMeasured;
  double joules = kNotMeasured;  // of the task, where the job asks for it
  // Of an asynchronous run: the number of the task (-1: there are none), the version of the model
  // that it started from, and how many versions were made meanwhile. `round` is the version that it
  // helped to make.
  int64_t dispatch = -1, base_version = 0, staleness = 0;

  // The round whose model it trained from.
  int64_t began_in() const { return dispatch < 0 ? round : base_version + 1; }

  bool is(ClientStatus what) const { return status == static_cast<int64_t>(what); }
  bool answers() const {  // in time
    return !is(ClientStatus::kLost) && !is(ClientStatus::kStraggler) &&
           !is(ClientStatus::kOffline) && !is(ClientStatus::kNotNeeded) &&
           !is(ClientStatus::kStale);
  }
  bool counts() const {  // in the sum
    return is(ClientStatus::kTrained) || is(ClientStatus::kPartial) ||
           is(ClientStatus::kPersonalDiverged);
  }
};

// What a client says that was asked before the cohort was drawn.
struct Answer {
  int64_t client = 0;
  double value = kNotMeasured;
};

// One client's evaluation of the model after a round, on samples that it did not train with.
struct ClientEvaluation {
  int64_t round = 0;
  int64_t client = 0;
  int64_t rank = 0;
  int64_t samples = 0;
  int64_t holdout = 0;                  // 1: it never trains
  double loss = kNotMeasured;           // of the global model; mean over its samples
  double accuracy = kNotMeasured;       // fraction
  double personal_loss = kNotMeasured;  // of its own model
  double personal_accuracy = kNotMeasured;
  // What the job's `metrics` ask for, of the global model and of its own one.
  double balanced_accuracy = kNotMeasured, personal_balanced_accuracy = kNotMeasured;
  double area_under_curve = kNotMeasured, personal_area_under_curve = kNotMeasured;
  double macro_f1 = kNotMeasured, personal_macro_f1 = kNotMeasured;
  double seconds = 0;
};

// Clients' evaluations of one model, summed up over a set of clients.
struct EvaluationSummary {
  int64_t clients = 0;
  double loss = kNotMeasured;       // weighted by samples
  double accuracy = kNotMeasured;   // weighted by samples
  double mean_loss = kNotMeasured;  // every client the same
  double mean_accuracy = kNotMeasured;
  double variance = kNotMeasured;     // of accuracy, over clients
  double worst_tenth = kNotMeasured;  // mean accuracy of the worst 10 % of the clients
  double best_tenth = kNotMeasured;
  double percentile_10 = kNotMeasured, percentile_50 = kNotMeasured, percentile_90 = kNotMeasured;
  // What the job's `metrics` ask for, weighted by samples and every client the same; of those
  // clients for whom it is defined.
  double balanced_accuracy = kNotMeasured, mean_balanced_accuracy = kNotMeasured;
  double area_under_curve = kNotMeasured, mean_area_under_curve = kNotMeasured;
  double macro_f1 = kNotMeasured, mean_macro_f1 = kNotMeasured;
};

// Of the test set, beside loss and accuracy; what the job does not ask for is not measured.
struct Metrics {
  double balanced_accuracy = kNotMeasured;  // mean of the classes' recalls
  double area_under_curve = kNotMeasured;   // of the ROC; macro average, one against the rest
  double macro_f1 = kNotMeasured;           // mean of the classes' F1
  double perplexity = kNotMeasured;         // exp(loss)
  std::vector<double> class_accuracy = {};  // [classes] recalls; NaN without a sample
  std::vector<double> class_f1 = {};        // [classes]; NaN where neither label nor prediction
  std::vector<int64_t> confusion = {};      // [classes, classes] samples by label and prediction
};

// A round in virtual time, where the run has devices.
struct VirtualRound {
  double end = kNotMeasured;     // seconds since the run's start; the next round begins then
  double length = kNotMeasured;  // seconds since this one began
  int64_t online = 0;            // clients that could be drawn
  int64_t started = 0;           // that were
  int64_t finished = 0;          // of them, sooner or later
  int64_t offline = 0;           // that could not be reached any more
  int64_t not_needed = 0;        // without whom others were enough, or all were too few
  // Of an asynchronous run, where a round makes a version of the model: updates that were too old,
  // and how old those are that count, in versions.
  int64_t stale = 0;
  double staleness_mean = kNotMeasured, staleness_max = kNotMeasured;
  // What those did and carried whose updates do not count.
  int64_t wasted_samples = 0, wasted_bytes_down = 0, wasted_bytes_up = 0;
  // Energy of all tasks, and of those; where the job asks for it.
  double joules = kNotMeasured, wasted_joules = kNotMeasured;

  bool measured() const { return end >= 0; }
  bool asynchronous() const { return staleness_max >= 0; }

  // Both together; the times are those of the later one.
  VirtualRound& operator+=(const VirtualRound& later) {
    const auto add = [](double& sum, double more) {
      sum = std::isnan(sum) ? more : sum + more;  // which begins as not measured
    };
    end = later.end;
    length = later.length;
    online += later.online;
    started += later.started;
    finished += later.finished;
    offline += later.offline;
    not_needed += later.not_needed;
    stale += later.stale;
    wasted_samples += later.wasted_samples;
    wasted_bytes_down += later.wasted_bytes_down;
    wasted_bytes_up += later.wasted_bytes_up;
    add(joules, later.joules);
    add(wasted_joules, later.wasted_joules);
    return *this;
  }
};

// One round as the server sees it.
struct RoundRecord {
  int64_t round = 0;                    // 1, 2, ...
  double seconds = 0;                   // wall time from dealing to the updated model
  double idle_share = kNotMeasured;     // of the hosts' time, in which they did not train
  double train_loss = kNotMeasured;     // sample-weighted mean of the clients' `loss`
  double test_loss = kNotMeasured;      // of the model after this round; NaN where not evaluated
  double test_accuracy = kNotMeasured;  // fraction
  std::vector<double> model_loss = {}, model_accuracy = {};  // the same of each of several models
  Metrics metrics = {};
  // Of clients on their own samples, where they evaluate: the global model and their own ones, of
  // clients that may train and of those that never do.
  EvaluationSummary clients = {}, personal = {}, holdout_clients = {}, holdout_personal = {};
  int64_t cohort = 0;       // clients asked
  int64_t failed = 0;       // clients left out: these four and virtual time's, each of them once
  int64_t diverged = 0;     // whose update is not finite, or too large
  int64_t stragglers = 0;   // that came late, and were dropped
  int64_t lost = 0;         // that never answered
  int64_t set_aside = 0;    // too few for the aggregator
  int64_t partial = 0;      // stragglers that count with what they had
  int64_t absent = 0;       // of those that may train, who could not be drawn
  int64_t samples = 0;      // training samples processed
  int64_t bytes_down = 0;   // what a real server would send to the cohort: model and shared state
  int64_t bytes_up = 0;     // what those who answer send back: deltas and further vectors
  int64_t bytes_state = 0;  // client state that moved between ranks; depends on their number
  VirtualRound virtual_time = {};
  // What plug-ins measure, by the names of their columns: "clip.share". Other rounds may have
  // others.
  std::map<std::string, double> figures = {};
};

// Where one rank's time went, in seconds from the first round (of this process: a run that was
// continued starts again at 0) to the end of the last one; rank 0's last evaluation comes after
// that.
struct RankRecord {
  int64_t rank = 0;
  double compute_seconds = 0;
  double wait_seconds = 0;
  double comm_seconds = 0;
  double evaluate_seconds = 0;
  char host[64] = {};
  char device[64] = {};
};

}  // namespace fl_sim
