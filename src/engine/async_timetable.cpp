#include "engine/async_timetable.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <set>
#include <tuple>

#include "base/check.h"
#include "engine/absence.h"
#include "engine/client_state.h"
#include "engine/experiment.h"
#include "engine/reachable.h"
#include "learning/protocol.h"
#include "learning/selection.h"

namespace fl_sim {

const OptionSet<AsyncOptions> AsyncOptions::kOptions(
    1035,
    {{&AsyncOptions::protocol,
      {.name = "async.protocol",
       .default_value = "rounds",
       .meaning = "when clients start, and when the server makes a new model (--list protocols)",
       .plugin_kind = "protocol"}},
     {&AsyncOptions::buffer,
      {.name = "async.buffer",
       .default_value = "10",
       .meaning = "updates that make a new model",
       .range = between(1, 1e9),
       .read_by = "protocol"}},
     {&AsyncOptions::interval,
      {.name = "async.interval",
       .default_value = {},
       .meaning = "virtual seconds between two models",
       .range = {.low = 1e-6, .high = 1e9},
       .read_by = "protocol"}},
     {&AsyncOptions::concurrency,
      {.name = "async.concurrency",
       .default_value = "0",
       .meaning = "clients that train at the same time; 0: as many as cohort",
       .range = between(0, 1e9),
       .read_by = "protocol"}},
     {&AsyncOptions::source,
      {.name = "async.source",
       .default_value = "clock",
       .meaning = "where staleness comes from: virtual time, or drawn uniformly from 0 to "
                  "async.max-staleness, as Xie et al. simulate it",
       .choices = {"clock", "drawn"},
       .read_by = "protocol"}},
     {&AsyncOptions::staleness,
      {.name = "async.staleness",
       .default_value = "polynomial",
       .meaning =
           "what an update weighs that is t versions old: (1+t)^-a, 1, as a hinge 1 up to b "
           "and 1/(a(t-b)+1) beyond, or e^-(1+t), a fresh one 1; recent: (1+t)^-a, t the mean "
           "of its client's last five updates that count, this one included (Pisces)",
       .choices = {"polynomial", "constant", "hinge", "exponential", "recent"},
       .read_by = "protocol"}},
     {&AsyncOptions::a,
      {.name = "async.a",
       .default_value = "0.5",
       .meaning = "a of async.staleness; Xie et al. have 0.5, and 10 for a hinge",
       .range = between(0, 1e6),
       .only_with = {"async.staleness", {"polynomial", "hinge", "recent"}},
       .read_by = "protocol"}},
     {&AsyncOptions::b,
      {.name = "async.b",
       .default_value = "4",
       .meaning = "b of a hinge; Xie et al. have 4",
       .range = between(0, 1e9),
       .only_with = {"async.staleness", {"hinge"}},
       .read_by = "protocol"}},
     {&AsyncOptions::max_staleness,
      {.name = "async.max-staleness",
       .default_value = "-1",
       .meaning = "versions that an update may be old; -1: any number",
       .range = between(-1, 1e9),
       .read_by = "protocol"}},
     {&AsyncOptions::on_stale,
      {.name = "async.on-stale",
       .default_value = "drop",
       .meaning =
           "updates that are older are dropped (and not trained), or no model is made before "
           "those have arrived that would be",
       .choices = {"drop", "wait"},
       .read_by = "protocol"}},
     {&AsyncOptions::normalise,
      {.name = "async.normalise",
       .default_value = "buffer",
       .meaning = "the sum of weighted updates is divided by how many there are, as in FedBuff, or "
                  "by their weights",
       .choices = {"buffer", "weights"},
       .read_by = "protocol"}},
     {&AsyncOptions::weighting,
      {.name = "async.weighting",
       .default_value = "job",
       .meaning = "of updates: the job's weighting, or unbiased: a client's share of the data over "
                  "its share of the versions, so that fast clients count no more than slow ones",
       .choices = {"job", "unbiased"},
       .read_by = "protocol"}},
     {&AsyncOptions::mixing,
      {.name = "async.mixing",
       .default_value = "0",
       .meaning = "share of a client's model, or a tier's, in the new one (FedAsync's alpha; under "
                  "buffered with async.buffer 1); 0: what clients have learnt is added",
       .range = between(0, 1),
       .read_by = "protocol"}},
     {&AsyncOptions::keep_versions,
      {.name = "async.keep-versions",
       .default_value = "64",
       .meaning = "former models that hosts keep in memory, at most: whoever starts from an older "
                  "one is trained early (rank 0 keeps all that something is under way from)",
       .range = between(1, 1e9),
       .read_by = "protocol",
       .changes_results = false}}});

double staleness_weight(const AsyncOptions& o, double t) {
  if (o.staleness == "constant") return 1;
  if (o.staleness == "hinge") return t <= o.b ? 1 : 1 / (o.a * (t - o.b) + 1);
  if (o.staleness == "exponential") return t == 0 ? 1 : std::exp(-(t + 1));
  return std::pow(1 + t, -o.a);
}

// What the events of a run wait in.
class AsyncTimetable::Events final : public Course {
 public:
  Events(AsyncTimetable& table, Micros begin) : table_(table), now_(begin) {}

