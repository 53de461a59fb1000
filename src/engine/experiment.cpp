#include "engine/experiment.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <malloc.h>
#include <torch/cuda.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>

#include "base/check.h"
#include "base/version.h"
#include "data/client_split.h"
#include "data/own_clients.h"
#include "data/partition_file.h"
#include "data/shift.h"
#include "learning/evaluation.h"
#include "network/arithmetic.h"
#include "network/initial_weights.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

Dataset read_dataset(const Job& job) {
  const auto [name, argument] = split_name(job.get<std::string>("dataset"));
  Dataset data = make<DatasetSource>(name, {job, argument})->read();
  check_dataset(data, name);
  for (Samples* samples : {&data.train, &data.test}) {
    samples->inputs = samples->inputs.contiguous();
    samples->labels = samples->labels.contiguous();
  }
  return data;
}

// Tells apart training sets that differ in a byte.
std::string fingerprint(const Samples& samples) {
  std::string print;
  for (const torch::Tensor& tensor : {samples.inputs, samples.labels}) {
    if (!tensor.defined()) continue;
    const torch::Tensor bytes = tensor.contiguous();
    print += message(
        bytes.sizes(), " ",
        crc32_z(0, static_cast<const unsigned char*>(bytes.data_ptr()), bytes.nbytes()), " ");
  }
  return print;
}

// A whole number that may be spelled "auto"; -1 then.
int64_t number_or_auto(const Job& job, const std::string& key, int64_t least) {
  const auto text = job.get<std::string>(key);
  if (text == "auto") return -1;
  const bool digits = !text.empty() && text.size() < 18 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  FL_CHECK(digits && std::stoll(text) >= least, key, " is '", text,
           "' (must be auto or a whole number of at least ", least, ")");
  return std::stoll(text);
}

void resolve_clients(Job& job, const Dataset& data) {
  int64_t clients = number_or_auto(job, "clients", 1);
  if (clients < 0) {
    const auto partitioner = make<Partitioner>(job.get<std::string>("partitioner"), {job});
    const auto* knows = dynamic_cast<const KnowsClients*>(partitioner.get());
    clients = knows != nullptr ? knows->own_clients(data.owner) : 0;
    if (clients == 0) clients = 100;
  }
  job.set("clients", std::to_string(clients));
}

// After resolve_clients().
void resolve_cohort(Job& job) {
  if (job.get<std::string>("cohort") != "auto") return;
  const int64_t clients = job.get<int64_t>("clients") - job.get<int64_t>("holdout-clients");
  job.set("cohort", std::to_string(std::clamp<int64_t>(clients, 1, 10)));
}

void check_evaluation(const Job& job) {
  FL_CHECK(
      job.get<double>("target-accuracy") == 0 || job.get<int64_t>("evaluate-every") > 0,
      "target-accuracy is set, but evaluate-every is 0 (set it to 1, to look after every round)");
}

// Notes if a GPU is left alone that somebody may count on.
void resolve_device(Job& job, std::vector<std::string>& notes) {
  if (job.get<std::string>("device") != "auto") return;
  const bool cuda = torch::cuda::is_available();
  job.set("device", cuda ? "cuda" : "cpu");
  if (!cuda && std::filesystem::exists("/dev/nvidia0")) {
    notes.push_back(
        "here is an NVIDIA GPU, but LibTorch sees none: it was built without CUDA, or "
        "for a newer driver (--device cpu says that this is meant)");
  }
}

// Called on every rank: a rank without a GPU says so itself.
torch::Device device_of(const Job& job, int node_rank) {
  if (job.get<std::string>("device") == "cpu") return torch::kCPU;
  FL_CHECK(torch::cuda::is_available(),
           "device is cuda, but LibTorch sees no CUDA device here (choose --device cpu, or "
           "build against a CUDA LibTorch and check the driver)");
  const auto devices = static_cast<int>(torch::cuda::device_count());
  const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(node_rank % devices));
  // An MPI that reads device memory does so in the context of this thread's current device.
  c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  return device;
}

