// How fast one client trains, beside a bare hand-written LibTorch loop (module, autograd,
// torch::optim::SGD) of the same model on the same samples, and beside what the processor can do:
// in one process on one thread, in processor time, medians of interleaved runs.
//
//   cmake --build build --target bench_engine && build/bench/bench_engine [RUNS [MODEL [BATCH]]]
//
// The limit of a step is the larger of its floating-point operations at the peak of fused
// multiply-adds and its weights' traffic (read forward, read backward, read and written by the
// update) at the bandwidth of an array of that size; both are measured in the same run. With RUNS 0
// only fl_sim's own epoch runs, once: for callgrind.
#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/torch.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>

#include "base/fast_blas.h"
#include "engine/exact_sum.h"
#include "engine/experiment.h"
#include "fl_sim.h"
#include "measure.h"
#include "network/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The loop that researchers write, layer for layer the network's own.
namespace bare {

using namespace torch::nn;

Sequential model(const std::string& name) {
  const auto conv = [](int64_t in, int64_t out, int64_t padding) {
    return Conv2d(Conv2dOptions(in, out, 5).padding(padding));
  };
  if (name == "logistic") return Sequential(Flatten(), Linear(784, 10));
  if (name == "2nn") {
    return Sequential(Flatten(), Linear(784, 200), ReLU(), Linear(200, 200), ReLU(),
                      Linear(200, 10));
  }
  if (name == "cnn") {
    return Sequential(conv(1, 32, 2), ReLU(), MaxPool2d(2), conv(32, 64, 2), ReLU(), MaxPool2d(2),
                      Flatten(), Linear(3136, 512), ReLU(), Linear(512, 10));
  }
  return Sequential(conv(1, 6, 0), ReLU(), MaxPool2d(2), conv(6, 16, 0), ReLU(), MaxPool2d(2),
                    Flatten(), Linear(256, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, 10));
}

}  // namespace bare

namespace {

using namespace fl_sim;

struct Workload {
  const char* model;
  int64_t batch_size;
  double momentum;
  int64_t samples;
};

// One local epoch of the bare loop: the inputs are floats already, which the simulator's are not.
double bare_epoch(torch::nn::Sequential& model, const torch::Tensor& x, const torch::Tensor& y,
                  const Workload& work) {
  const double start = processor_seconds();
  torch::optim::SGD optimizer(model->parameters(),
                              torch::optim::SGDOptions(0.05).momentum(work.momentum));
  const torch::Tensor order = torch::randperm(work.samples);
  for (int64_t first = 0; first < work.samples; first += work.batch_size) {
    const torch::Tensor batch =
        order.narrow(0, first, std::min(work.batch_size, work.samples - first));
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(model->forward(x.index_select(0, batch)),
                                         y.index_select(0, batch))
        .backward();
    optimizer.step();
  }
  return processor_seconds() - start;
}

// Floating-point operations of one sample's forward and backward pass: products only, and no
// gradient by the samples themselves, which are images of so many rows and columns.
double operations(const Sequential& network, int64_t height, int64_t width) {
  double total = 0;
  bool first = true;
  for (const Sequential::Layer& layer : network.layers()) {
    double forward = 0;
    if (const auto* linear = std::get_if<Linear>(&layer)) {
      forward = 2.0 * static_cast<double>(linear->in() * linear->out());
    } else if (const auto* conv = std::get_if<Conv2d>(&layer)) {
      height += 2 * conv->options().padding - conv->kernel() + 1;
      width += 2 * conv->options().padding - conv->kernel() + 1;
      forward = 2.0 * static_cast<double>(height * width * conv->in() * conv->out() *
                                          conv->kernel() * conv->kernel());
    } else if (const auto* pool = std::get_if<Sequential::MaxPool2d>(&layer)) {
      height /= pool->size;
      width /= pool->size;
    }
    if (forward > 0) {
      total += forward * (first ? 2 : 3);
      first = false;
    }
  }
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) float multiply_add_512(int64_t rounds) {
  __m512 sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999F), b = _mm512_set1_ps(0.001F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_cvtss_f32(sum);
  return total;
}

__attribute__((target("avx2,fma"))) float multiply_add_256(int64_t rounds) {
  __m256 sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999F), b = _mm256_set1_ps(0.001F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  float total = 0;
  for (const __m256& sum : sums) total += _mm256_cvtss_f32(sum);
  return total;
}
#endif

// Operations a second of independent fused multiply-adds; 0 where this file cannot measure them.
double peak() {
#if defined(__x86_64__)
  constexpr int64_t kRounds = 2'000'000;
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 0;
  const double start = processor_seconds();
  volatile float result = wide ? multiply_add_512(kRounds) : multiply_add_256(kRounds);
  (void)result;
  const double each = wide ? 2 * 16 * 16 : 2 * 12 * 8;
  return each * static_cast<double>(kRounds) / (processor_seconds() - start);
#else
  return 0;
#endif
}

// Bytes a second, read and written, of passes over n floats in place.
double bandwidth(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n), 1.0F), ones(static_cast<size_t>(n));
  const int64_t passes = std::max<int64_t>(3, 100'000'000 / n);
  const double start = processor_seconds();
  for (int64_t i = 0; i < passes; ++i) kernels::convert(n, values.data(), 1.0F, 0, values.data());
  return 8.0 * static_cast<double>(n * passes) / (processor_seconds() - start);
}