  Micros now() const override { return now_; }
  int64_t versions() const override { return table_.versions(); }
  int64_t places() const override {
    return std::max<int64_t>(0, table_.concurrency_ - std::ssize(busy_));
  }
  int64_t drawn() const override {
    return table_.clock_.drawn(table_.e_.job.get<int64_t>("cohort"));
  }
  Dispatch task(int64_t dispatch) const override {
    const AsyncTask& task = table_.task(dispatch);
    return {.client = task.time.client, .base = task.base, .start = task.start};
  }
  std::vector<int64_t> clients() const override { return ids_of(table_.population_); }
  double usual_seconds(int64_t client) const override {
    return seconds_of(table_.clock_.usual(client, table_.traffic_).duration());
  }
  std::optional<int64_t> oldest_base() const override {
    if (bases_.empty()) return {};
    return *bases_.begin();
  }

  std::vector<int64_t> start(int64_t clients, const std::function<bool(int64_t)>& among) override;
  void make_version(std::vector<int64_t> due, int64_t part) override;
  void wake(Micros when) override {
    FL_CHECK(when > now_, "a protocol wants to be woken at ", when, " us, and it is ", now_,
             " (must be later)");
    events_.emplace(when, kWakes, 0);
  }

  bool idle() const { return events_.empty(); }
  bool any_now() const { return !events_.empty() && std::get<0>(events_.top()) == now_; }
  void go_on() { now_ = std::get<0>(events_.top()); }
  void go_on_to(Micros then) { now_ = then; }
  bool within_instant = false;  // something has happened now, and nobody was started since
  int64_t in_vain = 0;          // instants since the last version
  // The next event of now.
  void happen(Protocol& protocol);

 private:
  enum Kind { kArrives, kIsLost, kWakes };
  using Event = std::tuple<Micros, int, int64_t>;  // when, kind, dispatch

  Candidates candidates(const std::function<bool(int64_t)>& among) const;
  void count_reachable(const Candidates& idle);

