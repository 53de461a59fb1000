#include "commands/run_plan.h"

#include <malloc.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "commands/progress.h"
#include "commands/words.h"
#include "engine/client_state.h"
#include "engine/experiment.h"
#include "engine/host.h"
#include "engine/lanes.h"
#include "engine/planned_partition.h"
#include "engine/planner.h"
#include "engine/server.h"
#include "engine/set_up.h"
#include "engine/simulation.h"
#include "engine/traffic.h"
#include "learning/evaluation.h"
#include "network/arithmetic.h"

namespace fl_sim {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMiB = 1 << 20;
constexpr double kBusy = 0.9;        // of the hosts' time in which they train: few ranks enough
constexpr int64_t kSomeRounds = 10;  // whose deals are looked at

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Bytes that this process has in memory.
struct Memory {
  int64_t resident = 0;
  int64_t peak = 0;
  int64_t files = 0;  // of it: pages of programs and libraries
};

Memory memory_now() {
  Memory memory;
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

// The peak counts from here on; where the kernel refuses, from the beginning still.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

int64_t bytes_of(const State& state) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : state) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}
int64_t bytes_of(const Samples& samples) {
  int64_t bytes = 0;
  for (const torch::Tensor& tensor : {samples.inputs, samples.labels}) {
    if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return bytes;
}
int64_t bytes_of(const Partition& lists) {
  return 8 * (std::ssize(lists.offsets) + std::ssize(lists.indices));
}

// What was measured here.
struct Measured {
  // A client takes start + step * steps seconds in a round, all exchanges together.
  double start = 0, step = 0;
  double update = 0;             // seconds a round of the server
  double evaluation = 0;         // of a model on the test set, seconds
  double client_evaluation = 0;  // of a client's models on what it holds back, seconds
  int64_t evaluating = 0;        // clients that do so after a round
  int64_t training_memory = 0;   // bytes beyond model, sum and data while a group trains
  int64_t evaluation_memory = 0;
  // Sizes that follow from the job, bytes.
  Traffic traffic = {};  // of a client in a round
  int64_t weights = 0, shared = 0, hidden = 0;
  int64_t sum = 0;  // of all lanes
};

// A round of one rank in which one group of each lane trains.
struct Trial {
  int64_t clients = 0;
  double steps = 0;    // of each, on average
  double seconds = 0;  // of training, a client
  double update = 0;
};

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
  Simulation simulation(e_, comm_);
  Host& host = simulation.host();
  ServerState model = simulation.server();
  Planner planner(e_, 1);
  Server server(e_);
  const LocalPlan local(e_.job);
  const Memory before = memory_now();
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
      const Memory now = memory_now();
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
    measured_.weights = static_cast<int64_t>(model.weights.nbytes());
    measured_.shared = bytes_of(model.shared);
    measured_.hidden = bytes_of(model.hidden);
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
  const Memory before = memory_now();
  forget_peak();
  for (int64_t n = std::min<int64_t>(60, test.size()); n > 0;) {
    Evaluator evaluator(
        *e_.network,
        {test.inputs.narrow(0, 0, n).to(e_.device), test.labels.narrow(0, 0, n).to(e_.device)},
        e_.data.scale, e_.data.shift, e_.job.get<int64_t>("threads") == 1,
        choose_metrics(e_.job, *e_.network, e_.data.classes), [](const TestResult&) {});
    evaluator.add(1, weights);
    evaluator.finish();
    measured_.evaluation =
        evaluator.seconds() * static_cast<double>(test.size()) / static_cast<double>(n);
    if (n == test.size() || evaluator.seconds() > 0.3) break;
    n = std::min(4 * n, test.size());
  }
  const Memory now = memory_now();
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
                                          {"state-memory", "0"}})
    e_.job.set(key, value);
  if (e_.job.get<double>("evaluate-clients") > 0) e_.job.set("evaluate-every", "1");
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

std::string mib(int64_t bytes) {
  return fixed(static_cast<double>(bytes) / static_cast<double>(kMiB), 1);
}

