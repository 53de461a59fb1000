#include "commands/selftest/experiments.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "network/sequential.h"
#include "storage/results.h"

namespace fl_sim::selftest {
namespace {

// Samples are [2, d]: a and the curvature. forward() gives each coordinate's share of the loss.
class QuadraticNetwork final : public Network {
 public:
  explicit QuadraticNetwork(const Vector& start)
      : dim_(std::ssize(start)), w_(layout_.add("w", {dim_}, 0)), start_(start) {}

  torch::Tensor initial_row(Rng&) const override {
    torch::Tensor row = torch::zeros({layout_.row()});
    for (int64_t d = 0; d < dim_; ++d) row[d] = start_[static_cast<size_t>(d)];
    return row;
  }

  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    const int64_t clients = weights.clients();
    const torch::Tensor samples = x.reshape({-1, clients, 2, dim_});
    const torch::Tensor w = weights[w_].view({1, clients, dim_});
    const torch::Tensor losses = samples.select(2, 1) * (w - samples.select(2, 0)).square() / 2;
    return losses.reshape({-1, clients * dim_});
  }

  torch::Tensor loss(const torch::Tensor& output, const torch::Tensor& labels) const override {
    return output.reshape({labels.numel(), dim_}).sum(1).view(labels.sizes());
  }

 private:
  int64_t dim_, w_;
  Vector start_;
};

// Classifier's, with the engine's layers.
class ClassifierNetwork final : public Sequential {
 public:
  ClassifierNetwork(const Classifier& shape, const Vector& start)
      : Sequential({shape.features}), start_(start) {
    if (shape.hidden > 0) {
      linear("fc1", shape.hidden);
      relu();
    }
    linear("fc2", shape.classes);
  }

  torch::Tensor initial_row(Rng&) const override { return row_of(start_, layout_); }

 private:
  Vector start_;
};

Samples samples_of(const Problem& problem) {
  std::vector<float> values;
  std::vector<int64_t> labels;
  for (const std::vector<Point>& points : problem.clients) {
    for (const Point& point : points) {
      for (const double value : point.a) values.push_back(static_cast<float>(value));
      for (const double value : point.curvature) values.push_back(static_cast<float>(value));
      labels.push_back(point.label);
    }
  }
  const auto n = std::ssize(labels);
  const torch::Tensor inputs = torch::tensor(values);
  const auto dim = std::ssize(problem.clients.at(0).at(0).a);
  return {problem.classifier ? inputs.view({n, dim}) : inputs.view({n, 2, dim}),
          torch::tensor(labels)};
}

std::unique_ptr<Network> network_of(const Problem& problem) {
  if (!problem.classifier) return std::make_unique<QuadraticNetwork>(problem.start);
  return std::make_unique<ClassifierNetwork>(*problem.classifier, problem.start);
}

}  // namespace

torch::Device& device() {
  static torch::Device chosen = torch::kCPU;
  return chosen;
}

MpiSession& start_mpi() {
  static MpiSession session;
  return session;
}

Communicator& one_rank() {
  static Communicator communicator(start_mpi());
  return communicator;
}

Job any_job(const std::string& lines) {
  std::string text = lines + "\n";
  const auto add = [&](const std::string& key, const std::string& value) {
    if (("\n" + text).find("\n" + key + " = ") == std::string::npos)
      text += key + " = " + value + "\n";
  };
  add("dataset", "fcube");
  add("local.batch-size", "10");
  add("local.lr", "0.1");
  for (const auto& [name, info] : catalog()["model"]) {
    bool complete = true;
    for (const Option& option : info.options)
      complete = complete && option.default_value.has_value();
    if (complete) add("model", name);
  }
  return Job::from_text(text);
}

Job hand_made_job(std::string lines) {
  const auto add = [&](const std::string& key, const std::string& value) {
    if (("\n" + lines).find("\n" + key + " = ") == std::string::npos) {
      lines += "\n" + key + " = " + value;
    }
  };
  add("group-size", "1");
  add("evaluate-every", "0");
  add("device", device().is_cuda() ? "cuda" : "cpu");
  return any_job(lines);
}

Experiment hand_made_experiment(const std::string& lines, Samples train, int64_t classes,
                                std::vector<std::vector<int64_t>> lists,
                                std::unique_ptr<Network> network) {
  Experiment e;
  e.job = hand_made_job(lines);
  e.data.test = {train.inputs.narrow(0, 0, 1), train.labels.narrow(0, 0, 1)};
  e.data.train = std::move(train);
  e.data.classes = classes;
  e.partition = make_partition(std::move(lists));
  e.job.set("clients", std::to_string(e.partition.clients()));
  e.network = std::move(network);
  e.dtype = torch::kFloat64;
  e.device = device();
  build_parts(e);
  return e;
}

Experiment experiment_of(const Problem& problem, const std::string& lines) {
  std::vector<std::vector<int64_t>> lists;
  int64_t next = 0;
  for (const std::vector<Point>& points : problem.clients) {
    lists.emplace_back();
    for (size_t i = 0; i < points.size(); ++i) lists.back().push_back(next++);
  }
  Experiment e = hand_made_experiment(
      message(lines, "\ncohort = ", problem.cohort(1).size()), samples_of(problem),
      problem.classifier ? problem.classifier->classes : 1, std::move(lists), network_of(problem));
  e.sampler = std::make_unique<FixedCohorts>(problem.cohorts);
  return e;
}