  AsyncTimetable& table_;
  Micros now_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::set<int64_t> busy_;        // clients at work
  std::multiset<int64_t> bases_;  // of what they do
  std::vector<int64_t> missing_;  // lost or dropped since the last version
  int64_t selections_ = 0;        // since then
  int64_t reachable_ = 0;         // when clients were drawn last
  int64_t reachable_for_ = -1;    // the version that was the newest when that was counted
};

namespace {

bool sampler_learns(const Experiment& e) {
  State memory;
  e.sampler->init(memory, e.partition.clients());
  return !memory.empty();
}

}  // namespace

AsyncTimetable::AsyncTimetable(const Experiment& experiment, const VirtualClock& clock,
                               const Traffic& traffic, int64_t versions)
    : e_(experiment),
      clock_(clock),
      traffic_(traffic),
      o_(read_options<AsyncOptions>(e_.job)),
      concurrency_(o_.concurrency > 0 ? o_.concurrency
                                      : clock.drawn(e_.job.get<int64_t>("cohort"))),
      wanted_(versions),
      grows_(sampler_learns(e_)),
      population_(all_candidates(e_)),
      dropout_(read_options<AbsenceOptions>(e_.job).dropout),
      seed_(e_.job.seed()),
      faults_(Faults::parse(e_.job.get<std::string>("inject"))),
      started_(1),
      needed_(1, -1),
      undecided_(1) {
  check_asynchrony(e_);
  if (timed()) begin_ = clock_.begin(0);
  if (!grows_) grow_to(wanted_, {});
}

AsyncTimetable::~AsyncTimetable() = default;

void AsyncTimetable::grow_to(int64_t version, const State& memory) {
  const int64_t before = versions();
  memory_ = &memory;
  if (o_.drawn()) {
    draw(std::min(version, wanted_));
  } else {
    run(std::min(version, wanted_));
  }
  memory_ = nullptr;
  weigh(before + 1);
}

void AsyncTimetable::follow(int64_t version, std::vector<int64_t> drawn) {
  FL_CHECK(tasks_.empty(), "a timetable that has begun follows no other");
  drawn_ = std::move(drawn);
  grow_to(version, {});
}

// Whether there is time for one.
bool AsyncTimetable::may_begin_another() const {
  const double seconds = clock_.options().limit;
  if (versions() >= wanted_) return false;
  return o_.drawn() || seconds == 0 ||
         (versions_.empty() ? begin_ : versions_.back().at) < micros(seconds);
}

bool AsyncTimetable::goes_to(int64_t version) const {
  return version <= versions() || (grows_ && may_begin_another());
}

// The cohort of a draw: by the sampler, or as a former run has it.
std::vector<Drawn> AsyncTimetable::select(const Candidates& candidates, int64_t places, Micros now,
                                          Rng& rng) {
  std::vector<Drawn> cohort;
  const int64_t base = versions();
  if (followed_ < drawn_.size()) {
    const int64_t count = drawn_[followed_++];
    bool fits = count >= 0 && count <= places &&
                count <= std::ssize(drawn_) - static_cast<int64_t>(followed_);
    for (int64_t i = 0; fits && i < count; ++i) {
      const int64_t client = drawn_[followed_++];
      fits = candidates.contains(client) && (i == 0 || cohort.back().client < client);
      cohort.push_back({client});
    }
    FL_CHECK(fits, "who was drawn from version ", base,
             " of the model in the run that goes on cannot be drawn then (is its checkpoint of "
             "another fl_sim? Begin anew, with another --output or --overwrite)");
    return cohort;
  }
  SampleRequest request{.round = base + 1,
                        .cohort = places,
                        .candidates = candidates,
                        .partition = e_.partition,
                        .memory = *memory_,
                        .population = &population_,
                        .anytime = true};
  if (!grows_) return e_.sampler->sample(request, rng);
  if (timed()) {
    request.now = seconds_of(now);
    const auto next_task = [=, this](int64_t client) {
      const auto again = of_.find({base, client});
      AsyncTask next;
      next.base = base;
      next.repeat = again == of_.end() ? 0 : again->second;
      return clock_.task(next.number(), now, client, 0, 0, clock_.link_share(concurrency_),
                         traffic_);
    };
    request.oracle = clock_.oracle(next_task, traffic_);
  }
  FL_CHECK(!memory_->empty(), "the run that goes on has drawn clients up to version ", base,
           " of the model only (is its checkpoint of another fl_sim? Begin anew, with another "
           "--output or --overwrite)");
  cohort = e_.sampler->sample(request, rng);
  drawn_.push_back(std::ssize(cohort));
  for (const Drawn& one : cohort) drawn_.push_back(one.client);
  followed_ = drawn_.size();
  return cohort;
}

AsyncVersion& AsyncTimetable::add_version() {
  started_.emplace_back();
  needed_.push_back(-1);
  undecided_.push_back(0);
  return versions_.emplace_back();
}

void AsyncTimetable::decide(int64_t dispatch, AsyncTask::Fate fate, int64_t version) {
  AsyncTask& task = tasks_[static_cast<size_t>(dispatch)];
  const auto base = static_cast<size_t>(task.base);
  task.fate = fate;
  task.version = version;
  --undecided_[base];
  if (fate == AsyncTask::Fate::kCounts) needed_[base] = std::max(needed_[base], version);
}

int64_t AsyncTimetable::add_task(int64_t client, Micros now, int64_t base) {
  started_[static_cast<size_t>(base)].push_back(tasks());
  ++undecided_[static_cast<size_t>(base)];
  AsyncTask& task = tasks_.emplace_back();
  task.start = now;
  task.base = base;
  task.repeat = of_[{base, client}]++;
  FL_CHECK(task.base + 1 < VirtualClock::kAgain && task.repeat < 1024, "client ", client,
           " starts from version ", base, " of the model for the ", task.repeat + 1,
           ". time (must be less than 1024 times, and of less than ", VirtualClock::kAgain,
           " versions; are the keys of async.protocol right, and does anybody get through?)");
  if (timed()) {
    task.time =
        clock_.task(task.number(), now, client, 0, 0, clock_.link_share(concurrency_), traffic_);
  } else {
    task.time.client = client;
  }
  task.time.lost = task.time.lost || faults_.has(Faults::Kind::kClientCrash, base + 1, client) ||
                   (dropout_ > 0 && Rng(seed_, "lost", task.number(), client).uniform() < dropout_);
  if (timed() && clock_.options().energy)
    task.time.joules = clock_.joules(task.time, now, task.time.finish);
  return std::ssize(tasks_) - 1;
}

Candidates AsyncTimetable::Events::candidates(const std::function<bool(int64_t)>& among) const {
  const Experiment& e = table_.e_;
  if (!among && e.availability->everybody() && e.trained.empty())
    return Candidates(e.may_train(), {busy_.begin(), busy_.end()});
  return candidates_among(
      e,
      [&](int64_t client) {
        return !busy_.contains(client) && (!among || among(client)) &&
               e.availability->online(client, versions() + 1, now_);
      },
      /*may_wait=*/true);
}

// Of large populations it is an estimate, one a version.
void AsyncTimetable::Events::count_reachable(const Candidates& idle) {
  if (idle.unlisted() != nullptr && reachable_for_ == versions()) return;
  reachable_ = count_of(idle, Rng(table_.seed_, "online", versions() + 1)) + std::ssize(busy_);
  reachable_for_ = versions();
}

std::vector<int64_t> AsyncTimetable::Events::start(int64_t clients,
                                                   const std::function<bool(int64_t)>& among) {
  if (clients <= 0) return {};
  const int64_t version = versions();
  const Candidates idle = candidates(among);
  if (among) {
    count_reachable(candidates({}));
  } else {
    count_reachable(idle);
  }
  if (idle.none()) return {};
  // The first draw from a version has the stream of the round that would make the next one.
  Rng rng(table_.seed_, "sampler", version + 1, selections_++);
  std::vector<int64_t> started;
  for (const Drawn& one : table_.select(idle, clients, now_, rng)) {
    const int64_t dispatch = table_.add_task(one.client, now_, version);
    const AsyncTask& task = table_.tasks_.back();
    events_.emplace(task.time.finish, task.time.lost ? kIsLost : kArrives, dispatch);
    busy_.insert(one.client);
    bases_.insert(version);
    started.push_back(dispatch);
  }
  return started;
}

void AsyncTimetable::Events::make_version(std::vector<int64_t> due, int64_t part) {
  AsyncVersion& made = table_.add_version();
  made.at = now_;
  made.part = part;
  made.online = reachable_;
  made.due = std::move(due);
  made.missing = std::exchange(missing_, {});
  for (const int64_t dispatch : made.due)
    table_.decide(dispatch, AsyncTask::Fate::kCounts, versions());
  selections_ = 0;
}

void AsyncTimetable::Events::happen(Protocol& protocol) {
  const auto [when, kind, dispatch] = events_.top();
  events_.pop();
  if (kind == kWakes) return protocol.woken(*this);
  const AsyncTask& task = table_.task(dispatch);
  busy_.erase(task.time.client);
  bases_.erase(bases_.find(task.base));
  const AsyncOptions& o = table_.o_;
  const bool stale =
      o.max_staleness >= 0 && o.on_stale == "drop" && versions() - task.base > o.max_staleness;
  if (kind == kArrives && !stale) return protocol.arrived(*this, dispatch);
  table_.decide(dispatch, kind == kIsLost ? AsyncTask::Fate::kLost : AsyncTask::Fate::kStale,
                versions() + 1);
  missing_.push_back(dispatch);
  protocol.gone(*this, dispatch);
}

void AsyncTimetable::run(int64_t versions_wanted) {
  constexpr int64_t kMostInVain = 1'000'000;
  const auto goes_on = [&] { return versions() < versions_wanted && may_begin_another(); };
  if (!events_) {
    protocol_ = make<Protocol>(o_.protocol, {e_.job});
    events_ = std::make_unique<Events>(*this, begin_);
    protocol_->begin(*events_);
  }
  Events& events = *events_;
  while (goes_on()) {
    if (!events.within_instant) {
      protocol_->start(events);
      if (events.idle()) {  // nobody is there: time goes on until somebody is
        FL_CHECK(++events.in_vain < kMostInVain, "nobody could be drawn at ", kMostInVain,
                 " instants up to ", seconds_of(events.now()),
                 " virtual seconds, though clients can be reached (does sampler ",
                 e_.job.get<std::string>("sampler"), " draw anybody?)");
        events.go_on_to(clock_.begin(events.now() + 1));
        continue;
      }
      events.go_on();
    }
    const int64_t before = versions();
    while (goes_on() && events.any_now()) events.happen(*protocol_);
    events.within_instant = events.any_now();
    events.in_vain = versions() > before ? 0 : events.in_vain + 1;
    FL_CHECK(events.in_vain < kMostInVain, "of the last ", kMostInVain,
             " instants at which something arrived or was lost none has made a version of the "
             "model, ",
             protocol_->made(), ": there are ", versions(), " after ", seconds_of(events.now()),
             " virtual seconds and ", tasks(),
             " tasks (does anybody answer, and are the keys of async.protocol ", o_.protocol,
             " right?)");
  }
  // Who arrived in time for a version behind the end is still in flight.
}

// Without a clock: who takes part is drawn as for rounds, and how old its model is, too.
void AsyncTimetable::draw(int64_t versions_wanted) {
  while (versions() < versions_wanted) {
    const int64_t version = versions();
    Rng rng(seed_, "sampler", version + 1);
    const std::vector<Drawn> drawn = select(population_, o_.buffer, 0, rng);
    AsyncVersion& made = add_version();
    made.online = population_.size();
    for (const Drawn& one : drawn) {
      Rng chance(seed_, "staleness", version + 1, one.client);
      const int64_t staleness = std::min(chance.below(o_.max_staleness + 1), version);
      const int64_t dispatch = add_task(one.client, 0, version - staleness);
      const bool lost = task(dispatch).time.lost;
      decide(dispatch, lost ? AsyncTask::Fate::kLost : AsyncTask::Fate::kCounts, version + 1);
      (lost ? made.missing : made.due).push_back(dispatch);
    }
  }
}

// How stale a task is, as its weight has it. Tasks that count are asked for once, those of a client
// in the order of their dispatch.
double AsyncTimetable::staleness_of(const AsyncTask& task) {
  constexpr size_t kRecent = 5;
  if (o_.staleness != "recent") return static_cast<double>(task.staleness());
  std::vector<int64_t>& recent = recent_[task.time.client];
  if (recent.size() == kRecent) recent.erase(recent.begin());
  recent.push_back(task.staleness());
  const int64_t sum = std::accumulate(recent.begin(), recent.end(), int64_t{0});
  return static_cast<double>(sum) / static_cast<double>(recent.size());
}

// The tasks of versions from `first` on.
void AsyncTimetable::weigh(int64_t first) {
  const bool samples = e_.job.get<std::string>("weighting") == "samples";
  const bool unbiased = o_.weighting == "unbiased";
  // By version in the order of their dispatch.
  std::vector<AsyncTask*> due;
  for (int64_t number = first; number <= versions(); ++number) {
    std::vector<int64_t> dispatches = version(number).due;
    std::sort(dispatches.begin(), dispatches.end());
    for (const int64_t dispatch : dispatches) due.push_back(&tasks_[static_cast<size_t>(dispatch)]);
  }
  for (AsyncTask* task : due) task->weight = staleness_weight(o_, staleness_of(*task));
  std::map<int64_t, double> counts;  // by client: what is left of its tasks that count
  double all = 0;
  if (unbiased) {
    for (const AsyncTask& task : tasks_) {
      if (task.fate == AsyncTask::Fate::kCounts) counts[task.time.client] += task.weight;
    }
    for (int64_t place = 0; place < e_.may_train(); ++place)
      all += samples ? static_cast<double>(e_.partition.size(e_.may_train(place))) : 1;
  }
  for (AsyncTask* task : due) {
    const int64_t client = task->time.client;
    task->mass = samples ? static_cast<double>(e_.partition.size(client)) : 1;
    task->weight *= task->mass;
    if (unbiased) task->weight *= static_cast<double>(versions()) / (all * counts.at(client));
    versions_[static_cast<size_t>(task->version - 1)].weight += task->weight;
  }
}

int64_t AsyncTimetable::needed_until(int64_t base) const {
  // A longer run may draw each version that is not older than it may be.
  if (o_.drawn()) return base + 1 + o_.max_staleness;
  return undecided_[static_cast<size_t>(base)] > 0 ? versions() + 1
                                                   : needed_[static_cast<size_t>(base)];
}

const std::vector<int64_t>& AsyncTimetable::started_from(int64_t base) const {
  return started_[static_cast<size_t>(base)];
}

int64_t AsyncTimetable::most_held() const {
  std::vector<int64_t> more(static_cast<size_t>(versions() + 2));  // by version: held from then on
  for (int64_t base = 0; base <= versions(); ++base) {
    const int64_t until = std::min(needed_until(base), versions() + 1);
    if (until <= base) continue;
    ++more[static_cast<size_t>(base)];
    --more[static_cast<size_t>(until)];
  }
  int64_t now = 0, most = 0;
  for (const int64_t change : more) most = std::max(most, now += change);
  return most;
}

double AsyncTimetable::parallelism() const {
  // By version: tasks in the longest chain that leads to it.
  std::vector<int64_t> chain(static_cast<size_t>(versions() + 1), 0);
  int64_t count = 0;
  for (int64_t v = 1; v <= versions(); ++v) {
    int64_t& longest = chain[static_cast<size_t>(v)];
    longest = chain[static_cast<size_t>(v - 1)];
    if (grows_) {
      longest += version(v).due.empty() ? 0 : 1;
      count += std::ssize(version(v).due);
      continue;
    }
    for (const int64_t dispatch : version(v).due) {
      longest = std::max(longest, chain[static_cast<size_t>(task(dispatch).base)] + 1);
      ++count;
    }
  }
  return count > 0 ? static_cast<double>(count) / static_cast<double>(chain.back()) : 0;
}

void check_asynchrony(const Experiment& e) {
  const auto o = read_options<AsyncOptions>(e.job);
  if (!o.on()) return;
  const auto name = [&](const std::string& key) { return e.job.get<std::string>(key); };
  const std::string what = message("async.protocol is ", o.protocol, ", but ");
  const Needs needs = e.algorithm->needs();
  const auto refuse = [&](bool if_so, const std::string& why) { FL_CHECK(!if_so, what, why); };
  const auto refuse_algorithm = [&](bool if_so, const std::string& why) {
    refuse(if_so, "algorithm " + name("algorithm") + " " + why +
                      " (choose another algorithm, such as fedbuff, or --async.protocol rounds)");
  };
  refuse_algorithm(needs.pooled, "trains on everybody's samples at once");
  refuse_algorithm(
      needs.exchanges > 1,
      "talks to its clients several times in a round, which needs all of them at once");
  refuse_algorithm(needs.lanes > 1 || needs.models > 1, "has several models");
  refuse_algorithm(needs.keeps_deltas, "compares a round's updates with each other");
  refuse_algorithm(needs.sets_weights, "sets the weights of a whole cohort");
  refuse_algorithm(needs.follows_norms, "follows the lengths of a round's updates");
  refuse_algorithm(!state_layout(e).empty(),
                   "(or a transform, or local.keep-momentum) has clients keep state from round to "
                   "round, and a client's tasks are not trained in the order of rounds");
  ServerState model;
  model.weights = torch::zeros({needs.models, e.network->layout().row()}, e.dtype);
  e.algorithm->init(model);
  refuse_algorithm(!model.shared.empty(),
                   "sends clients more than the model, which the server holds against what comes "
                   "back in the same round");
  const bool takes_stale = e.aggregator->takes_stale();
  const std::string aggregator = "aggregator " + name("aggregator");
  refuse(e.aggregator->sees_clients() && !takes_stale,
         aggregator + " compares all updates of a round (choose mean)");
  refuse(takes_stale && o.staleness != "constant",
         aggregator + " weighs staleness itself, and async.staleness is " + o.staleness +
             " (choose constant)");
  refuse(takes_stale && (o.normalise != "weights" || o.weighting != "job"),
         aggregator +
             " divides by weights of its own (choose --async.normalise weights, and "
             "leave async.weighting out)");
  refuse(
      !e.sampler->draws_anytime(),
      "sampler " + name("sampler") +
          " draws the cohorts of rounds (choose sampler uniform, with --uniform.weights cohort, or "
          "oort, active, or poc with --poc.variant rpow)");
  refuse(o.weighting == "unbiased" && sampler_learns(e),
         "async.weighting is unbiased, which needs the whole timetable beforehand, and sampler " +
             name("sampler") +
             " draws by what it has learnt (choose sampler uniform, or --async.weighting job)");
  refuse(name("weighting") == "loss",
         "weighting is loss, which is known after training only (choose samples or uniform)");
  refuse(!e.availability->everybody() && !e.availability->follows_time(),
         "availability " + name("availability") +
             " follows rounds (choose one that follows time, such as --availability markov)");
  const auto absence = read_options<AbsenceOptions>(e.job);
  refuse(absence.stragglers > 0,
         "stragglers.fraction is of a round's cohort (let devices make clients slow)");
  const auto protocol = make<Protocol>(o.protocol, {e.job});  // which says what it cannot do
  const int64_t concurrency = o.concurrency > 0 ? o.concurrency : e.job.get<int64_t>("cohort");
  if (o.drawn()) {
    FL_CHECK(o.max_staleness >= 0,
             "async.source is drawn, but async.max-staleness is -1 (say up to which staleness)");
    FL_CHECK(e.devices->none(), "async.source is drawn, but devices is ", name("devices"),
             ", which has a clock (leave one of them out)");
    FL_CHECK(o.concurrency == 0, "async.source is drawn, but async.concurrency is ", o.concurrency,
             ", which only a clock needs (leave it out)");
    FL_CHECK(e.availability->everybody(), "async.source is drawn, but availability is ",
             name("availability"), " (let a clock decide, or leave it out)");
    FL_CHECK(o.on_stale == "drop",
             "async.source is drawn, but async.on-stale is wait, which only "
             "a clock can (leave it out)");
    FL_CHECK(o.buffer <= e.may_train(), "async.buffer is ", o.buffer, " (must be at most ",
             e.may_train(), ", the number of clients that may train, where they are drawn)");
  } else {
    FL_CHECK(!e.devices->none(), what,
             "devices is none, so that there is no time in which clients "
             "could be faster or slower (choose devices, such as --devices halfnormal, or "
             "--async.source drawn)");
    FL_CHECK(concurrency <= e.may_train(), "async.concurrency is ", concurrency,
             " (must be at most ", e.may_train(), ", the number of clients that may train)");
    const auto clock = read_options<ClockOptions>(e.job);
    refuse(!protocol->closes_rounds() &&
               (clock.keep != "all" || clock.over_commit > 1 || clock.deadline > 0),
           "clock.keep, clock.over-commit and clock.deadline are of rounds (leave them out, or "
           "choose --async.protocol stale-rounds)");
    refuse(clock.quorum > 0, "clock.quorum is of rounds (leave it out)");
    refuse(clock.deadline_rule != "fixed" || clock.late != "drop",
           "clock.deadline-rule and clock.late are of rounds whose late updates are dropped (leave "
           "them out)");
    refuse(clock.server_seconds > 0, "clock.server-seconds is of rounds (leave it out)");
    refuse(!clock.wait_lost, "clock.wait-lost is of rounds (leave it out)");
    FL_CHECK(o.max_staleness < 0 || o.on_stale == "drop" || o.buffer <= concurrency,
             "async.on-stale is wait, but async.buffer is ", o.buffer, " of ", concurrency,
             " clients in flight (choose a smaller one)");
  }
  FL_CHECK(o.mixing == 0 || o.normalise == "buffer", "async.mixing is ", o.mixing,
           ", but async.normalise is weights, so that staleness would be nothing (leave it out)");
  FL_CHECK(o.weighting == "job" || o.mixing == 0,
           "async.weighting is unbiased, but async.mixing is ", o.mixing,
           ", which is a client's whole weight (choose --async.mixing 0)");
  FL_CHECK(o.weighting == "job" || o.normalise == "buffer",
           "async.weighting is unbiased, but async.normalise is weights, which takes the weights "
           "away again (leave it out)");
}

}  // namespace fl_sim