std::string counted(int64_t n, const std::string& what) {
  return message(n, " ", what, n == 1 ? "" : "s");
}

// What is planned, for any number of ranks.
class RunPlan {
 public:
  RunPlan(const Experiment& e, const Measured& measured, const Memory& at_start,
          int64_t reading_peak)
      : e_(e), m_(measured), at_start_(at_start), reading_peak_(reading_peak) {
    const RoundPlan plan = Planner(e_, 1).next({}, sampler_memory(e_));
    for (const int64_t clients : plan.clients) cohort_ += clients;
    rows_ = e_.algorithm->needs().pooled ? std::ssize(plan.groups) : cohort_;
    groups_ = std::ssize(plan.groups);
    rounds_ = e_.job.get<int64_t>("rounds");
    state_ = state_layout(e_).length() * static_cast<int64_t>(c10::elementSize(e_.dtype));
    const auto clients =
        static_cast<double>(e_.trained.empty() ? e_.partition.clients() : std::ssize(e_.trained));
    const double share = std::min(1.0, static_cast<double>(cohort_) / clients);
    clients_with_state_ =
        state_ > 0 ? std::llround(clients * -std::expm1(static_cast<double>(rounds_) *
                                                        std::log1p(-std::min(share, 1 - 1e-12))))
                   : 0;
  }

  struct Load {
    int64_t clients = 0, groups = 0, steps = 0;
  };
  // Of each host in the first round, in which a run knows nothing of times: by steps.
  std::map<int64_t, Load> first_deal(int ranks) const;

  struct Pace {
    double round = 0;      // seconds
    double busy = 0;       // share of the hosts' time
    bool waiting = false;  // for the server's evaluation
    double work = 0;       // seconds of all ranks together
  };
  Pace pace(int ranks) const;
  // The most ranks whose hosts are busy.
  int busy_ranks() const;
  double total_seconds(int ranks) const;

  struct Need {  // bytes
    std::vector<std::pair<std::string, int64_t>> parts;
    int64_t shared = 0;  // of it with the machine's other ranks
    int64_t all() const {
      int64_t sum = 0;
      for (const auto& [name, bytes] : parts) sum += bytes;
      return sum;
    }
  };
  Need server_need(int ranks) const { return need(ranks, true, ranks == 1); }
  Need host_need(int ranks) const { return need(ranks, false, true); }
  int64_t node_need(int ranks) const;  // all ranks on one machine

  int64_t cohort() const { return cohort_; }
  int64_t rows() const { return rows_; }
  int64_t groups() const { return groups_; }
  int64_t rounds() const { return rounds_; }
  int64_t state() const { return state_; }
  int64_t clients_with_state() const { return clients_with_state_; }
  int64_t checkpoint_server() const { return m_.weights + m_.shared + m_.hidden; }
  int64_t evaluations() const {
    const auto every = e_.job.get<int64_t>("evaluate-every");
    return every == 0 ? 1 : (rounds_ + every - 1) / every;
  }

 private:
  Need need(int ranks, bool serves, bool trains) const;
  static int hosts_of(int ranks) { return std::max(1, ranks - 1); }

  const Experiment& e_;
  const Measured& m_;
  const Memory at_start_;
  const int64_t reading_peak_;
  int64_t cohort_ = 0, groups_ = 0, rounds_ = 0, state_ = 0, clients_with_state_ = 0;
  int64_t rows_ = 0;  // that a round adds to /clients: to whom models are sent
};

std::map<int64_t, RunPlan::Load> RunPlan::first_deal(int ranks) const {
  std::map<int64_t, Load> loads;
  for (int rank = ranks == 1 ? 0 : 1; rank < ranks; ++rank) loads[rank];
  const LocalPlan local(e_.job);
  for (const PlannedGroup& group : Planner(e_, ranks).next({}, sampler_memory(e_)).groups) {
    Load& load = loads[group.rank];
    ++load.groups;
    for (size_t i = 0; i < group.ids.size(); ++i) {
      const int64_t limit = group.limits.empty() ? 0 : group.limits[i];
      ++load.clients;
      load.steps += e_.algorithm->needs().pooled
                        ? limit
                        : local.steps_of(e_.partition.size(group.ids[i]), limit);
    }
  }
  return loads;
}

