// What is measured: rows of the results file, and fixed-size so that they travel between ranks as
// bytes.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace fl_sim {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

enum class ClientStatus : int64_t { kTrained = 0, kDiverged = 1 };

// One client's part in one round.
struct ClientRecord {
  int64_t round = 0;
  int64_t client = 0;
  int64_t rank = 0;
  int64_t samples = 0;                // training samples that it holds
  int64_t steps = 0;                  // local optimiser steps
  int64_t samples_seen = 0;           // processed in this round, over all its steps
  int64_t status = 0;                 // ClientStatus
  double weight = 0;                  // p_k over the planned cohort
  double loss = kNotMeasured;         // mean over all samples seen
  double loss_before = kNotMeasured;  // on its first batch, with the weights it received
  double loss_after = kNotMeasured;   // on its last batch, before the last step
  double delta_norm = kNotMeasured;   // l2 norm of the trainable part of its delta
  double seconds = 0;                 // its share of the time that its group took
};

// One round as the server sees it.
struct RoundRecord {
  int64_t round = 0;                    // 1, 2, ...
  double seconds = 0;                   // wall time from dealing to the updated model
  double idle_share = kNotMeasured;     // of the hosts' time, in which they did not train
  double train_loss = kNotMeasured;     // sample-weighted mean of the clients' `loss`
  double test_loss = kNotMeasured;      // of the model after this round; NaN where not evaluated
  double test_accuracy = kNotMeasured;  // fraction
  int64_t cohort = 0;                   // clients asked
  int64_t failed = 0;                   // clients left out
  int64_t samples = 0;                  // training samples processed
  int64_t bytes_down = 0;   // what a real server would send to the cohort: model and shared state
  int64_t bytes_up = 0;     // what the cohort would send back: deltas and further vectors
  int64_t bytes_state = 0;  // client state that moved between ranks; depends on their number
};

// Where one rank's time went, in seconds from the first round to the end of the last one; rank 0's
// last evaluation comes after that.
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