// Clients per group: on a CPU one client's weights stay in the cache; a GPU wants a large stack, of
// at most 2^28 numbers with gradients and momentum, at most 4,096 samples a step, whose activations
// have to fit as well, and no more clients than the cohort has.
void resolve_group_size(Job& job, const Network& network) {
  int64_t size = number_or_auto(job, "group-size", 1);
  if (size < 0) {
    const int64_t weights = (int64_t{1} << 28) / (3 * network.layout().row());
    const int64_t samples = 4096 / job.get<int64_t>("local.batch-size");
    const bool stack = job.get<std::string>("device") == "cuda" && network.stackable();
    const int64_t most = std::min({weights, samples, int64_t{128}, job.get<int64_t>("cohort")});
    size = stack ? std::max<int64_t>(most, 1) : 1;
  }
  FL_CHECK(size == 1 || network.stackable(), "group-size is ", size, ", but model ",
           job.get<std::string>("model"), " trains one client at a time (set group-size to 1)");
  FL_CHECK(!product_type(job) || network.mixed_precision(), "precision is bf16, but model ",
           job.get<std::string>("model"), " computes in types of its own (choose float32)");
  job.set("group-size", std::to_string(size));
}

uint64_t seed_of(const Job& job) { return static_cast<uint64_t>(job.get<int64_t>("seed")); }

// What the job says of its partitioner, a line each.
std::string partition_options(const Job& job) {
  const std::string prefix = job.get<std::string>("partitioner") + ".";
  std::string lines;
  for (const auto& [key, value] : job.values()) {
    const bool read = key == "partition.min-samples" || key == "partition.retries";
    if (read || key.starts_with(prefix)) lines += message(key, " = ", value, "\n");
  }
  return lines;
}

// Clients' lists before they keep samples back; saved where the job says so.
Partition split(const Job& job, const Dataset& data, std::span<const int64_t> labels) {
  Rng rng(seed_of(job), "partition");
  const auto name = job.get<std::string>("partitioner");
  const PartitionRequest request{.labels = labels,
                                 .classes = data.classes,
                                 .clients = job.get<int64_t>("clients"),
                                 .owners = data.owner,
                                 .coarse = data.coarse,
                                 .inputs = data.train.inputs};
  Partition partition = make<Partitioner>(name, {job})->split(request, rng);
  check_partition(partition, data.train.size());
  FL_CHECK(partition.clients() == request.clients, "partitioner ", name, " made ",
           partition.clients(), " clients instead of ", request.clients);
  const auto path = job.get<std::string>("partition.save");
  if (path != "none") {
    save_partition(path,
                   {.partition = partition,
                    .samples = std::ssize(labels),
                    .label_checksum = label_checksum(labels),
                    .partitioner = name,
                    .options = partition_options(job),
                    .seed = job.get<std::string>("seed")},
                   job.get<bool>("overwrite"));
  }
  return partition;
}

ClientSplit split(const Job& job, const Dataset& data) {
  const torch::Tensor tensor = sample_labels(data.train);
  const std::span<const int64_t> labels(tensor.data_ptr<int64_t>(),
                                        static_cast<size_t>(tensor.numel()));
  return split_clients(split(job, data, labels), labels, job.get<double>("partition.test-fraction"),
                       job.get<double>("partition.validation-fraction"), seed_of(job));
}

// Who never trains, and who may.
void draw_holdout(Experiment& e) {
  const int64_t clients = e.partition.clients();
  const auto count = e.job.get<int64_t>("holdout-clients");
  FL_CHECK(count < clients, "holdout-clients is ", count, " (must be less than ", clients,
           ", the number of clients: somebody has to train)");
  e.holdout.clear();
  e.trained.clear();
  if (count == 0) return;
  Rng rng(seed_of(e.job), "holdout");
  const std::vector<int64_t> order = rng.permutation(clients);
  e.holdout.assign(order.begin(), order.begin() + count);
  e.trained.assign(order.begin() + count, order.end());
  std::sort(e.holdout.begin(), e.holdout.end());
  std::sort(e.trained.begin(), e.trained.end());
}