RunPlan::Pace RunPlan::pace(int ranks) const {
  Planner planner(e_, ranks);
  planner.expect(m_.start, m_.step);
  State memory = sampler_memory(e_);
  const int64_t rounds = std::min(rounds_, kSomeRounds);
  double work = 0, span = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    RoundPlan plan;
    for (int64_t exchange = 0; exchange < e_.algorithm->needs().exchanges; ++exchange)
      plan = planner.next({}, memory);  // the same groups in each
    std::vector<ClientRecord> took_part;
    for (const PlannedGroup& group : plan.groups) {
      work += group.seconds;
      for (const int64_t client : group.ids) took_part.emplace_back().client = client;
    }
    e_.sampler->learn(memory, took_part);
    double last = 0;
    for (int64_t lane = 0; lane < e_.algorithm->needs().lanes; ++lane)
      last = std::max(last, planner.expected_seconds(lane));
    span += last;
  }
  work /= static_cast<double>(rounds);
  span /= static_cast<double>(rounds);
  const double evaluated = static_cast<double>(evaluations()) / static_cast<double>(rounds_);
  const double test = m_.evaluation * evaluated, hosts = hosts_of(ranks);
  const double by_clients =
      evaluated * m_.client_evaluation * std::ceil(static_cast<double>(m_.evaluating) / hosts);
  Pace pace;
  // One rank does it all; else the test set is the server's, while others train.
  pace.round = (ranks == 1 ? span + test : std::max(span, test)) + m_.update + by_clients;
  pace.busy = work / (hosts * pace.round);
  pace.work = work + test + m_.update +
              evaluated * m_.client_evaluation * static_cast<double>(m_.evaluating);
  pace.waiting = ranks > 1 && test > span;
  return pace;
}

int RunPlan::busy_ranks() const {
  int best = 1;
  double best_busy = 0;
  for (int64_t hosts = 1; hosts <= std::max<int64_t>(1, groups_);
       hosts += std::max<int64_t>(1, hosts / 8)) {
    const int ranks = static_cast<int>(hosts) + 1;
    const double busy = pace(ranks).busy;
    if (busy >= kBusy || busy > best_busy) best = ranks;
    best_busy = std::max(best_busy, std::min(busy, kBusy));
  }
  return best;
}

double RunPlan::total_seconds(int ranks) const {
  return pace(ranks).round * static_cast<double>(rounds_);
}

