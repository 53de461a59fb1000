#include "commands/probe.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "engine/evaluation_plan.h"
#include "engine/host.h"
#include "engine/planner.h"
#include "engine/server.h"
#include "engine/simulation.h"
#include "learning/batches.h"
#include "learning/evaluation.h"
#include "learning/selection.h"
#include "network/arithmetic.h"

namespace fl_sim {

ProcessMemory memory_now() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kib = 0;
    words >> key >> kib;
    if (key == "VmRSS:") memory.resident = kib << 10;
    if (key == "VmHWM:") memory.peak = kib << 10;
    if (key == "RssFile:") memory.files = kib << 10;
  }
  return memory;
}

namespace {

// The peak counts from here on; where the kernel refuses, from the beginning still.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

int64_t bytes_of(const State& state) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : state) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

// Cohorts and times of a probe, which measures how long clients take here: everybody is there, and
// nobody is too slow. With `real` one's memory.
class AnyCohort final : public Sampler {
 public:
  explicit AnyCohort(std::unique_ptr<Sampler> real) : real_(std::move(real)) {}
  void init(State& memory, int64_t ids) const override { real_->init(memory, ids); }
  bool needs_squared_loss() const override { return real_->needs_squared_loss(); }
  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    std::vector<Drawn> cohort;
    for (const int64_t place : draw_places(request.candidates.size(), request.cohort, rng))
      cohort.push_back({request.candidates.id(place)});
    return cohort;
  }

 private:
  std::unique_ptr<Sampler> real_;
};

class AlwaysThere final : public Availability {
 public:
  bool everybody() const override { return true; }
  bool follows_time() const override { return false; }
  bool online(int64_t, int64_t, Micros) const override { return true; }
};

// A round of one rank in which one group of each lane trains.
struct Trial {
  int64_t clients = 0;
  double steps = 0;    // of each, on average
  double seconds = 0;  // of training, a client
  double update = 0;
};

// Clients beyond so many are like those before.
Traffic mean_of(const Experiment& e, const Traffic& whole) {
  constexpr int64_t kMost = 100000;
  const int64_t clients = std::min(e.may_train(), kMost);
  TaskCost mean{.down = 0, .up = 0};
  for (int64_t place = 0; place < clients; ++place) {
    const TaskCost one = e.algorithm->task_cost(e.may_train(place), 1);
    mean.down += one.down;
    mean.up += one.up;
  }
  mean.down /= static_cast<double>(clients);
  mean.up /= static_cast<double>(clients);
  return whole.of(mean);
}

class Probe {
 public:
  Probe(Experiment& e, Communicator& comm) : e_(e), comm_(comm), job_(e.job) {}
  ~Probe() { e_.job = job_; }

  Measured measure();

 private:
  Trial run(int64_t steps);
  void evaluate_clients(Host& host, const RoundPlan& plan, const ServerState& model);
  void evaluate_test_set(const torch::Tensor& weights);

  Experiment& e_;
  Communicator& comm_;
  const Job job_;
  Measured measured_;
  torch::Tensor weights_;
  bool first_ = true;
};

// Every client does `steps` steps; 0: what the job says.
Trial Probe::run(int64_t steps) {
  if (steps > 0) e_.job.set("local.steps", std::to_string(steps));
  build_parts(e_);
  e_.sampler = std::make_unique<AnyCohort>(std::move(e_.sampler));
  e_.availability = std::make_unique<AlwaysThere>();
  e_.devices = make<Devices>("none", {e_.job, "", e_.partition.clients()});
  Simulation simulation(e_, comm_);
  Host& host = simulation.host();
  ServerState model = simulation.server();
  Planner planner(e_, 1);
  planner.charge(client_traffic(e_, model));
  Server server(e_);
  const LocalPlan local(e_.job);
  const ProcessMemory before = memory_now();
  if (first_) forget_peak();
  Trial trial;
  Traffic traffic;
  for (int64_t exchange = 0; exchange < e_.algorithm->needs().exchanges; ++exchange) {
    RoundPlan plan = planner.next({}, model.memory);
    model.round = plan.round;
    model.exchange = plan.exchange;
    std::map<int64_t, std::vector<PlannedGroup>> lanes;
    for (const PlannedGroup& group : plan.groups) lanes[group.lane].push_back(group);
    plan.groups.clear();
    for (auto& [lane, groups] : lanes) {
      plan.groups.push_back(groups[groups.size() / 2]);
      if (e_.algorithm->needs().pooled && steps > 0) plan.groups.back().limits = {steps};
    }
    host.begin(plan);
    const auto start = Clock::now();
    for (const PlannedGroup& group : plan.groups) {
      host.train(group, model);
      if (exchange > 0) continue;
      trial.clients += std::ssize(group.ids);
      for (const int64_t client : group.ids) {
        trial.steps += static_cast<double>(
            steps > 0 ? steps
                      : (e_.algorithm->needs().pooled ? group.limits[0]
                                                      : local.steps_of(e_.partition.size(client))));
      }
    }
    trial.seconds += seconds_since(start);
    if (first_ && exchange == 0) {
      const ProcessMemory now = memory_now();
      measured_.training_memory =
          std::max<int64_t>(0, (now.peak - now.files) - (before.resident - before.files));
    }
    const auto update = Clock::now();
    std::vector<ClientRecord> trained;
    for (const auto& [lane, groups] : lanes) {
      std::vector<ClientRecord> records = host.records(lane);
      trained.insert(trained.end(), records.begin(), records.end());
      std::sort(records.begin(), records.end(),
                [](const ClientRecord& a, const ClientRecord& b) { return a.client < b.client; });
      server.step(model, host.meet(server.take(model, lane, host.sum(lane), std::move(records))));
    }
    planner.end_exchange(trained);
    if (planner.last_exchange()) server.end_round(model, trained, planner.learned_from(trained));
    trial.update += seconds_since(update);
    const Traffic each = client_traffic(e_, model);
    traffic.down += each.down;
    traffic.up += each.up;
  }
  FL_CHECK(trial.clients > 0,
           "nobody of the first round's cohort trains: there is nothing to plan");
  trial.seconds /= static_cast<double>(trial.clients);
  trial.steps /= static_cast<double>(trial.clients);
  if (first_) {
    measured_.traffic = traffic;
    measured_.mean_traffic = mean_of(e_, traffic);
    measured_.weights = static_cast<int64_t>(model.weights.nbytes());
    measured_.shared = bytes_of(model.shared);
    measured_.hidden = bytes_of(model.hidden) + bytes_of(model.memory);
    for (int64_t lane = 0; lane < e_.algorithm->needs().lanes; ++lane)
      measured_.sum += static_cast<int64_t>(host.sum(lane).buffer().nbytes());
    weights_ = model.weights;
    const RoundPlan plan = planner.next({}, model.memory);
    if (plan.kind == RoundPlan::Kind::kEvaluate) evaluate_clients(host, plan, model);
  }
  first_ = false;
  return trial;
}