void shift(Experiment& e) {
  apply_shift(e.job, shift_groups(e.job, e.partition.clients()),
              {&e.partition, &e.validation, &e.test}, e.data);
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

// Of the training samples' shape, number of positions and classes.
std::unique_ptr<Network> build_network(const Job& job, const Dataset& data) {
  const auto [name, argument] = split_name(job.get<std::string>("model"));
  Objective objective = objective_of(job, data);
  const std::vector<int64_t> shape = data.train.sample_shape();
  const int64_t outputs = objective.outputs(data.classes), positions = data.train.positions();
  auto network = make<Network>(name, {job, argument, shape, outputs, positions});
  network->set_objective(std::move(objective), positions);
  check_network(*network, name, shape, outputs, positions);
  return network;
}

// Rank 0's partition on every rank: once per node, where that is possible.
void share_partition(Communicator& comm, Partition& partition, bool allowed) {
  const auto share = [&](std::span<const int64_t> list) {
    torch::Tensor tensor;
    if (comm.rank() == 0) {
      tensor = torch::from_blob(
          const_cast<int64_t*>(list.data()), {std::ssize(list)},
          [owner = partition.owner](void*) {}, torch::kInt64);
    }
    comm.broadcast_to_nodes(tensor);
    bool shared = false;
    return comm.share_on_node(tensor, allowed, shared);
  };
  const auto view = [](const torch::Tensor& list) {
    return std::span(list.data_ptr<int64_t>(), static_cast<size_t>(list.numel()));
  };
  const torch::Tensor offsets = share(partition.offsets), indices = share(partition.indices);
  partition.offsets = view(offsets);
  partition.indices = view(indices);
  partition.owner =
      std::make_shared<const std::pair<torch::Tensor, torch::Tensor>>(offsets, indices);
}

// Nothing, or that the data name clients which the partitioner does not look at.
std::vector<std::string> note_unused_clients(const Job& job, const Dataset& data) {
  const auto name = job.get<std::string>("partitioner");
  const auto partitioner = make<Partitioner>(name, {job});
  if (data.owner.empty() || dynamic_cast<const KnowsClients*>(partitioner.get()) != nullptr)
    return {};
  const int64_t owners = 1 + *std::max_element(data.owner.begin(), data.owner.end());
  return {message("the data name ", owners, " clients of their own, which partitioner ", name,
                  " does not look at (--partitioner natural does)")};
}

}  // namespace

PlannedPartition make_partition_of(Job job) {
  PlannedPartition plan;
  plan.data = read_dataset(job);
  resolve_clients(job, plan.data);
  const torch::Tensor labels = sample_labels(plan.data.train);
  plan.labels.assign(labels.data_ptr<int64_t>(), labels.data_ptr<int64_t>() + labels.numel());
  plan.partition = split(job, plan.data, plan.labels);
  plan.notes = note_unused_clients(job, plan.data);
  plan.job = std::move(job);
  return plan;
}

void build_parts(Experiment& e) {
  draw_holdout(e);
  e.input_changes =
      InputChanges(e.job, *make<Partitioner>(e.job.get<std::string>("partitioner"), {e.job}),
                   e.partition.clients(), e.data.train.sample_shape());
  e.shift_group = shift_groups(e.job, e.partition.clients());
  int64_t samples = e.partition.offsets.back();
  for (const int64_t client : e.holdout) samples -= e.partition.size(client);
  const int64_t clients = e.partition.clients() - std::ssize(e.holdout);
  FL_CHECK(samples > 0, "no client has a training sample");
  const auto [sampler, unused] = split_name(e.job.get<std::string>("sampler"));
  e.sampler = make<Sampler>(sampler, {e.job, clients});
  e.algorithm =
      make<Algorithm>(e.job.get<std::string>("algorithm"), {e.job, *e.network, clients, samples});
  FL_CHECK(!e.algorithm->needs().pooled || !e.input_changes.by_client(), "algorithm ",
           e.job.get<std::string>("algorithm"),
           " trains on everybody's samples at once, but under ", "partitioner ",
           e.job.get<std::string>("partitioner"),
           " each client sees its samples in its own way (choose another one)");
}

torch::Tensor initial_row(const Experiment& e, int64_t model) {
  const auto init = e.job.get<std::string>("init");
  if (init != "random") return initial_row_from(init, e.network->layout());
  Rng rng(seed_of(e.job), "weights", model);
  return e.network->initial_row(rng);
}

