#include "engine/planned_partition.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "data/partition_file.h"
#include "engine/resolve.h"

namespace fl_sim {
namespace {

// What the job says of its partitioner, a line each.
std::string partition_options(const Job& job) {
  const auto name = job.get<std::string>("partitioner");
  const std::vector<std::string>& reads = plugin_info("partitioner", name).reads;
  std::string lines;
  for (const auto& [key, value] : job.values()) {
    const bool read = std::find(reads.begin(), reads.end(), key) != reads.end();
    if (read || key.starts_with(name + ".")) lines += message(key, " = ", value, "\n");
  }
  return lines;
}

// Clients' lists before they keep samples back; saved where the job says so.
Partition split_all(const Job& job, const Dataset& data, std::span<const int64_t> labels) {
  Rng rng(job.seed(), "partition");
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

}  // namespace

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

ClientSplit split_data(const Job& job, const Dataset& data) {
  const torch::Tensor tensor = sample_labels(data.train);
  const std::span<const int64_t> labels(tensor.data_ptr<int64_t>(),
                                        static_cast<size_t>(tensor.numel()));
  const auto held_back = read_options<HeldBack>(job);
  return split_clients(split_all(job, data, labels), labels, held_back.test_fraction,
                       held_back.validation_fraction, job.seed());
}

std::vector<std::string> note_unused_clients(const Job& job, const Dataset& data) {
  const auto name = job.get<std::string>("partitioner");
  if (data.owner.empty() || make<Partitioner>(name, {job})->own_clients(data.owner)) return {};
  const int64_t owners = 1 + *std::max_element(data.owner.begin(), data.owner.end());
  return {message("the data name ", owners, " clients of their own, which partitioner ", name,
                  " does not look at (--partitioner natural does)")};
}

PlannedPartition make_partition_of(Job job) {
  PlannedPartition plan;
  plan.data = read_dataset(job);
  resolve_clients(job, plan.data);
  const torch::Tensor labels = sample_labels(plan.data.train);
  plan.labels.assign(labels.data_ptr<int64_t>(), labels.data_ptr<int64_t>() + labels.numel());
  plan.partition = split_all(job, plan.data, plan.labels);
  plan.notes = plan.data.notes;
  for (std::string& note : note_unused_clients(job, plan.data))
    plan.notes.push_back(std::move(note));
  plan.job = std::move(job);
  return plan;
}

}  // namespace fl_sim