// From what the code allocates (host.cpp, server.cpp, communicator.cpp, results.cpp).
RunPlan::Need RunPlan::need(int ranks, bool serves, bool trains) const {
  Need need;
  const auto add = [&](const std::string& name, int64_t bytes, bool shared = false) {
    if (bytes == 0) return;
    need.parts.emplace_back(name, bytes);
    if (shared) need.shared += bytes;
  };
  const bool several = ranks > 1;
  const int64_t hosts = hosts_of(ranks), train = bytes_of(e_.data.train);
  const int64_t lists = bytes_of(e_.partition) + bytes_of(e_.validation) + bytes_of(e_.test);
  const int64_t per_host = (cohort_ + hosts - 1) / hosts;
  const Memory now = memory_now();
  add("program, libraries", at_start_.resident - at_start_.files + now.files);
  add("training set", train, several);
  add("partition", lists, several);
  // Large models are broadcast through two halves of a window.
  const bool window = several && m_.weights >= (1 << 16);
  add("window for the model", window ? 2 * m_.weights : 0, true);
  // Beside its own part a rank reads, and the first one writes, a slice of all others'.
  const int64_t slices = several ? m_.sum * (ranks - 1) / ranks : 0;
  add("sum", m_.sum);
  add("others' sums, a slice", slices, true);
  const int64_t model = m_.weights + m_.shared;
  add("model", model);
  if (serves) {
    add("test set", bytes_of(e_.data.test));
    add("server: state, that of the round before", m_.hidden + model + m_.hidden);
    add("server: mean of the updates", m_.sum / 2);
    add("server: evaluation", 2 * m_.weights + m_.evaluation_memory);
    const int64_t skew = 8 * e_.partition.clients() * (e_.data.classes + 5);
    add("server: results", 2 * m_.weights + skew + (5 << 20));
  }
  if (trains) {
    add("training", m_.training_memory);
    if (e_.algorithm->needs().keeps_deltas) add("updates of a round", per_host * m_.weights);
    int64_t states = (clients_with_state_ + hosts - 1) / hosts * state_;
    const int64_t limit = e_.job.get<int64_t>("state-memory") << 20;
    if (limit > 0) states = std::min(states, limit);
    add("client states", states);
    if (limit == 0) add("client states before the round", std::min(states, per_host * state_));
    constexpr int64_t kBlock = 16 << 20;  // see write_states() in checkpoint.cpp
    add("client states, being saved", std::min(states, std::max(state_, kBlock)));
  }
  // The first rank of a machine reads the data, and copies them for all.
  if (serves) {
    const int64_t rest = reading_peak_ + (several ? train + lists : 0) - need.all();
    add("reading the data", std::max<int64_t>(0, rest));
  }
  return need;
}

int64_t RunPlan::node_need(int ranks) const {
  const Need server = server_need(ranks), host = host_need(ranks);
  if (ranks == 1) return server.all();
  const int64_t files = memory_now().files;
  const int64_t of_others = (ranks - 1) * (host.all() - host.shared - files);
  // A rank's slices are of the others' own parts.
  return server.all() + of_others;
}

// What a shell takes for one word.
std::string quoted(const std::string& word) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("_-./:=,@%+", c);
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// "1-02:30:00"
std::string slurm_time(double seconds) {
  const auto minutes = static_cast<int64_t>(std::ceil(seconds / 60));
  char text[64];
  std::snprintf(text, sizeof text, "%02lld:%02lld:00", static_cast<long long>(minutes / 60 % 24),
                static_cast<long long>(minutes % 60));
  return (minutes >= 1440 ? message(minutes / 1440, "-") : std::string()) + text;
}

// As those in slurm/, for this job on one machine.
std::string batch_script(const Job& job, const std::vector<std::string>& words, int ranks,
                         int64_t bytes, double seconds) {
  const auto warning = std::max<int64_t>(120, 60 + std::llround(job.get<double>("grace")));
  // Half as long again, the start and the warning; in steps of ten minutes.
  const double limit = 600 * std::ceil((1.5 * seconds + 120 + static_cast<double>(warning)) / 600);
  std::ostringstream out;
  const auto option = [&](const std::string& text) { out << "#SBATCH --" << text << "\n"; };
  out << "#!/usr/bin/env bash\n";
  std::string name = std::filesystem::path(job.get<std::string>("output")).stem().string();
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' ? c : '-';
  option("job-name=" + name);
  option("nodes=1");
  option(message("ntasks=", ranks));
  if (job.get<std::string>("device") == "cuda") {  // as many as there are here: ranks can share one
    const int here =
        torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
    const int hosts = std::max(1, ranks - 1);
    option(message("gpus-per-node=", here > 0 ? std::min(hosts, here) : hosts));
  }
  option("cpus-per-task=" + job.get<std::string>("threads"));
  option(message("mem=", (bytes + bytes / 4) / (100 * kMiB) * 100 + 100, "M"));
  option("time=" + slurm_time(limit));
  option("output=%x-%j.out");
  option("open-mode=append");
  option("requeue");
  option(message("signal=B:USR1@", warning));
  out << "set -euo pipefail\n"
         "source \"${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh\"\n\nbegin --";
  for (const std::string& word : words) out << " " << quoted(word);
  out << "\nrun_fl_sim \"$SLURM_NTASKS\" \"${options[@]}\"\n";
  return out.str();
}

