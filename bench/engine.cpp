// How fast one client trains, beside a bare hand-written LibTorch loop (module, autograd,
// torch::optim::SGD) of the same model on the same samples, in one process on one thread: samples
// per second of processor time, median of interleaved runs.
//
//   cmake --build build --target bench_engine && build/bench/bench_engine [RUNS]
#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/torch.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>

#include "experiment.h"
#include "fl_sim.h"

namespace {

using namespace fl_sim;

constexpr int64_t kSamples = 600;

struct BareModel : torch::nn::Module {
  virtual torch::Tensor forward(torch::Tensor x) = 0;
};

struct Bare2nn : BareModel {
  torch::nn::Linear fc1{784, 200}, fc2{200, 200}, fc3{200, 10};
  Bare2nn() {
    register_module("fc1", fc1);
    register_module("fc2", fc2);
    register_module("fc3", fc3);
  }
  torch::Tensor forward(torch::Tensor x) override {
    return fc3(torch::relu(fc2(torch::relu(fc1(x.flatten(1))))));
  }
};

struct BareCnn : BareModel {
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(1, 32, 5).padding(2)},
      conv2{torch::nn::Conv2dOptions(32, 64, 5).padding(2)};
  torch::nn::Linear fc1{3136, 512}, fc2{512, 10};
  BareCnn() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
  }
  torch::Tensor forward(torch::Tensor x) override {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);
    return fc2(torch::relu(fc1(x.flatten(1))));
  }
};

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// One local epoch of the bare loop: the inputs are floats already, which the simulator's are not.
double bare_epoch(BareModel& model, const torch::Tensor& x, const torch::Tensor& y,
                  int64_t batch_size) {
  const double start = processor_seconds();
  torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(0.05));
  const torch::Tensor order = torch::randperm(kSamples);
  for (int64_t first = 0; first < kSamples; first += batch_size) {
    const torch::Tensor batch = order.narrow(0, first, std::min(batch_size, kSamples - first));
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(model.forward(x.index_select(0, batch)),
                                         y.index_select(0, batch))
        .backward();
    optimizer.step();
  }
  return processor_seconds() - start;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void compare(const std::string& name, int64_t batch_size, int runs) {
  Dataset data;
  data.classes = 10;
  data.scale = 1.0 / 255;
  data.train.inputs = torch::randint(0, 256, {kSamples, 1, 28, 28}, torch::kUInt8);
  data.train.labels = torch::randint(0, 10, {kSamples}, torch::kInt64);
  data.test = data.train;
  const Job job =
      Job::from_text(message("dataset = fcube\nclients = 1\ncohort = 1\nmodel = ", name,
                             "\nlocal.batch-size = ", batch_size, "\nlocal.lr = 0.05\n"));
  Experiment e = make_experiment(job, data);
  Rng rng(0, "weights");
  GlobalModel global{.round = 1, .weights = e.network->initial_row(rng).unsqueeze(0), .shared = {}};
  const ClientData client{data.train, data.scale, data.shift, &e.partition};
  std::unique_ptr<BareModel> bare;
  if (name == "2nn") bare = std::make_unique<Bare2nn>();
  if (name == "cnn") bare = std::make_unique<BareCnn>();
  const torch::Tensor floats = data.train.inputs.to(torch::kFloat32).div_(255);

  std::vector<double> ours, theirs, ratios;
  for (int run = -1; run < runs; ++run) {  // the first one warms up
    const double loop = bare_epoch(*bare, floats, data.train.labels, batch_size);
    const double start = processor_seconds();
    ClientGroup group{.ids = {0}, .data = client, .seed = static_cast<uint64_t>(run + 1)};
    group.rows = global.weights.clone();
    e.algorithm->train(group, global);
    const double engine = processor_seconds() - start;
    if (run < 0) continue;
    ours.push_back(kSamples / engine);
    theirs.push_back(kSamples / loop);
    ratios.push_back(loop / engine);
  }
  std::printf("%-4s B %2lld   fl_sim %8.0f samples/s   bare loop %8.0f samples/s   ratio %.3f\n",
              name.c_str(), static_cast<long long>(batch_size), median(ours), median(theirs),
              median(ratios));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  at::set_num_threads(1);
  const int runs = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  for (const char* name : {"2nn", "cnn"}) {
    for (const int64_t batch_size : {10, 32})
      compare(name, batch_size, std::string(name) == "cnn" ? (runs + 1) / 2 : runs * 3);
  }
}
