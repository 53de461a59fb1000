#include "engine/set_up.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <malloc.h>
#include <torch/cuda.h>
#include <zlib.h>

#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/version.h"
#include "engine/async_timetable.h"
#include "engine/model_trial.h"
#include "engine/planned_partition.h"
#include "engine/virtual_clock.h"
#include "network/arithmetic.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

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

// Called on every rank: a rank without a GPU says so itself.
torch::Device device_of(const Job& job, int node_rank) {
  if (read_options<Arithmetic>(job).device == "cpu") return torch::kCPU;
  FL_CHECK(torch::cuda::is_available(),
           "device is cuda, but LibTorch sees no CUDA device here (choose --device cpu, or "
           "build against a CUDA LibTorch and check the driver)");
  const auto devices = static_cast<int>(torch::cuda::device_count());
  const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(node_rank % devices));
  // An MPI that reads device memory does so in the context of this thread's current device.
  c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  return device;
}

// What rank 0 says of the data, beside the samples; it travels as bytes.
struct Facts {
  double scale, shift;  // as Dataset has them
  int64_t classes;
  int64_t values;            // how many numbers there are to predict
  int64_t validation, test;  // samples that clients keep back, of all together
  bool own_tests;            // as Experiment has it
};

// Collective. All of `data` but its samples becomes rank 0's.
Facts share_facts(Communicator& comm, Experiment& e) {
  Dataset& data = e.data;
  Facts facts = {.scale = data.scale,
                 .shift = data.shift,
                 .classes = data.classes,
                 .values = std::ssize(data.values),
                 .validation = std::ssize(e.validation.indices),
                 .test = std::ssize(e.test.indices),
                 .own_tests = e.own_tests};
  comm.broadcast(facts);
  e.own_tests = facts.own_tests;
  data.scale = facts.scale;
  data.shift = facts.shift;
  data.classes = facts.classes;
  data.values.resize(static_cast<size_t>(facts.values));
  if (facts.values > 0) {
    torch::Tensor values = torch::from_blob(data.values.data(), {facts.values}, torch::kFloat64);
    comm.broadcast(values);
  }
  return facts;
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

}  // namespace

std::string data_fingerprint(const Dataset& data) {
  return fingerprint(data.train) + "/ " + fingerprint(data.test);
}

Experiment set_up(const Job& job, Communicator& comm) {
  Experiment e;
  if (comm.rank() == 0) {
    e = prepare_experiment(job, read_dataset(job));
    VirtualClock{e};  // says what cannot be before anything is touched
    check_asynchrony(e);
    try_foreign_model(e);
    e.device = device_of(e.job, comm.node_rank());
  }
  if (comm.size() == 1) shift_samples(e);
  if (comm.size() > 1) {
    std::string text = comm.rank() == 0 ? e.job.text() : "";
    comm.meet();  // the others sleep until rank 0 has read the data
    comm.broadcast(text);
    if (comm.rank() != 0) e.job = Job::from_text(text);
    // The first rank of each further node reads the files too.
    const bool reads = comm.node_rank() == 0;
    if (comm.rank() != 0 && reads) e.data = read_dataset(e.job);
    const Facts facts = share_facts(comm, e);
    if (comm.nodes() > 1) {
      const std::string own =
          reads ? fingerprint(e.data.train) + (e.own_tests ? fingerprint(e.data.test) : "") : "";
      std::string print = own;
      comm.broadcast(print);
      FL_CHECK(!reads || own == print, "the ", e.own_tests ? "" : "training ", "data on ",
               host_name(),
               " differ from those on rank 0's machine (are the files the same everywhere?)");
    }
    const bool no_window = TestHooks::get().no_window;
    share_partition(comm, e.partition, !no_window);
    if (facts.validation > 0) share_partition(comm, e.validation, !no_window);
    if (facts.test > 0) share_partition(comm, e.test, !no_window);
    if (reads) shift_samples(e);  // after the comparison, before the node's other ranks see it
    const auto share = [&](Samples& samples) {
      for (torch::Tensor* const part : {&samples.inputs, &samples.labels}) {
        bool shared = false;
        *part = comm.share_on_node(*part, !no_window, shared);
        e.data_shared = e.data_shared && shared;
      }
    };
    share(e.data.train);
    if (e.own_tests) share(e.data.test);
    if (comm.rank() != 0 && !e.own_tests) e.data.test = {};
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
