#include "engine/experiment.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "data/shift.h"
#include "engine/contract.h"
#include "engine/device_assignment.h"
#include "engine/evaluation_plan.h"
#include "engine/planned_partition.h"
#include "engine/resolve.h"
#include "learning/evaluation.h"
#include "learning/server_average.h"
#include "network/arithmetic.h"
#include "network/initial_weights.h"

namespace fl_sim {
namespace {

void check_evaluation(const Job& job) {
  const auto evaluation = read_options<EvaluationPlan>(job);
  FL_CHECK(
      evaluation.target == 0 || evaluation.on_the_way(),
      "target-accuracy is set, but evaluate-every is 0 (set it to 1, to look after every round)");
  FL_CHECK(evaluation.every_seconds == 0 || evaluation.every != 1, "clock.evaluate-seconds is ",
           evaluation.every_seconds,
           ", but evaluate-every is 1, so that every round is evaluated (set evaluate-every to 0)");
}

// Who never trains, and who may.
void draw_holdout(Experiment& e) {
  const int64_t clients = e.partition.clients();
  const int64_t count = read_options<EvaluationPlan>(e.job).holdout;
  FL_CHECK(count < clients, "holdout-clients is ", count, " (must be less than ", clients,
           ", the number of clients: somebody has to train)");
  e.holdout.clear();
  e.trained.clear();
  if (count == 0) return;
  Rng rng(e.job.seed(), "holdout");
  const std::vector<int64_t> order = rng.permutation(clients);
  e.holdout.assign(order.begin(), order.begin() + count);
  e.trained.assign(order.begin() + count, order.end());
  std::sort(e.holdout.begin(), e.holdout.end());
  std::sort(e.trained.begin(), e.trained.end());
}

Objective objective_of(const Job& job, const Dataset& data) {
  const auto name = job.get<std::string>("objective");
  FL_CHECK(data.values.empty() || data.train.positions() == 1,
           "this data set has numbers to predict at several positions, which no objective is for");
  if (name == "squared" || (name == "auto" && !data.values.empty()))
    return Objective(Objective::Kind::kSquared, data.values);
  FL_CHECK(data.values.empty(), "objective is ", name,
           ", but this data set has numbers to predict, not classes (choose squared)");
  if (name != "binary") return Objective();
  FL_CHECK(data.classes == 2, "objective is binary, but the data set has ", data.classes,
           " classes (must be 2; cross-entropy is for more)");
  return Objective(Objective::Kind::kBinary);
}

// Where clients evaluate and keep no training samples for it, they do so on what the test set has
// of their own users. A shift changes training samples alone, so that theirs would be of another
// kind.
void find_own_tests(Experiment& e) {
  const auto evaluation = read_options<EvaluationPlan>(e.job);
  const bool evaluate = evaluation.share > 0 || e.algorithm->needs().personal;
  if (!evaluate || !evaluation.on_test() || !e.test.indices.empty() || !e.shift_group.empty())
    return;
  e.test = own_test_samples(e.partition, e.data.owner, e.data.test_owner);
  e.own_tests = !e.test.indices.empty();
}

// Clients can only evaluate on samples that they keep.
void check_client_evaluation(const Experiment& e) {
  const auto evaluation = read_options<EvaluationPlan>(e.job);
  const bool on_test = evaluation.on_test();
  const std::string algorithm = e.job.get<std::string>("algorithm");
  const std::string key = on_test ? "partition.test-fraction" : "partition.validation-fraction";
  const std::string help = message(
      "no client keeps samples for that (set ", key,
      ", such as 0.2; a client needs two samples or more to keep one",
      on_test && !e.data.test_owner.empty()
          ? message("; the test set has samples of these users, which is what their clients "
                    "evaluate on where each user's samples are with one client, as under "
                    "partitioner natural, and shift.kind is none")
          : "",
      ")");
  if (e.held_back().indices.empty()) {
    FL_CHECK(!e.algorithm->needs().personal, "algorithm ", algorithm,
             " gives clients models of their own, which only they can evaluate, but ", help);
    FL_CHECK(evaluation.share == 0, "evaluate-clients is ", evaluation.share, ", but ", help);
  }
}

void note_what_has_no_effect(Experiment& e) {
  const Job& job = e.job;
  e.notes.insert(e.notes.end(), e.data.notes.begin(), e.data.notes.end());
  if (e.data.classes == 1 && e.data.values.empty()) {
    e.notes.push_back(
        "all labels are the same: there is one class, and nothing to learn (is it the right "
        "column, or array, of labels?)");
  }
  for (std::string& note : note_unused_clients(job, e.data)) e.notes.push_back(std::move(note));
  const auto evaluation = read_options<EvaluationPlan>(job);
  const bool evaluates = evaluation.share > 0;
  if (!evaluates && evaluation.holdout > 0) {
    e.notes.push_back(message("holdout-clients is ", evaluation.holdout,
                              ", but nobody evaluates on their samples: evaluate-clients is 0"));
  }
  if (!evaluates && !e.test.indices.empty()) {
    e.notes.push_back(message("clients keep ", e.test.indices.size(), " samples back (",
                              "partition.test-fraction) that nobody evaluates on: evaluate-clients "
                              "is 0"));
  }
  if (job.get<std::string>("state-dir") != "none" && job.get<int64_t>("state-memory") == 0)
    e.notes.push_back("state-dir is set, but state-memory is 0 (unlimited): no state goes there");
}

// The distinct labels of samples, each of which has one.
int64_t classes_of(const torch::Tensor& labels) {
  return labels.numel() == 0 ? 0 : std::get<0>(at::_unique(labels)).size(0);
}

// The area under the curve compares samples of a class with those of others.
void note_undefined_metrics(Experiment& e) {
  const MetricChoice metrics = choose_metrics(e.job, *e.network, e.data.classes);
  if (!metrics.area_under_curve) return;
  if (classes_of(e.data.test.labels) == 1) {
    e.notes.push_back(
        message("metrics asks for auc, which is not defined for a test set of one class (all ",
                e.data.test.size(), " samples have label ", e.data.test.labels[0].item<int64_t>(),
                "): /rounds/test_auc will be NaN"));
  }
  const Partition& kept = e.held_back();
  if (read_options<EvaluationPlan>(e.job).share == 0 || kept.indices.empty()) return;
  int64_t alone = 0, evaluating = 0;
  for (int64_t client = 0; client < kept.clients(); ++client) {
    const auto list = kept.of(client);
    if (list.empty()) continue;
    ++evaluating;
    alone += classes_of(e.held_back_samples().labels.index_select(
                 0, torch::tensor(at::IntArrayRef(list.data(), list.size()), torch::kInt64))) == 1;
  }
  if (alone > 0) {
    e.notes.push_back(message("metrics asks for auc, which is not defined for ", alone, " of ",
                              evaluating, " clients, who keep samples of one class only: their ",
                              "/evaluations/auc will be NaN"));
  }
}

// Whether the model cuts its inputs off behind the decimal point, as one that looks up ids in a
// table does, so that bytes scaled to [0, 1] would all be the id 0.
bool reads_ids(const Network& network, const Dataset& data) {
  constexpr int64_t kSamples = 8;
  if (data.scale == 1 || data.train.inputs.scalar_type() != torch::kUInt8) return false;
  torch::NoGradGuard no_grad;
  Rng rng(0, "check");
  const Weights weights(network.layout(), network.initial_row(rng).unsqueeze(0));
  const torch::Tensor x = data.train.inputs.slice(0, 0, kSamples).to(torch::kFloat32);
  const torch::Tensor scaled = x * data.scale + data.shift;
  if (torch::equal(scaled, scaled.trunc())) return false;
  const auto seen = [&](const torch::Tensor& inputs) -> std::optional<torch::Tensor> {
    try {
      return network.forward(weights, inputs);
    } catch (const std::exception&) {
      return {};
    }
  };
  const auto as_ids = seen(x), as_pixels = seen(scaled);
  if (!as_ids) return false;
  if (!as_pixels) return true;  // it takes nothing but ids
  // Nor is it a model that looks at nothing at all.
  const auto cut = seen(scaled.trunc());
  return cut && torch::equal(*as_pixels, *cut) && !torch::equal(*as_pixels, *as_ids);
}

// Ids stay as they are stored.
void keep_ids(Experiment& e) {
  if (!reads_ids(*e.network, e.data)) return;
  e.data.scale = 1;
  e.data.shift = 0;
  e.notes.push_back(message("model ", e.job.get<std::string>("model"),
                            " reads whole numbers: the data's bytes stay 0 to 255, they are not ",
                            "scaled to 0 to 1"));
}

// Seconds per sample of each client's device.
std::vector<double> speeds_of(const Experiment& e) {
  const std::vector<int64_t> rows = assigned_devices(e.job, *e.devices, e.partition, e.data.train);
  std::vector<double> speeds;
  for (int64_t client = 0; client < e.partition.clients(); ++client) {
    const int64_t row =
        rows.empty() ? client % e.devices->rows() : rows[static_cast<size_t>(client)];
    speeds.push_back(e.devices->device(row).seconds_per_sample);
  }
  return speeds;
}

// What cannot work with the algorithm is refused with the reason.
void check_obstacle(const Experiment& e, const std::string& what, const std::string& obstacle) {
  FL_CHECK(obstacle.empty(), what, " cannot work with algorithm ",
           e.job.get<std::string>("algorithm"), ", ", obstacle, " (leave it out)");
}

void make_transforms(Experiment& e, const Needs& needs, int64_t clients) {
  const ParameterLayout& layout = e.network->layout();
  e.transforms.clear();
  for (const std::string& name : e.job.names("transforms")) {
    const RowPart sent = needs.not_sent.complement(layout).trainable(layout);
    auto transform =
        make<Transform>(name, {e.job, *e.network, sent, clients, std::ssize(scalar_names(e))});
    check_obstacle(e, "transform " + name, transform->obstacle(needs));
    e.transforms.push_back({name, std::move(transform)});
  }
  const std::vector<std::string> scalars = scalar_names(e);
  FL_CHECK(std::ssize(scalars) <= ClientOutcome::kScalars, "algorithm and transforms return ",
           scalars.size(), " numbers per client, ", list_of(scalars), " (must be at most ",
           ClientOutcome::kScalars, ": leave a transform out)");
}

void make_aggregator(Experiment& e, const Needs& needs) {
  const auto name = e.job.get<std::string>("aggregator");
  e.aggregator = make<Aggregator>(name, {e.job, *e.network});
  check_obstacle(e, "aggregator " + name, e.aggregator->obstacle(needs));
  if (!e.aggregator->sees_clients()) return;
  const auto weighting = e.job.get<std::string>("weighting");
  const bool counts_once = !e.aggregator->weighs();
  FL_CHECK(!counts_once || weighting == "uniform", "weighting is ", weighting, ", but aggregator ",
           name, " counts every client once (choose uniform)");
  FL_CHECK(!counts_once || !e.sampler->weighs(), "sampler is ", e.job.get<std::string>("sampler"),
           ", which weighs the clients that it draws, but "
           "aggregator ",
           name, " counts every client once (choose sampler uniform)");
  const auto cohort = e.job.get<int64_t>("cohort");
  FL_CHECK(e.aggregator->fewest() <= cohort, "aggregator ", name, " needs ", e.aggregator->fewest(),
           " clients or more, but cohort is ", cohort, " (choose a larger one)");
}

}  // namespace

const Partition& Experiment::held_back() const {
  return read_options<EvaluationPlan>(job).on_test() ? test : validation;
}

const Samples& Experiment::held_back_samples() const {
  return own_tests && read_options<EvaluationPlan>(job).on_test() ? data.test : data.train;
}

std::unique_ptr<Network> build_network(const Job& job, const Dataset& data) {
  const auto [name, argument] = split_name(job.get<std::string>("model"));
  Objective objective = objective_of(job, data);
  const std::vector<int64_t> shape = data.train.sample_shape();
  const int64_t outputs = objective.outputs(data.classes), positions = data.train.positions();
  auto network = make<Network>(name, {job, argument, shape, outputs, positions});
  network->set_objective(std::move(objective), positions);
  check_network(*network, job.get<std::string>("model"), shape, outputs, positions);
  return network;
}

void build_parts(Experiment& e) {
  const auto algorithm = e.job.get<std::string>("algorithm"),
             partitioner = e.job.get<std::string>("partitioner");
  draw_holdout(e);
  e.input_changes = InputChanges(e.job, *make<Partitioner>(partitioner, {e.job}),
                                 e.partition.clients(), e.data.train.sample_shape());
  e.shift_group = shift_groups(e.job, e.partition.clients());
  int64_t samples = e.partition.offsets.back();
  for (const int64_t client : e.holdout) samples -= e.partition.size(client);
  const int64_t clients = e.partition.clients() - std::ssize(e.holdout);
  FL_CHECK(samples > 0, "no client has a training sample");
  const auto [sampler, unused] = split_name(e.job.get<std::string>("sampler"));
  e.sampler = make<Sampler>(sampler, {e.job, clients});
  const auto [availability, source] = split_name(e.job.get<std::string>("availability"));
  e.availability = make<Availability>(availability, {e.job, source, e.partition.clients()});
  const auto [devices, list] = split_name(e.job.get<std::string>("devices"));
  e.devices = make<Devices>(devices, {e.job, list, e.partition.clients()});
  Algorithm::Setup setup{e.job, *e.network, clients, samples};
  if (!e.devices->none()) setup.client_speeds = [&e] { return speeds_of(e); };
  e.algorithm = with_average(make<Algorithm>(algorithm, setup), e.job);
  const Needs needs = e.algorithm->needs();
  check_needs("algorithm " + algorithm, needs);
  make_transforms(e, needs, clients);
  make_aggregator(e, needs);
  FL_CHECK(!e.sampler->weighs() || needs.lanes == 1, "sampler is ", sampler,
           ", which sets the weights of a whole cohort, but algorithm ", algorithm,
           " trains cohorts apart (choose sampler uniform)");
  FL_CHECK(!e.sampler->estimates_sum() || (!needs.sets_weights && !e.aggregator->sees_clients()),
           "sampler is ", sampler, ", which weighs updates so that their sum counts, but ",
           needs.sets_weights ? "algorithm " + algorithm + " sets weights itself"
                              : "aggregator " + e.job.get<std::string>("aggregator") +
                                    " makes no weighted sum of them",
           " (choose sampler uniform)");
  FL_CHECK(e.sampler->question() == Sampler::Question::kNothing ||
               (needs.exchanges == 1 && needs.models == 1 && !needs.pooled),
           "sampler is ", sampler, ", which asks clients what they make of the global model, but ",
           "algorithm ", algorithm,
           needs.pooled           ? " has no clients to ask"
           : needs.exchanges != 1 ? " talks to them several times in a round"
                                  : " has several models",
           " (choose sampler uniform)");
  FL_CHECK(!needs.pooled || !e.input_changes.by_client(), "algorithm ", algorithm,
           " trains on everybody's samples at once, but under ", "partitioner ", partitioner,
           " each client sees its samples in its own way (choose another one)");
}

std::vector<std::string> scalar_names(const Experiment& e) {
  std::vector<std::string> names = e.algorithm->needs().scalars;
  for (const auto& [name, transform] : e.transforms) {
    for (const std::string& scalar : transform->scalars()) names.push_back(name + "." + scalar);
  }
  return names;
}

torch::Tensor initial_row(const Experiment& e, int64_t model) {
  const auto init = e.job.get<std::string>("init");
  if (init != "random") return initial_row_from(init, e.network->layout());
  Rng rng(e.job.seed(), "weights", model);
  return e.network->initial_row(rng);
}

Experiment prepare_experiment(Job job, Dataset data) {
  Experiment e;
  resolve_clients(job, data);
  resolve_cohort(job);
  check_evaluation(job);
  resolve_device(job, e.notes);
  check_precision(job);
  ClientSplit lists = split_data(job, data);
  e.partition = std::move(lists.train);
  e.validation = std::move(lists.validation);
  e.test = std::move(lists.test);
  check_shift(job, data, e.partition.clients());
  e.network = build_network(job, data);
  FL_CHECK(read_options<EvaluationPlan>(job).target == 0 || e.network->objective().classifies(),
           "target-accuracy is set, but the model predicts a number, which has no accuracy (leave "
           "it out)");
  resolve_group_size(job, *e.network);
  e.job = std::move(job);
  e.data = std::move(data);
  keep_ids(e);
  note_what_has_no_effect(e);
  build_parts(e);
  find_own_tests(e);
  check_client_evaluation(e);
  note_undefined_metrics(e);
  e.data.owner = e.data.test_owner = {};                              // the partition knows
  if (e.job.get<std::string>("init") != "random") initial_row(e, 0);  // finds what is wrong with it
  return e;
}

void shift_samples(Experiment& e) {
  apply_shift(e.job, shift_groups(e.job, e.partition.clients()),
              {&e.partition, &e.validation, &e.test}, e.data);
}

Experiment make_experiment(Job job, Dataset data) {
  Experiment e = prepare_experiment(std::move(job), std::move(data));
  shift_samples(e);
  return e;
}

}  // namespace fl_sim
