// What a host spends on a client beside training it: the copy of the global weights, the tests of
// its update, the exact sum, its record. Microseconds of processor time a client, median of
// interleaved runs, on one thread.
//
//   cmake --build build --target bench_host && build/bench/bench_host [RUNS]
#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>

#include "engine/experiment.h"
#include "engine/host.h"
#include "fl_sim.h"
#include "measure.h"
#include "process/communicator.h"

namespace {

using namespace fl_sim;

constexpr int64_t kClients = 1000;

void measure(Communicator& comm, const std::string& model, const std::string& algorithm,
             int64_t group_size, int runs) {
  Dataset data;
  data.classes = 10;
  data.train.inputs = torch::rand({2 * kClients, 60});
  data.train.labels = torch::randint(0, 10, {2 * kClients}, torch::kInt64);
  data.test = data.train;
  const Job job = Job::from_text(message("dataset = fcube\nclients = ", kClients,
                                         "\ncohort = ", kClients, "\nmodel = ", model,
                                         "\nalgorithm = ", algorithm, "\ngroup-size = ", group_size,
                                         "\nlocal.batch-size = 2\nlocal.lr = 0.05\n"));
  const Experiment e = make_experiment(job, data);
  Rng rng(0, "weights");
  ServerState global;
  global.round = 1;
  global.weights = e.network->initial_row(rng).unsqueeze(0);
  e.algorithm->init(global);

  RoundPlan plan{.clients = {kClients}, .samples = {2 * kClients}};
  std::vector<int64_t> cohort(kClients);
  for (int64_t client = 0; client < kClients; ++client)
    cohort[static_cast<size_t>(client)] = client;
  plan.groups = make_groups(cohort, group_size, [](int64_t) { return 1; });
  Host host(e, comm, {&comm}, true);
  const ClientData client_data{e.data.train, e.data.scale, e.data.shift, &e.partition};

  std::vector<double> whole, training;
  for (int run = -1; run < runs; ++run) {  // the first one warms up
    const double start = processor_seconds();
    host.begin(plan);
    for (const PlannedGroup& group : plan.groups) host.train(group, global);
    const double middle = processor_seconds();
    // The same without the host: rows and state are made outside of what is measured.
    double seconds = 0;
    for (const PlannedGroup& planned : plan.groups) {
      ClientGroup group{.ids = planned.ids, .data = client_data, .seed = 0};
      group.rows = global.weights.expand({group.size(), -1}).clone();
      for (const auto& [name, size] : e.algorithm->needs().client_state)
        group.state[name] = torch::zeros({group.size(), size});
      const double before = processor_seconds();
      e.algorithm->train(group, global);
      seconds += processor_seconds() - before;
    }
    if (run < 0) continue;
    whole.push_back((middle - start) / kClients * 1e6);
    training.push_back(seconds / kClients * 1e6);
  }
  std::printf(
      "%-9s %-9s groups of %3lld   a client %7.1f us, training alone %7.1f us, rest %6.1f us\n",
      model.c_str(), algorithm.c_str(), static_cast<long long>(group_size), median(whole),
      median(training), median(whole) - median(training));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  MpiSession mpi;
  Communicator comm(mpi);
  at::set_num_threads(1);
  const int runs = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  for (const char* algorithm : {"fedavg", "scaffold"}) {
    for (const int64_t group_size : {1, 100})
      measure(comm, "logistic", algorithm, group_size, runs);
  }
  measure(comm, "2nn", "fedavg", 1, runs);
}