void compare(const Workload& work, int runs) {
  const std::string name = work.model;
  Dataset data;
  data.classes = 10;
  data.scale = 1.0 / 255;
  data.train.inputs = torch::randint(0, 256, {work.samples, 1, 28, 28}, torch::kUInt8);
  data.train.labels = torch::randint(0, 10, {work.samples}, torch::kInt64);
  data.test = data.train;
  const Job job = Job::from_text(
      message("dataset = fcube\nclients = 1\ncohort = 1\ndevice = cpu\nmodel = ", name,
              "\nlocal.batch-size = ", work.batch_size,
              "\nlocal.lr = 0.05\nlocal.momentum = ", work.momentum, "\n"));
  Experiment e = make_experiment(job, data);
  Rng rng(0, "weights");
  GlobalModel global{.round = 1, .weights = e.network->initial_row(rng).unsqueeze(0), .shared = {}};
  const ClientData client{data.train, data.scale, data.shift, &e.partition};
  const auto train = [&](int run) {
    ClientGroup group{.ids = {0}, .data = client, .seed = static_cast<uint64_t>(run + 1)};
    group.rows = global.weights.clone();
    return e.algorithm->train(group, global);
  };
  if (runs == 0) {
    train(0);
    return;
  }

  const auto& network = dynamic_cast<const Sequential&>(*e.network);
  torch::nn::Sequential bare = bare::model(name);
  const torch::Tensor floats = data.train.inputs.to(torch::kFloat32).div_(255);
  WeightedSum sum({e.network->layout().row()}, SumKind::kExact, torch::kCPU);
  std::vector<double> ours, theirs, ratios, limits, sums, peaks;
  const int64_t batches = (work.samples + work.batch_size - 1) / work.batch_size;
  const auto steps = static_cast<double>(batches);
  const double traffic = 16.0 * static_cast<double>(e.network->layout().row()) * steps;
  for (int run = -1; run < runs; ++run) {  // the first one warms up
    const double loop = bare_epoch(bare, floats, data.train.labels, work);
    double start = processor_seconds();
    const Update update = train(run);
    const double engine = processor_seconds() - start;
    start = processor_seconds();
    if (acceptable(update.delta)[0]) sum.add({update.delta[0]}, 0.001F);
    const double summing = processor_seconds() - start;
    const double top = peak();
    const double moving = traffic / bandwidth(e.network->layout().row());
    if (run < 0) continue;
    const double n = static_cast<double>(work.samples);
    const double computing =
        top > 0
            ? operations(network, data.train.inputs.size(2), data.train.inputs.size(3)) * n / top
            : 0;
    ours.push_back(n / engine);
    theirs.push_back(n / loop);
    ratios.push_back(loop / engine);
    limits.push_back(engine / std::max(computing, moving));
    sums.push_back(summing / (engine + summing));
    peaks.push_back(top * 1e-9);
  }
  std::printf("| %s | %lld | %.0f | %.3f | %.0f | %.2f | %.2f | %.1f %% | %.0f |\n", name.c_str(),
              static_cast<long long>(work.batch_size), median(ours),
              1e3 * static_cast<double>(work.batch_size) / median(ours), median(theirs),
              median(ratios), median(limits), 100 * median(sums), median(peaks));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  restart_for_fast_blas(argv);
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  at::set_num_threads(1);
  const int runs = argc > 1 ? std::max(0, std::atoi(argv[1])) : 9;
  if (runs > 0) {
    const char* blas = std::getenv("OPENBLAS_CORETYPE");
    std::printf("Kernels: %s. OpenBLAS: %s.\n\n", kernels::instruction_set(),
                blas != nullptr ? blas : "as it chooses");
    std::printf(
        "| model | batch | fl_sim, samples/s | ms a step | bare loop, samples/s | fl_sim : loop | "
        "fl_sim : limit | exact sum | peak, GF/s |\n|---|---|---|---|---|---|---|---|---|\n");
  }
  for (const Workload& work : {Workload{"logistic", 10, 0, 600}, Workload{"2nn", 10, 0, 600},
                               Workload{"2nn", 32, 0, 600}, Workload{"lenet", 64, 0.9, 1280},
                               Workload{"cnn", 10, 0, 600}, Workload{"cnn", 32, 0, 600}}) {
    if (argc > 2 && std::string(argv[2]) != work.model) continue;
    if (argc > 3 && std::atoi(argv[3]) != work.batch_size) continue;
    compare(work, std::string(work.model) == "cnn" ? (runs + 1) / 2 : runs * 3);
  }
}