namespace {

// Clients can only evaluate on samples that they keep.
void check_client_evaluation(const Experiment& e) {
  const bool on_test = e.job.get<std::string>("evaluate-split") == "test";
  const Partition& held_back = on_test ? e.test : e.validation;
  const std::string algorithm = e.job.get<std::string>("algorithm");
  const std::string key = on_test ? "partition.test-fraction" : "partition.validation-fraction";
  const std::string help =
      message("no client keeps samples for that (set ", key,
              ", such as 0.2; a client needs two samples or more to keep one)");
  if (held_back.indices.empty()) {
    FL_CHECK(!e.algorithm->needs().personal, "algorithm ", algorithm,
             " gives clients models of their own, which only they can evaluate, but ", help);
    FL_CHECK(e.job.get<double>("evaluate-clients") == 0, "evaluate-clients is ",
             e.job.get<std::string>("evaluate-clients"), ", but ", help);
  }
}

void note_what_has_no_effect(Experiment& e) {
  const Job& job = e.job;
  for (std::string& note : note_unused_clients(job, e.data)) e.notes.push_back(std::move(note));
  const bool evaluates = job.get<double>("evaluate-clients") > 0;
  if (!evaluates && job.get<int64_t>("holdout-clients") > 0) {
    e.notes.push_back(message("holdout-clients is ", job.get<std::string>("holdout-clients"),
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

// All but the shift of the samples.
Experiment prepare(Job job, Dataset data) {
  Experiment e;
  resolve_clients(job, data);
  resolve_cohort(job);
  check_evaluation(job);
  resolve_device(job, e.notes);
  check_precision(job);
  ClientSplit lists = split(job, data);
  e.partition = std::move(lists.train);
  e.validation = std::move(lists.validation);
  e.test = std::move(lists.test);
  check_shift(job, data, e.partition.clients());
  e.network = build_network(job, data);
  FL_CHECK(job.get<double>("target-accuracy") == 0 || e.network->objective().classifies(),
           "target-accuracy is set, but the model predicts a number, which has no accuracy (leave "
           "it out)");
  resolve_group_size(job, *e.network);
  e.job = std::move(job);
  e.data = std::move(data);
  note_what_has_no_effect(e);
  e.data.owner = {};  // the partition knows
  build_parts(e);
  check_client_evaluation(e);
  choose_metrics(e.job, *e.network, e.data.classes);                  // finds what is wrong with it
  if (e.job.get<std::string>("init") != "random") initial_row(e, 0);  // finds what is wrong with it
  return e;
}

}  // namespace

std::string data_fingerprint(const Dataset& data) {
  return fingerprint(data.train) + "/ " + fingerprint(data.test);
}

Experiment make_experiment(Job job, Dataset data) {
  Experiment e = prepare(std::move(job), std::move(data));
  shift(e);
  return e;
}

Experiment set_up(const Job& job, Communicator& comm) {
  Experiment e;
  if (comm.rank() == 0) {
    e = prepare(job, read_dataset(job));
    e.device = device_of(e.job, comm.node_rank());
  }
  if (comm.size() == 1) shift(e);
  if (comm.size() > 1) {
    std::string text = comm.rank() == 0 ? e.job.text() : "";
    comm.meet();  // the others sleep until rank 0 has read the data
    comm.broadcast(text);
    if (comm.rank() != 0) e.job = Job::from_text(text);
    // The first rank of each further node reads the files too.
    const bool reads = comm.node_rank() == 0;
    if (comm.rank() != 0 && reads) e.data = read_dataset(e.job);
    if (comm.nodes() > 1) {
      std::string print = comm.rank() == 0 ? fingerprint(e.data.train) : "";
      comm.broadcast(print);
      FL_CHECK(!reads || fingerprint(e.data.train) == print, "the training data on ", host_name(),
               " differ from those on rank 0's machine (are the files the same everywhere?)");
    }

    torch::Tensor facts =
        torch::tensor({e.data.scale, e.data.shift, static_cast<double>(e.data.classes),
                       static_cast<double>(e.validation.indices.size()),
                       static_cast<double>(e.test.indices.size())},
                      torch::kFloat64);
    comm.broadcast(facts);
    e.data.scale = facts[0].item<double>();
    e.data.shift = facts[1].item<double>();
    e.data.classes = facts[2].item<int64_t>();
    std::string values(reinterpret_cast<const char*>(e.data.values.data()),
                       e.data.values.size() * sizeof(double));
    comm.broadcast(values);
    e.data.values.resize(values.size() / sizeof(double));
    std::memcpy(e.data.values.data(), values.data(), values.size());
    const bool no_window = TestHooks::get().no_window;
    share_partition(comm, e.partition, !no_window);
    if (facts[3].item<double>() > 0) share_partition(comm, e.validation, !no_window);
    if (facts[4].item<double>() > 0) share_partition(comm, e.test, !no_window);
    if (reads) shift(e);  // after the comparison, before the node's other ranks see it
    e.data.train.inputs = comm.share_on_node(e.data.train.inputs, !no_window, e.data_shared);
    bool labels_shared = false;
    e.data.train.labels = comm.share_on_node(e.data.train.labels, !no_window, labels_shared);
    e.data_shared = e.data_shared && labels_shared;
    if (comm.rank() != 0) e.data.test = {};
    malloc_trim(0);  // private copies go back to the system

    if (comm.rank() != 0) {
      e.network = build_network(e.job, e.data);
      e.device = device_of(e.job, comm.node_rank());
      build_parts(e);
    }
  }
  return e;
}

}  // namespace fl_sim