// So many ranks as the user says, or mpirun; 0: nobody said so.
int asked_ranks(std::vector<std::string>& words, int launched) {
  const std::string text = take_option(words, "--plan-ranks").value_or("");
  if (text.empty()) return launched > 1 ? launched : 0;
  const bool digits = text.size() < 7 && text.find_first_not_of("0123456789") == std::string::npos;
  FL_CHECK(digits && std::stoi(text) > 0, "--plan-ranks is ", text,
           " (must be a whole number of at least 1)");
  return std::stoi(text);
}

// The job's experiment, on this rank alone. Where a GPU is asked for and there is none, the
// processor stands in for it.
Experiment make(const Job& job, Communicator& alone) {
  if (job.get<std::string>("device") != "cuda" || torch::cuda::is_available())
    return set_up(job, alone);
  PlannedPartition plan = make_partition_of(job);
  return make_experiment(std::move(plan.job), std::move(plan.data));
}

// Takes the words that are no options of the job out of `words`, and says how many ranks they want.
int take_ranks(std::vector<std::string>& words, int launched) {
  std::erase(words, "--plan");
  return asked_ranks(words, launched);
}

void show(const std::vector<std::string>& arguments, int launched, Communicator& alone) {
  std::vector<std::string> words = arguments;
  const int asked = take_ranks(words, launched);
  const Memory at_start = memory_now();
  Experiment e = make(Job::parse(words), alone);
  set_arithmetic(e.job);
  const int64_t reading_peak = memory_now().peak;
  const Measured m = Probe(e, alone).measure();
  const RunPlan plan(e, m, at_start, reading_peak);
  const int busy_ranks = plan.busy_ranks(), ranks = asked > 0 ? asked : busy_ranks;
  const bool exact = e.job.get<std::string>("sum") == "exact";

  const auto line = [&](const std::string& name, const std::string& text) {
    std::cout << std::left << std::setw(14) << name << text << "\n";
  };
  const auto value = [&](const std::string& key) { return e.job.get<std::string>(key); };
  line("job", message(value("algorithm"), ", ", value("dataset"), ", ", value("model"), ": ",
                      e.network->layout().count(), " parameters, ", plan.rounds(), " rounds of ",
                      plan.cohort(), " of ", e.partition.clients(), " clients"));
  line("groups", message(plan.groups(), " a round, of ", value("group-size") == "1" ? "" : "up to ",
                         counted(e.job.get<int64_t>("group-size"), "client"),
                         ": so many hosts can have something to do"));
  line("ranks", message(ranks, ranks == 1   ? " (server and host in one)"
                               : ranks == 2 ? ": 1 server, 1 host"
                                            : message(": 1 server, ", ranks - 1, " hosts")));
  if (ranks - 1 > plan.groups() && e.job.get<int64_t>("group-size") > 1) {
    line("", message("--group-size ", std::max<int64_t>(1, plan.cohort() / (ranks - 1)),
                     " would give every host something to do"));
  }

  std::cout << "\nWhat hosts are dealt in the first round\n";
  const std::map<int64_t, RunPlan::Load> loads = plan.first_deal(ranks);
  if (loads.size() <= 16) {
    for (const auto& [rank, load] : loads) {
      line(message("  rank ", rank),
           message(counted(load.clients, "client"), " in ", counted(load.groups, "group"), ", ",
                   counted(load.steps, "step")));
    }
  } else {
    const auto range = [&](const std::string& what, int64_t RunPlan::Load::*member) {
      const auto [low, high] = std::minmax_element(
          loads.begin(), loads.end(),
          [&](const auto& a, const auto& b) { return a.second.*member < b.second.*member; });
      return message(low->second.*member, " to ", high->second.*member, " ", what);
    };
    line("  each", message(range("clients", &RunPlan::Load::clients), ", ",
                           range("groups", &RunPlan::Load::groups), ", ",
                           range("steps", &RunPlan::Load::steps)));
  }

  std::cout << "\nBytes a round, as /rounds counts them\n";
  const std::string each = " to each of " + counted(plan.rows(), "client");
  line("  down", message(m.traffic.down * plan.rows(), " (", m.traffic.down, each, ")"));
  line("  up", message(m.traffic.up * plan.rows(), " (", m.traffic.up, " by each)"));
  line("  MPI", message(m.sum, " in one sum of ", exact ? "64-bit integers" : "float32", " and ",
                        m.weights + m.shared,
                        " in the broadcast, between machines; shared memory within one"));

  std::cout
      << "\nMemory, MiB: worked out, but for training, evaluation and the program, which were "
         "measured\n";
  const auto table = [&](const std::string& who, const RunPlan::Need& need) {
    line("  " + who, message(mib(need.all()), " in all"));
    for (const auto& [name, bytes] : need.parts)
      std::cout << std::right << std::setw(12) << mib(bytes) << "  " << name << "\n";
  };
  table("rank 0", plan.server_need(ranks));
  if (ranks > 1) table("a host", plan.host_need(ranks));
  const int64_t node = plan.node_need(ranks);
  line("  one machine", message(mib(node), " for all ranks, what they share counted once"));

  const int64_t states = plan.clients_with_state() * (plan.state() + 8);
  std::cout << "\n";
  line("checkpoint", message(mib(plan.checkpoint_server() + states), " MiB: server ",
                             mib(plan.checkpoint_server()), ", states of ",
                             plan.clients_with_state(), " clients ", mib(states)));

  std::cout
      << "\nTime, a prediction for ranks with a core each, as fast as this one: a client takes "
      << fixed(1e3 * m.start, 2) << " ms and " << fixed(1e3 * m.step, 3)
      << " ms a step,\nthe server " << fixed(1e3 * m.update, 2) << " ms a round and "
      << fixed(m.evaluation, 2) << " s to evaluate (" << plan.evaluations()
      << " times); messages between machines are not in it\n";
  if (value("device") == "cuda" && e.device.is_cpu())
    std::cout << "This machine has no CUDA device: times and memory are those of its processor\n";
  std::cout << "     ranks   s a round   hosts busy     in all\n";
  std::set<int> shown = {1, busy_ranks, ranks};
  for (int64_t hosts = 1; hosts <= 2 * plan.groups() && hosts <= 4096; hosts *= 2)
    shown.insert(static_cast<int>(hosts) + 1);
  for (const int k : shown) {
    const RunPlan::Pace pace = plan.pace(k);
    std::cout << std::right << std::setw(10) << k << std::setw(12) << fixed(pace.round, 3)
              << std::setw(11) << fixed(100 * pace.busy, 0) << " %" << std::setw(11)
              << duration_text(plan.total_seconds(k))
              << (pace.waiting ? "  as long as evaluation" : "")
              << (k == ranks ? "  <- planned" : "")
              << (k == busy_ranks ? "  <- the most that are kept busy" : "") << "\n";
  }
  const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  const double here = plan.pace(ranks).work / static_cast<double>(std::max<int64_t>(1, cores));
  if (ranks > cores && here > plan.pace(ranks).round) {
    std::cout << "On this machine " << ranks << " ranks share " << counted(cores, "core")
              << ": a round takes at least " << fixed(here, 3) << " s here\n";
  }
  std::cout << "\nA batch script for Slurm (from its first line on: fl_sim --plan ... | sed -n "
               "'/^#!/,$p' > job.sh)\n\n"
            << batch_script(e.job, words, ranks, node, plan.total_seconds(ranks)) << std::flush;
}

}  // namespace

void check_plan(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  take_ranks(words, 1);
  Job::parse(words);
}

void plan_run(const std::vector<std::string>& arguments, Communicator& comm) {
  const std::unique_ptr<Communicator> alone = Communicator::among(comm, {0});
  if (comm.rank() == 0) show(arguments, comm.size(), *alone);
  comm.meet();
}

}  // namespace fl_sim
