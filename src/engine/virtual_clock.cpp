#include "engine/virtual_clock.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <queue>
#include <span>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "engine/device_assignment.h"
#include "engine/experiment.h"
#include "network/flops.h"

namespace fl_sim {

const OptionSet<ClockOptions> ClockOptions::kOptions(
    1030,
    {{&ClockOptions::assign,
      {.name = "devices.assign",
       .default_value = "order",
       .meaning = "which client has which device: in order, by chance, the faster the more samples "
                  "it holds, or the faster the higher its main label",
       .choices = {"order", "random", "speed-by-size", "speed-by-label"},
       .read_by = "devices"}},
     {&ClockOptions::rule,
      {.name = "clock.rule",
       .default_value = "plain",
       .meaning = "what a task costs: plain, or as FedScale counts (whole batches, kbit of 1024)",
       .choices = {"plain", "fedscale"},
       .read_by = "devices"}},
     {&ClockOptions::pass_factor,
      {.name = "clock.pass-factor",
       .default_value = "3",
       .meaning = "what a training step costs, in forward passes",
       .range = more_than(0),
       .read_by = "devices"}},
     {&ClockOptions::kappa_text,
      {.name = "clock.kappa",
       .default_value = "1",
       .meaning =
           "what this model's forward pass costs, in those that the devices' figures are for: a "
           "number (more than 0), or auto, by the operations of both",
       .read_by = "devices"}},
     {&ClockOptions::latency,
      {.name = "clock.latency",
       .default_value = "0",
       .meaning = "seconds that each transfer takes beside its bits",
       .range = between(0, 1e9),
       .read_by = "devices"}},
     {&ClockOptions::over_commit,
      {.name = "clock.over-commit",
       .default_value = "1",
       .meaning = "so many times the cohort is drawn; FedScale has 1.3",
       .range = between(1, 1e6),
       .read_by = "devices"}},
     {&ClockOptions::keep,
      {.name = "clock.keep",
       .default_value = "all",
       .meaning = "whose updates count: all that arrive, the first `cohort` ones, or those until "
                  "clock.deadline",
       .choices = {"all", "fastest", "deadline"},
       .read_by = "devices"}},
     {&ClockOptions::deadline,
      {.name = "clock.deadline",
       .default_value = "0",
       .meaning = "seconds after which a round ends; 0: never",
       .range = between(0, 1e9),
       .read_by = "devices"}},
     {&ClockOptions::deadline_rule,
      {.name = "clock.deadline-rule",
       .default_value = "fixed",
       .meaning =
           "who sets a round's deadline: clock.deadline; fedbalancer, where most are through "
           "for the time it takes; smartpc, when four in five of those drawn are; timely, when "
           "clock.deadline-share of them could be with one epoch",
       .choices = {"fixed", "fedbalancer", "smartpc", "timely"},
       .read_by = "devices"}},
     {&ClockOptions::deadline_ratio,
      {.name = "clock.deadline-ratio",
       .default_value = "1",
       .meaning = "of fedbalancer's deadline: 0 is that of one epoch, 1 that of all",
       .range = between(0, 1),
       .read_by = "devices"}},
     {&ClockOptions::deadline_share,
      {.name = "clock.deadline-share",
       .default_value = "0.5",
       .meaning = "of timely's deadline: the share of those drawn that can do an epoch until then",
       .range = {.low = 1e-9, .high = 1},
       .only_with = {"clock.deadline-rule", {"timely"}},
       .read_by = "devices"}},
     {&ClockOptions::late,
      {.name = "clock.late",
       .default_value = "drop",
       .meaning =
           "what becomes of clients that the deadline is too early for: nothing, or the part "
           "of their work that they can do until then (to have them join a later round: "
           "async.protocol stale-rounds)",
       .choices = {"drop", "partial"},
       .read_by = "devices"}},
     {&ClockOptions::quorum,
      {.name = "clock.quorum",
       .default_value = "0",
       .meaning = "share of the cohort without which a round changes nothing; FLASH has 0.8",
       .range = between(0, 1),
       .read_by = "devices"}},
     {&ClockOptions::wait_lost,
      {.name = "clock.wait-lost",
       .default_value = "true",
       .meaning = "lost clients are waited for, as the server cannot know; false: as FedScale",
       .read_by = "devices"}},
     {&ClockOptions::min_online,
      {.name = "clock.min-online",
       .default_value = "1",
       .meaning = "clients that can be reached before a round begins",
       .range = at_least(1),
       .read_by = "devices"}},
     {&ClockOptions::server_seconds,
      {.name = "clock.server-seconds",
       .default_value = "0",
       .meaning = "seconds between a round's end and the next one's beginning",
       .range = between(0, 1e9),
       .read_by = "devices"}},
     {&ClockOptions::server_bps,
      {.name = "clock.server-bps",
       .default_value = "0",
       .meaning = "bit/s of the server's link, in each direction, of which each client of a round "
                  "has an equal part; 0: it is no limit",
       .range = at_least(0),
       .read_by = "devices"}},
     {&ClockOptions::energy,
      {.name = "clock.energy",
       .default_value = "false",
       .meaning = "whether clients' energy is counted, in joules",
       .read_by = "devices"}},
     {&ClockOptions::watts,
      {.name = "devices.watts",
       .default_value = {},
       .meaning = "COMPUTE,UP,DOWN,IDLE: watts of a device that computes, sends, receives and "
                  "waits; several with / between: one for each class of devices",
       .only_with = {"clock.energy", {"true"}},
       .read_by = "devices"}},
     {&ClockOptions::limit,
      {.name = "clock.limit",
       .default_value = "0",
       .meaning = "virtual seconds after which no round begins; 0: no limit",
       .range = between(0, 1e12),
       .read_by = "devices",
       .may_change = true}},
     {&ClockOptions::interruption,
      {.name = "availability.interruption",
       .default_value = "throughout",
       .meaning =
           "whose update arrives: who can be reached throughout its task, at its end, or who "
           "pauses meanwhile",
       .choices = {"throughout", "end", "pause"},
       .read_by = "devices"}}});

namespace {

// A product such as 1.1 * 10, or 0.55 * 100, lies a little beside the number that is meant.
constexpr double kRounding = 1e-9;

// FLOPs of the job's model over those of the one that the devices were timed with, where the job
// asks for that.
ClockOptions options_of(const Experiment& e) {
  auto options = read_options<ClockOptions>(e.job);
  if (e.devices->none()) return options;
  if (options.kappa_text != "auto") {
    FL_CHECK(read_number(options.kappa_text, options.kappa) && options.kappa > 0 &&
                 std::isfinite(options.kappa),
             "clock.kappa is ", options.kappa_text, " (must be a number, more than 0, or auto)");
    return options;
  }
  const auto devices = e.job.get<std::string>("devices");
  const double reference = e.devices->reference_flops();
  FL_CHECK(reference > 0, "clock.kappa is auto, but devices ", devices,
           " do not say what the model computes that they were timed with (give clock.kappa a "
           "number; flash and files with the attribute reference_flops say it)");
  const double own = forward_flops(*e.network, e.data.train.sample_shape());
  FL_CHECK(own > 0, "clock.kappa is auto, but model ", e.job.get<std::string>("model"),
           " has no products whose operations could be counted (give clock.kappa a number)");
  options.kappa = own / reference;
  return options;
}

ClosingRule::Keep keep_of(const std::string& word) {
  return word == "all"       ? ClosingRule::Keep::kAll
         : word == "fastest" ? ClosingRule::Keep::kFastest
                             : ClosingRule::Keep::kDeadline;
}

}  // namespace

RoundEnd close_round(const ClosingRule& rule, Micros start, std::vector<TimedTask>& tasks) {
  using Keep = ClosingRule::Keep;
  using End = TimedTask::End;
  const Micros deadline = rule.deadline > 0 ? start + rule.deadline : kNever;
  std::vector<TimedTask*> arrivals;
  Micros last = start;  // arrival, in time or not
  Micros last_loss = start;
  for (TimedTask& task : tasks) {
    task.end = task.lost ? End::kLost : task.finish > deadline ? End::kLate : End::kKept;
    (task.lost ? last_loss : last) = std::max(task.lost ? last_loss : last, task.finish);
    if (task.end == End::kKept) arrivals.push_back(&task);
  }
  const bool silent = last > deadline || (rule.wait_lost && last_loss > start);
  std::stable_sort(arrivals.begin(), arrivals.end(),
                   [](const TimedTask* a, const TimedTask* b) { return a->finish < b->finish; });
  Micros end = arrivals.empty() ? start : arrivals.back()->finish;
  if (rule.keep == Keep::kFastest && std::ssize(arrivals) >= rule.wanted && rule.wanted > 0) {
    end = arrivals[static_cast<size_t>(rule.wanted - 1)]->finish;
    for (size_t i = static_cast<size_t>(rule.wanted); i < arrivals.size(); ++i)
      arrivals[i]->end = End::kNotNeeded;
    arrivals.resize(static_cast<size_t>(rule.wanted));
  } else if (silent) {
    end = deadline != kNever ? deadline : std::max(end, last_loss);
  }
  const auto needed = static_cast<double>(rule.wanted) * rule.quorum;
  if (arrivals.empty() && end == start) end = std::min(deadline, last_loss);  // time goes on
  const bool counts = static_cast<double>(arrivals.size()) + kRounding >= needed;
  if (!counts) {
    for (TimedTask* task : arrivals) task->end = End::kNotNeeded;
  }
  return {end, counts};
}

Micros peak_of(const std::vector<Micros>& durations) {
  double most = 0;
  Micros peak = 0;
  for (size_t i = 0; i < durations.size(); ++i) {
    const double rate = static_cast<double>(i + 1) / static_cast<double>(durations[i]);
    if (rate > most) most = rate, peak = durations[i];
  }
  return peak;
}

Micros four_fifths_of(const std::vector<Micros>& durations) {
  return durations.empty() ? 0 : durations[(durations.size() * 4 + 4) / 5 - 1];
}

Micros share_of(const std::vector<Micros>& durations, double share) {
  if (durations.empty()) return 0;
  const double wanted = std::ceil(share * static_cast<double>(durations.size()) - kRounding);
  return durations[static_cast<size_t>(std::max(1.0, wanted)) - 1];
}

const TimedTask* Timetable::task_of(int64_t client) const {
  const auto found =
      std::lower_bound(tasks.begin(), tasks.end(), client,
                       [](const TimedTask& task, int64_t id) { return task.client < id; });
  return found != tasks.end() && found->client == client ? &*found : nullptr;
}

VirtualClock::VirtualClock(const Experiment& experiment)
    : e_(experiment),
      runs_(!e_.devices->none()),
      o_(options_of(e_)),
      local_(e_.job),
      exchanges_(e_.algorithm->needs().exchanges),
      seed_(e_.job.seed()) {
  check();
  if (runs_) rows_ = assigned_devices(e_.job, *e_.devices, e_.partition, e_.data.train);
  if (o_.energy) read_watts();
}

void VirtualClock::read_watts() {
  const auto expected = [&](const std::string& what) {
    return message("devices.watts is ", o_.watts, ": ", what,
                   " (must be COMPUTE,UP,DOWN,IDLE, watts of 0 or more, such as 2,1,0.8,0.1; with "
                   "/ between, such for each class of devices)");
  };
  std::istringstream classes(o_.watts);
  for (std::string one; std::getline(classes, one, '/');) {
    std::vector<double> watts;
    for (const std::string& word : split_list(one)) {
      double value = 0;
      FL_CHECK(read_number(word, value) && value >= 0 && std::isfinite(value),
               expected(message("'", word, "' is no number of watts")));
      watts.push_back(value);
    }
    FL_CHECK(watts.size() == 4, expected(message("'", one, "' is ", watts.size(), " numbers")));
    watts_.push_back({watts[0], watts[1], watts[2], watts[3]});
  }
  FL_CHECK(!watts_.empty(), expected("it is empty"));
  for (int64_t row = 0; watts_.size() > 1 && row < e_.devices->rows(); ++row) {
    const int64_t kind = e_.devices->device(row).kind;
    FL_CHECK(kind < std::ssize(watts_),
             expected(message("it has ", watts_.size(), " classes, but device ", row,
                              " is of class ", kind)));
  }
}

void VirtualClock::check() const {
  const auto name = [&](const std::string& key) { return e_.job.get<std::string>(key); };
  FL_CHECK(runs_ || !e_.availability->follows_time(), "availability is ", name("availability"),
           ", which follows time, but devices is none, so that there is no time (choose devices, "
           "such as --devices uniform)");
  if (!runs_) return;
  FL_CHECK(!e_.algorithm->needs().pooled, "devices is ", name("devices"), ", but algorithm ",
           name("algorithm"),
           " trains on everybody's samples at once, which no client's device does (leave it out)");
  FL_CHECK(o_.over_commit == 1 || o_.keep != "all", "clock.over-commit is ", o_.over_commit,
           ", but clock.keep is all, so that all that are drawn count (choose fastest)");
  FL_CHECK(o_.over_commit == 1 || !e_.sampler->weighs(), "clock.over-commit is ", o_.over_commit,
           ", but sampler ", name("sampler"),
           " weighs whom it draws, whoever arrives (choose sampler uniform)");
  const bool fixed = o_.deadline_rule == "fixed";
  FL_CHECK(fixed || o_.deadline == 0, "clock.deadline is ", o_.deadline,
           ", but clock.deadline-rule is ", o_.deadline_rule,
           ", which sets each round's (leave one out)");
  FL_CHECK(fixed || o_.keep != "all", "clock.deadline-rule is ", o_.deadline_rule,
           ", but clock.keep is all, so that all are waited for (choose deadline, or fastest)");
  const bool timely = o_.deadline_rule == "timely";
  FL_CHECK((o_.deadline_rule != "fedbalancer" && !timely) || local_.steps == 0,
           "clock.deadline-rule is ", o_.deadline_rule,
           ", which counts epochs, but local.steps is ", local_.steps,
           " (set local.epochs instead)");
  FL_CHECK(!timely || o_.late == "partial",
           "clock.deadline-rule is timely, by which clients do as many epochs as they can in time, "
           "local.epochs at most, but clock.late is drop (choose partial)");
  FL_CHECK(o_.deadline_rule == "fedbalancer" || o_.deadline_ratio == 1, "clock.deadline-ratio is ",
           o_.deadline_ratio, ", but clock.deadline-rule is ", o_.deadline_rule,
           ", which has none (choose fedbalancer)");
  FL_CHECK(!fixed || o_.deadline > 0 || o_.keep != "deadline",
           "clock.keep is deadline, but clock.deadline is 0 (set it)");
  FL_CHECK(o_.deadline == 0 || o_.keep != "all", "clock.deadline is ", o_.deadline,
           ", but clock.keep is all, so that all are waited for (choose deadline, or fastest)");
  FL_CHECK(o_.late == "drop" || !fixed || o_.deadline > 0,
           "clock.late is partial, but clock.deadline is 0 (set it)");
  FL_CHECK(o_.interruption == "throughout" || e_.availability->follows_time(),
           "availability.interruption is ", o_.interruption, ", but availability ",
           name("availability"), " follows rounds, in which nobody is interrupted (leave it out)");
  FL_CHECK(o_.quorum == 0 || !e_.sampler->weighs(), "clock.quorum is ", o_.quorum, ", but sampler ",
           name("sampler"),
           " may draw a client several times, so that fewer come than are wanted (leave it out)");
  FL_CHECK(o_.assign == "order" || !e_.devices->alike(), "devices.assign is ", o_.assign,
           ", but devices ", name("devices"), " are all alike (leave it out)");
  FL_CHECK(o_.min_online == 1 || e_.availability->follows_time() || e_.availability->everybody(),
           "clock.min-online is ", o_.min_online, ", but availability ", name("availability"),
           " follows rounds, so that nobody comes by waiting (leave it out)");
  const int64_t trains = e_.may_train();
  FL_CHECK(o_.min_online <= trains, "clock.min-online is ", o_.min_online, " (must be at most ",
           trains, ", the number of clients that may train)");
}

Device VirtualClock::device_of(int64_t client) const {
  return e_.devices->device(rows_.empty() ? client % e_.devices->rows()
                                          : rows_[static_cast<size_t>(client)]);
}

Oracle VirtualClock::oracle(std::function<TimedTask(int64_t client)> task,
                            const Traffic& traffic) const {
  const auto told = [](const TimedTask& planned) {
    return PlannedTask{.down = seconds_of(planned.down),
                       .compute = seconds_of(planned.compute),
                       .up = seconds_of(planned.up),
                       .samples = planned.samples};
  };
  Oracle oracle = {
      .task = [told, task = std::move(task)](int64_t client) { return told(task(client)); },
      .usual = [this, told, traffic](int64_t client) { return told(usual(client, traffic)); }};
  if (e_.availability->follows_time() || e_.availability->everybody()) {
    oracle.online = [this](int64_t client, double from, double to) {
      return e_.availability->on_throughout(client, micros(from), micros(to - from));
    };
  }
  return oracle;
}

int64_t VirtualClock::drawn(int64_t cohort) const {
  return static_cast<int64_t>(std::floor(o_.over_commit * static_cast<double>(cohort) + kRounding));
}

Micros VirtualClock::next_begin(Micros time) const {
  FL_CHECK(time <= kEndOfTime / 4, "virtual time has come to ", seconds_of(time),
           " s, which is too long (are the devices' and the clock's figures right?)");
  if (!runs_ || e_.availability->everybody() || !e_.availability->follows_time()) return time;
  const int64_t all = e_.may_train();
  int64_t online = 0;
  for (int64_t place = 0; place < all && online < o_.min_online; ++place)
    online += e_.availability->online(e_.may_train(place), 0, time) ? 1 : 0;
  if (online >= o_.min_online) return time;
  // Whoever changes next, from then on. Those that leave at an instant leave before others come.
  constexpr int64_t kMost = int64_t{1} << 24;
  using Change = std::tuple<Micros, bool, int64_t>;  // when, whether it comes, client
  std::priority_queue<Change, std::vector<Change>, std::greater<>> changes;
  online = 0;
  for (int64_t place = 0; place < all; ++place) {
    const int64_t client = e_.may_train(place);
    const bool on = e_.availability->online(client, 0, time);
    online += on ? 1 : 0;
    const Micros next =
        on ? e_.availability->next_off(client, time) : e_.availability->next_on(client, time);
    if (next != kNever) changes.emplace(next, !on, client);
  }
  for (int64_t n = 0; n < kMost + all && !changes.empty(); ++n) {
    const auto [when, comes, client] = changes.top();
    changes.pop();
    online += comes ? 1 : -1;
    if (online >= o_.min_online) return when;
    const Micros next =
        comes ? e_.availability->next_off(client, when) : e_.availability->next_on(client, when);
    if (next != kNever) changes.emplace(next, !comes, client);
  }
  return kNever;
}

Micros VirtualClock::begin(Micros time) const {
  const Micros next = next_begin(time);
  FL_CHECK(next != kNever, "availability ", e_.job.get<std::string>("availability"), " has never ",
           o_.min_online, " of the ", e_.may_train(),
           " clients that may train online at once after ", seconds_of(time),
           " s (a smaller clock.min-online, or other traces)");
  return next;
}

// Of a task whose limit is set.
void VirtualClock::time(TimedTask& task, const Device& device, int64_t round,
                        const Traffic& whole) const {
  const TaskCost cost = e_.algorithm->task_cost(task.client, round % kAgain);
  const Traffic traffic = whole.of(cost);
  const int64_t holds = e_.partition.size(task.client);
  const int64_t each = local_.batches_per_epoch(holds), steps = local_.steps_of(holds, task.limit);
  const double extra =
      e_.devices->extra_seconds(task.client, round, each > 0 ? (steps + each - 1) / each : 0);
  task.samples = exchanges_ * local_.samples_of(holds, task.limit);
  const auto exchanges = static_cast<double>(exchanges_);
  const double pass = o_.pass_factor * device.seconds_per_sample * o_.kappa;
  double down = 8.0 * static_cast<double>(traffic.down) / device.down_bps,
         up = 8.0 * static_cast<double>(traffic.up) / device.up_bps;
  double compute = pass * static_cast<double>(task.samples);
  if (o_.rule == "fedscale") {
    compute = pass * exchanges * static_cast<double>(local_.batch_size * steps);
    down *= 1000.0 / 1024;  // kbit of 1024 over kbit/s of 1000
    up *= 1000.0 / 1024;
  }
  const auto all = static_cast<double>(holds);
  const double forward = device.seconds_per_sample * o_.kappa;
  compute = cost.steps * cost.compute * compute +
            all * (cost.full_gradients * pass + cost.full_losses * forward);
  task.samples = std::llround(cost.steps * static_cast<double>(task.samples) +
                              all * (cost.full_gradients + cost.full_losses));
  task.down = micros(exchanges * (down + o_.latency));
  task.compute = micros(compute + exchanges * extra);
  task.up = micros(exchanges * (up + o_.latency));
  if (task.duration() == 0) task.compute = 1;
}

// A client's device in a round, whose link has so much of the server's.
Device VirtualClock::device_for(int64_t round, int64_t client, double most_bps) const {
  Device device = e_.devices->in_task(device_of(client), client, round);
  device.down_bps = std::min(device.down_bps, most_bps);
  device.up_bps = std::min(device.up_bps, most_bps);
  return device;
}

// Of a round with these clients, since its start.
Micros VirtualClock::deadline_of(int64_t round, const std::vector<int64_t>& clients,
                                 const std::function<int64_t(int64_t client)>& limit,
                                 double most_bps, const Traffic& traffic) const {
  if (o_.deadline_rule == "fixed") return micros(o_.deadline);
  const auto durations = [&](int64_t most) {  // of so much work at most; 0: of all
    std::vector<Micros> all;
    for (const int64_t client : clients) {
      TimedTask task{.client = client, .limit = limit(client)};
      if (most > 0) task.limit = task.limit > 0 ? std::min(task.limit, most) : most;
      time(task, device_for(round, client, most_bps), round, traffic);
      all.push_back(task.duration());
    }
    std::sort(all.begin(), all.end());
    return all;
  };
  if (o_.deadline_rule == "smartpc") return four_fifths_of(durations(0));
  if (o_.deadline_rule == "timely") return share_of(durations(1), o_.deadline_share);
  const Micros one = peak_of(durations(1)), whole = peak_of(durations(0));
  return one + std::llround(o_.deadline_ratio * static_cast<double>(whole - one));
}

// The most work that is through at the deadline; 0: not even the least.
int64_t VirtualClock::limit_for(const TimedTask& task, const Device& device, int64_t round,
                                Micros deadline, const Traffic& traffic) const {
  const int64_t planned = local_.steps > 0 ? local_.steps : local_.epochs;
  int64_t low = 0, high = task.limit > 0 ? std::min(task.limit, planned) : planned;
  while (low < high) {
    TimedTask part = task;
    part.limit = (low + high + 1) / 2;
    time(part, device, round, traffic);
    if (part.duration() <= deadline) {
      low = part.limit;
    } else {
      high = part.limit - 1;
    }
  }
  return low;
}

void VirtualClock::interrupt(TimedTask& task, Micros start) const {
  const Availability& a = *e_.availability;
  if (!a.follows_time()) return;
  const Micros duration = task.duration();
  if (o_.interruption == "pause") {
    const Micros through = a.after_work(task.client, start, duration);
    task.offline = through == kNever;
    if (!task.offline) task.finish = through;
  } else if (o_.interruption == "end") {
    task.offline = !a.online(task.client, 0, task.finish);
  } else if (!a.on_throughout(task.client, start, duration)) {
    task.offline = true;
    task.finish = std::min(task.finish, a.next_off(task.client, start));
  }
  task.lost = task.lost || task.offline;
}

double VirtualClock::link_share(int64_t clients) const {
  return o_.server_bps > 0 && clients > 0 ? o_.server_bps / static_cast<double>(clients)
                                          : std::numeric_limits<double>::infinity();
}

// Of a task of a round of [start, end). A lost client has done what it would have but for sending;
// one that went offline what it could until then.
double VirtualClock::joules(const TimedTask& task, Micros start, Micros end) const {
  const size_t kind =
      watts_.size() > 1 ? static_cast<size_t>(device_of(task.client).kind) : size_t{0};
  const Watts& watts = watts_[kind];
  Micros left = task.offline ? task.finish - start : task.duration();
  const auto part = [&](Micros phase) {
    const Micros done = std::min(phase, left);
    left -= done;
    return seconds_of(done);
  };
  const double down = part(task.down), compute = part(task.compute), up = part(task.up);
  const bool sends = !task.lost || task.offline;
  const double busy = down + compute + (sends ? up : 0);
  const Micros until = task.offline ? task.finish : std::max(end, task.finish);
  const double idle = std::max(0.0, seconds_of(until - start) - busy);
  return watts.down * down + watts.compute * compute + watts.up * (sends ? up : 0) +
         watts.idle * idle;
}

TimedTask VirtualClock::task(int64_t round, Micros start, int64_t client, int64_t limit,
                             Micros deadline, double most_bps, const Traffic& traffic) const {
  TimedTask task{.client = client, .limit = limit, .start = start};
  const Device device = device_for(round, client, most_bps);
  if (o_.late == "partial") {
    int64_t most = limit_for(task, device, round, deadline, traffic);
    // Who cannot do one is late with it, not with all.
    if (o_.deadline_rule == "timely") most = std::max<int64_t>(most, 1);
    if (most > 0) {
      const int64_t planned = local_.steps > 0 ? local_.steps : local_.epochs;
      task.limit = most < planned ? most : limit;
    }
  }
  time(task, device, round, traffic);
  task.finish = start + task.duration();
  interrupt(task, start);
  return task;
}

TimedTask VirtualClock::planned(int64_t round, int64_t client, const Traffic& traffic) const {
  TimedTask task{.client = client};
  time(task, e_.devices->in_task(device_of(client), client, round), round, traffic);
  return task;
}

TimedTask VirtualClock::usual(int64_t client, const Traffic& traffic) const {
  TimedTask task{.client = client};
  time(task, device_of(client), 0, traffic);
  return task;
}

VirtualClock::Asking VirtualClock::ask(int64_t round, Micros start,
                                       const std::vector<int64_t>& clients,
                                       Sampler::Question question, const Traffic& traffic) const {
  Asking asking{.end = start};
  for (const int64_t client : clients) {
    TimedTask task = planned(round, client, traffic);
    if (question != Sampler::Question::kUpdateNorm) {  // a forward pass, and no step
      const Device device = e_.devices->in_task(device_of(client), client, round);
      task.samples = e_.partition.size(client);
      if (question == Sampler::Question::kBatchLoss)
        task.samples = std::min(task.samples, local_.batch_size);
      task.compute =
          micros(device.seconds_per_sample * o_.kappa * static_cast<double>(task.samples));
    }
    task.finish = start + std::max<Micros>(1, task.duration());
    interrupt(task, start);
    asking.samples[client] = task.samples;
    if (task.offline) asking.silent.insert(client);
    if (!task.offline || o_.wait_lost) asking.end = std::max(asking.end, task.finish);
  }
  return asking;
}

Timetable VirtualClock::round(int64_t round, Micros start, const std::vector<int64_t>& clients,
                              const std::function<int64_t(int64_t client)>& limit,
                              const std::set<int64_t>& lost, const Traffic& traffic,
                              bool trained) const {
  Timetable table{.start = start, .end = start, .tasks = {}};
  const double most_bps = link_share(std::ssize(clients));
  const Micros deadline = deadline_of(round, clients, limit, most_bps, traffic);
  for (const int64_t client : clients) {
    TimedTask one = task(round, start, client, limit(client), deadline, most_bps, traffic);
    if (trained) {
      one.compute = 0;
      one.finish = start + std::max<Micros>(1, one.duration());
      one.offline = one.lost = false;
      interrupt(one, start);
    }
    one.lost = one.lost || lost.contains(client);
    table.tasks.push_back(one);
  }
  // Samplers give ascending ids: chance decides between those who arrive at once.
  Rng rng(seed_, "draw order", round);
  rng.shuffle(std::span(table.tasks));
  const ClosingRule rule{.keep = keep_of(o_.keep),
                         .wanted = e_.job.get<int64_t>("cohort"),
                         .deadline = deadline,
                         .quorum = o_.quorum,
                         .wait_lost = o_.wait_lost};
  const RoundEnd end = close_round(rule, start, table.tasks);
  table.end = end.at + micros(o_.server_seconds);
  if (o_.energy) {
    for (TimedTask& one : table.tasks) one.joules = joules(one, start, end.at);
  }
  std::sort(table.tasks.begin(), table.tasks.end(),
            [](const TimedTask& a, const TimedTask& b) { return a.client < b.client; });
  return table;
}

}  // namespace fl_sim
