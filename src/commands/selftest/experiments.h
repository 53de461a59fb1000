// The problems of problem.h as experiments, run by the real round loop on one rank.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "commands/selftest/problem.h"
#include "commands/selftest/rules.h"
#include "commands/selftest/suite.h"
#include "engine/experiment.h"
#include "engine/simulation.h"
#include "learning/records.h"
#include "learning/sampler.h"
#include "network/network.h"
#include "process/communicator.h"

namespace fl_sim::selftest {

// Where checks compute; the CPU unless the command line says otherwise.
torch::Device& device();

// MPI is started by the first call of one of these, and ends with the program.
MpiSession& start_mpi();
Communicator& one_rank();  // of a program that was started without mpirun

// A job with the lines that a check cares about; everything else a job must say is filled in with
// something valid.
Job any_job(const std::string& lines);

// A job for hand-made experiments: `lines`, and what Simulation wants to have resolved.
Job hand_made_job(std::string lines);

// An experiment in float64 on one sample list per client, without a data set's file or a
// partitioner. The test set is the first sample.
Experiment hand_made_experiment(const std::string& lines, Samples train, int64_t classes,
                                std::vector<std::vector<int64_t>> lists,
                                std::unique_ptr<Network> network);

// `problem` as its clients, samples, network and cohorts. Clients hold nothing back: a check that
// wants evaluations gives Experiment::test lists of samples, and the job evaluate-clients.
Experiment experiment_of(const Problem& problem, const std::string& lines);
Experiment experiment_of(const Problem& problem, const std::string& algorithm,
                         const std::string& lines, int64_t rounds);

// Each client's own samples again.
Partition own_samples(const Problem& problem);

// What a run came to. Of run_recorded(): with the rows of its results.
struct Finished {
  Vector weights;      // all of a row, gaps and buffers included
  ServerState server;  // tensors
  std::map<int64_t, State>
      states;  // of the clients that took part: tensors [n], see client_state()
  std::vector<RoundRecord> rounds = {};
  std::vector<ClientRecord> clients = {};
  std::vector<ClientEvaluation> evaluations = {};
};
Finished run(Experiment& experiment, Results* results = nullptr);
Finished run_recorded(Experiment& experiment);

Vector to_vector(const torch::Tensor& tensor);

// Tensors [n] or [M, n] of the shape of a network's rows, or of their trainable part, have gaps
// between the parameters: the trainable numbers without them, one row after the other.
Vector numbers(const torch::Tensor& rows, const ParameterLayout& layout);
// The other way round: a row, float32, with these numbers as its parameters, one after the other.
torch::Tensor row_of(const Vector& values, const ParameterLayout& layout);

// `problem` after `rounds` rounds of `algorithm`: the trainable part of the global weights, one
// model after the other where there are several.
Vector solve(const Problem& problem, const std::string& algorithm, const std::string& lines,
             int64_t rounds, torch::ScalarType type = torch::kFloat64);

// The largest difference.
Result compare(const Vector& actual, const Vector& expected, double tolerance = kTolerance);

// That two differ, by at least so much: a check that changes nothing proves nothing.
Result differ(const Vector& a, const Vector& b, double least);

// One, two and three rounds of `algorithm` against `rule`, alone and in groups of three clients,
// whose clients all have different sizes, so that the batches are ragged; and in float32.
using ClosedForm = std::function<Vector(const Problem&, const Local&, int64_t rounds)>;
bool add_closed_form(const std::string& algorithm, const std::string& text, const Problem& problem,
                     const Local& local, const std::string& lines, const ClosedForm& form);

// The trained weights in what a rule returns.
inline const Vector& weights_in(const Vector& weights) { return weights; }
template <class Model>
const Vector& weights_in(const Model& model) {
  if constexpr (requires { model.w; }) {
    return model.w;
  } else if constexpr (requires { model.global; }) {
    return model.global;
  } else if constexpr (requires { model.weights; }) {
    return model.weights;
  } else {
    return model.shared;
  }
}

// The same with rule(problem, local, rounds, arguments...).
template <class Rule, class... Arguments>
bool add_closed_form(const std::string& algorithm, const std::string& text, const Problem& problem,
                     const Local& local, const std::string& lines, const Rule& rule,
                     const Arguments&... arguments) {
  const ClosedForm form = [=](const Problem& p, const Local& l, int64_t rounds) {
    return weights_in(rule(p, l, rounds, arguments...));
  };
  return add_closed_form(algorithm, text, problem, local, lines, form);
}
template <class Rule, class... Arguments>
bool add_closed_form(const std::string& algorithm, const std::string& text, const Local& local,
                     const std::string& lines, const Rule& rule, const Arguments&... arguments) {
  return add_closed_form(algorithm, text, example_problem(), local, lines, rule, arguments...);
}

// Those of a run with results, which may be null.
Trackers trackers_of(Results* results);

// Cohorts as a check wants them; the last one stands for all later rounds.
class FixedCohorts final : public Sampler {
 public:
  explicit FixedCohorts(std::vector<std::vector<int64_t>> cohorts) : cohorts_(std::move(cohorts)) {}
  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override;

 private:
  std::vector<std::vector<int64_t>> cohorts_;
};

}  // namespace fl_sim::selftest