Experiment experiment_of(const Problem& problem, const std::string& algorithm,
                         const std::string& lines, int64_t rounds) {
  return experiment_of(problem,
                       message("algorithm = ", algorithm, "\nrounds = ", rounds, "\n", lines));
}

Trackers trackers_of(Results* results) {
  if (results == nullptr) return {};
  return {.results = results, .all = {results}};
}

Finished run(Experiment& experiment, Results* results) {
  Simulation simulation(experiment, one_rank(), trackers_of(results));
  simulation.run();
  Finished finished{to_vector(simulation.weights()), simulation.server(), {}};
  const StateLayout layout = state_layout(experiment);
  for (const int64_t client : simulation.host().store().clients()) {
    State state = layout.zeros(1, torch::dtype(experiment.dtype));
    layout.unpack(simulation.host().store().get(client), state, 0);
    for (const auto& [name, tensor] : state) finished.states[client][name] = tensor[0];
  }
  return finished;
}

Finished run_recorded(Experiment& experiment) {
  const auto path =
      std::filesystem::temp_directory_path() / message("fl_sim_selftest_", ::getpid(), ".h5");
  Results results(path.string(), /*overwrite=*/true);
  Finished finished = run(experiment, &results);
  std::filesystem::remove(path);
  finished.rounds = results.rounds();
  finished.clients = results.client_rows();
  finished.evaluations = results.evaluation_rows();
  return finished;
}

Vector to_vector(const torch::Tensor& tensor) {
  const torch::Tensor flat =
      tensor.detach().to(torch::kCPU).to(torch::kFloat64).flatten().contiguous();
  return Vector(flat.data_ptr<double>(), static_cast<size_t>(flat.numel()));
}

torch::Tensor row_of(const Vector& values, const ParameterLayout& layout) {
  torch::Tensor rows = torch::zeros({1, layout.row()});
  size_t next = 0;
  for (int64_t i = 0; i < std::ssize(layout.parameters()); ++i) {
    torch::Tensor flat = layout.view(rows, i).view({-1});
    for (int64_t j = 0; j < flat.numel(); ++j) flat[j] = values[next++];
  }
  return rows[0];
}

Vector numbers(const torch::Tensor& rows, const ParameterLayout& layout) {
  std::vector<torch::Tensor> parts;
  for (const torch::Tensor& row : (rows.dim() == 1 ? rows.unsqueeze(0) : rows).unbind(0)) {
    for (const Parameter& parameter : layout.parameters()) {
      if (parameter.trainable) parts.push_back(row.narrow(0, parameter.offset, parameter.size));
    }
  }
  return to_vector(torch::cat(parts));
}

Vector solve(const Problem& problem, const std::string& algorithm, const std::string& lines,
             int64_t rounds, torch::ScalarType type) {
  Experiment e = experiment_of(problem, algorithm, lines, rounds);
  e.dtype = type;
  return numbers(run(e).server.weights, e.network->layout());
}

Result compare(const Vector& actual, const Vector& expected, double tolerance) {
  return {distance(actual, expected), tolerance};
}

Result differ(const Vector& a, const Vector& b, double least) {
  const double d = distance(a, b);
  return {std::isnan(d) ? d : std::max(0.0, least - d), 0,
          message("they should differ by ", least, " or more and differ by ", d)};
}

bool add_closed_form(const std::string& algorithm, const std::string& text, const Problem& problem,
                     const Local& local, const std::string& lines, const ClosedForm& form) {
  const std::string job = local.lines() + lines;
  add_check({algorithm, "closed form", text, [=] {
               std::vector<Result> results;
               for (const int64_t rounds : {1, 2, 3}) {
                 const Vector expected = form(problem, local, rounds);
                 const Vector actual = solve(problem, algorithm, job, rounds);
                 results.push_back(compare(actual, expected));
                 results.back().note = message("after round ", rounds);
                 results.push_back(differ(actual, problem.start, 0.01));
               }
               results.push_back(compare(solve(problem, algorithm, job + "\ngroup-size = 3", 3),
                                         form(problem, local, 3)));
               results.back().note = "after round 3, in groups of three clients";
               return all_of(results);
             }});
  return add_check({algorithm, "float32", text, [=] {
                      const Vector expected = form(problem, local, 3);
                      const Vector actual = solve(problem, algorithm, job, 3, torch::kFloat32);
                      return Result{norm(actual - expected) / norm(expected - problem.start), 1e-4,
                                    "relative to the change of the weights in three rounds"};
                    }});
}

std::vector<Drawn> FixedCohorts::sample(const SampleRequest& request, Rng&) const {
  std::vector<Drawn> cohort;
  const auto round = std::min(static_cast<size_t>(request.round - 1), cohorts_.size() - 1);
  for (const int64_t place : cohorts_[round]) cohort.push_back({request.candidates.id(place)});
  return cohort;
}

Partition own_samples(const Problem& problem) {
  std::vector<std::vector<int64_t>> lists;
  int64_t next = 0;
  for (const auto& points : problem.clients) {
    lists.emplace_back();
    for (size_t i = 0; i < points.size(); ++i) lists.back().push_back(next++);
  }
  return make_partition(std::move(lists));
}

}  // namespace fl_sim::selftest