void Probe::evaluate_clients(Host& host, const RoundPlan& plan, const ServerState& model) {
  int64_t clients = 0;
  for (const PlannedGroup& group : plan.groups) measured_.evaluating += std::ssize(group.ids);
  host.begin(plan);
  const auto start = Clock::now();
  for (const PlannedGroup& group : plan.groups) {
    host.evaluate(group, model, model.weights);
    clients += std::ssize(group.ids);
    if (seconds_since(start) > 0.5) break;
  }
  if (clients > 0)
    measured_.client_evaluation = seconds_since(start) / static_cast<double>(clients);
}

// Some samples, and more of them until it takes long enough to be measured.
void Probe::evaluate_test_set(const torch::Tensor& weights) {
  const Samples& test = e_.data.test;
  malloc_trim(0);
  const ProcessMemory before = memory_now();
  forget_peak();
  for (int64_t n = std::min<int64_t>(60, test.size()); n > 0;) {
    Evaluator evaluator(
        *e_.network,
        {test.inputs.narrow(0, 0, n).to(e_.device), test.labels.narrow(0, 0, n).to(e_.device)},
        e_.data.scale, e_.data.shift, read_options<Arithmetic>(e_.job).one_thread(),
        choose_metrics(e_.job, *e_.network, e_.data.classes), [](const TestResult&) {});
    evaluator.add(1, weights);
    evaluator.finish();
    measured_.evaluation =
        evaluator.seconds() * static_cast<double>(test.size()) / static_cast<double>(n);
    if (n == test.size() || evaluator.seconds() > 0.3) break;
    n = std::min(4 * n, test.size());
  }
  const ProcessMemory now = memory_now();
  measured_.evaluation_memory =
      std::max<int64_t>(0, (now.peak - now.files) - (before.resident - before.files));
}

Measured Probe::measure() {
  // Everybody answers, nothing happens, and the state of clients stays in memory.
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"stragglers.fraction", "0"},
                                          {"availability.probability", "1"},
                                          {"availability.dropout", "0"},
                                          {"inject", "none"},
                                          {"state-dir", "none"},
                                          {"state-memory", "0"}}) {
    if (e_.job.values().contains(key)) e_.job.set(key, value);
  }
  if (read_options<EvaluationPlan>(e_.job).share > 0) e_.job.set("evaluate-every", "1");
  malloc_trim(0);

  // A line through short and long clients, where the algorithm lets others say how long they train.
  const auto median = [&](int64_t steps) {
    std::vector<Trial> trials;
    for (int i = 0; i < 3; ++i) trials.push_back(run(steps));
    std::sort(trials.begin(), trials.end(),
              [](const Trial& a, const Trial& b) { return a.seconds < b.seconds; });
    return trials[1];
  };
  bool by_steps = true;
  int64_t steps = 4;
  Trial many;
  try {
    run(1);  // warms up
    many = run(steps);
  } catch (const Error&) {
    e_.job.set("local.steps", job_.get<std::string>("local.steps"));
    by_steps = false;
    run(0);
  }
  const Trial few = median(by_steps ? 1 : 0);
  measured_.update = few.update;
  if (by_steps) {
    constexpr double kLong = 0.25;  // seconds
    constexpr int64_t kMost = 1 << 12;
    while (many.seconds * static_cast<double>(many.clients) < kLong && steps < kMost)
      many = run(steps *= 4);
    many = median(steps);
    measured_.step = std::max(0.0, (many.seconds - few.seconds) / (many.steps - few.steps));
    measured_.start = std::max(0.0, few.seconds - measured_.step);
  } else {
    measured_.step = few.seconds / std::max(1.0, few.steps);
  }
  e_.job = job_;
  build_parts(e_);
  evaluate_test_set(weights_);
  return measured_;
}

}  // namespace

Measured probe(Experiment& experiment, Communicator& alone) {
  return Probe(experiment, alone).measure();
}

}  // namespace fl_sim
