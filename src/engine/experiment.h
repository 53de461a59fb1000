// Everything that a run consists of, the same on every rank: the resolved job, data, partition,
// network, algorithm.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/job.h"
#include "data/dataset.h"
#include "data/partitioner.h"
#include "learning/aggregator.h"
#include "learning/algorithm.h"
#include "learning/availability.h"
#include "learning/devices.h"
#include "learning/sampler.h"
#include "learning/transform.h"
#include "network/network.h"

namespace fl_sim {

struct Experiment {
  Job job;
  Dataset data;                      // test samples on rank 0 only, unless clients have their own
  Partition partition;               // what clients train with
  Partition validation, test;        // and what they keep for it; Partition() if the job has none
  bool own_tests = false;            // `test` is of the test set, in which clients have their own
  std::vector<int64_t> holdout;      // ids of the clients that never train, ascending
  std::vector<int64_t> trained;      // of those that may, ascending; empty: all
  std::vector<int64_t> shift_group;  // [clients]; empty: data are not shifted, see shift.h
  InputChanges input_changes;        // to what clients see of their samples
  std::unique_ptr<Network> network;
  std::unique_ptr<Algorithm> algorithm;
  std::unique_ptr<Sampler> sampler;
  // When clients can be reached, and what they run on.
  std::unique_ptr<Availability> availability;
  std::unique_ptr<Devices> devices;
  // What happens to updates, in the job's order, and what the server makes of them.
  struct NamedTransform {
    std::string name;
    std::unique_ptr<Transform> transform;
  };
  std::vector<NamedTransform> transforms;
  std::unique_ptr<Aggregator> aggregator;
  torch::Device device = torch::kCPU;
  torch::ScalarType dtype = torch::kFloat32;  // of the rows; float64 in tests
  bool data_shared = true;                    // the training set lies once per node
  std::vector<std::string> notes;             // on rank 0: what a user should know, a line each

  // How many clients may train, and the id at a place among them, 0 to that, ascending.
  int64_t may_train() const { return trained.empty() ? partition.clients() : std::ssize(trained); }
  int64_t may_train(int64_t place) const {
    return trained.empty() ? place : trained[static_cast<size_t>(place)];
  }

  // What clients evaluate on, and where those samples are.
  const Partition& held_back() const;
  const Samples& held_back_samples() const;
};

// Makes job.clients etc. definite and builds what the job names on top of `data`: on one rank,
// without communication. Throws Error for everything that can be wrong with a job. A shift changes
// the samples in place.
Experiment make_experiment(Job job, Dataset data);

// The same but for the shift of the samples, which is left to shift_samples().
Experiment prepare_experiment(Job job, Dataset data);
void shift_samples(Experiment& experiment);

// The job's model for these data: of the training samples' shape, number of positions and classes.
std::unique_ptr<Network> build_network(const Job& job, const Dataset& data);

// Builds the parts that job and data determine, given the partition.
void build_parts(Experiment& experiment);

// The names of ClientOutcome::scalars: the algorithm's, then "<transform>.<name>".
std::vector<std::string> scalar_names(const Experiment& experiment);

// The row [P] float32 that global model `model` (0, 1, ...) starts with: from the job's `init`
// file, or drawn.
torch::Tensor initial_row(const Experiment& experiment, int64_t model);

}  // namespace fl_sim
