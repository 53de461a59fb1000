// Which clients take part in a round.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/job.h"
#include "base/registry.h"
#include "base/rng.h"
#include "data/partitioner.h"
#include "learning/algorithm.h"
#include "learning/records.h"

namespace fl_sim {

// Clients that may train and can be reached in a round, ascending by id, without a list of all of
// them where nobody is left out, or, of large populations, where nobody asks for it.
class Candidates {
 public:
  // Everybody of 0 to `all` - 1, or those of `ids`, ascending.
  explicit Candidates(int64_t all) : size_(all) {}
  // Of 0 to `all` - 1 all but some, ascending.
  Candidates(int64_t all, std::vector<int64_t> without)
      : without_(std::move(without)), size_(all - std::ssize(without_)) {}
  explicit Candidates(std::vector<int64_t> ids)
      : listed_(true), ids_(std::move(ids)), size_(std::ssize(ids_)) {}

  // Of those at so many places, ascending by id, the ones that `among` says of. Where that takes
  // long, they are listed when the first one asks for their number or for one at its place.
  struct Unlisted {
    int64_t places = 0;
    std::function<int64_t(int64_t place)> id = {};
    std::function<bool(int64_t id)> among = {};
  };
  explicit Candidates(Unlisted all) : unlisted_(std::move(all)), size_(0) {}

  // Null where they are listed, or are nearly everybody.
  const Unlisted* unlisted() const { return unlisted_.places > 0 ? &unlisted_ : nullptr; }

  bool none() const {
    for (int64_t place = 0; place < unlisted_.places; ++place) {
      if (unlisted_.among(unlisted_.id(place))) return false;
    }
    return size_ == 0;
  }
  int64_t size() const {
    list();
    return size_;
  }
  bool contains(int64_t id) const {
    if (unlisted_.places > 0) {
      int64_t low = 0, high = unlisted_.places;  // the place of the first id that is not less
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (unlisted_.id(middle) < id) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      return low < unlisted_.places && unlisted_.id(low) == id && unlisted_.among(id);
    }
    if (listed_) return std::binary_search(ids_.begin(), ids_.end(), id);
    return id >= 0 && id < size_ + std::ssize(without_) &&
           !std::binary_search(without_.begin(), without_.end(), id);
  }
  // Then the id is the place.
  bool everybody() const { return !listed_ && without_.empty() && unlisted_.places == 0; }
  int64_t id(int64_t place) const {
    list();
    if (listed_) return ids_[static_cast<size_t>(place)];
    int64_t low = 0, high = std::ssize(without_);  // of those left out, how many come before it
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (without_[static_cast<size_t>(middle)] - middle <= place) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return place + low;
  }

 private:
  void list() const {
    for (int64_t place = 0; place < unlisted_.places; ++place) {
      const int64_t id = unlisted_.id(place);
      if (unlisted_.among(id)) ids_.push_back(id);
    }
    if (unlisted_.places == 0) return;
    listed_ = true;
    size_ = std::ssize(ids_);
    unlisted_ = {};
  }

  // Filled by list(): one thread at a time.
  mutable bool listed_ = false;
  mutable std::vector<int64_t> ids_;
  std::vector<int64_t> without_;
  mutable Unlisted unlisted_;
  mutable int64_t size_;
};

// What a client's task would take, in virtual seconds, as it is planned; without the chances of one
// task (devices.jitter), where it says so.
struct PlannedTask {
  double down = kNotMeasured, compute = kNotMeasured, up = kNotMeasured;
  int64_t samples = 0;  // that it would process

  double seconds() const { return down + compute + up; }
};

// What a simulation knows and no server does. A sampler that asks says so: its options are called
// oracles, and so does its describe(). All of it is empty where there is no virtual time.
struct Oracle {
  std::function<PlannedTask(int64_t client)> task = {};   // in this round
  std::function<PlannedTask(int64_t client)> usual = {};  // without the chances of a task
  // Whether the client can be reached in all of [from, to), in virtual seconds. Empty, too, where
  // availability follows rounds.
  std::function<bool(int64_t client, double from, double to)> online = {};
};

struct SampleRequest {
  int64_t round;
  int64_t cohort;  // clients to be drawn
  const Candidates& candidates;
  const Partition& partition;              // of what clients train with
  const State& memory;                     // what init() and learn() have left
  const Candidates* population = nullptr;  // those that may train, whether they can be reached or
                                           // not; null: the candidates
  double now = kNotMeasured;               // virtual seconds at which the round begins
  Oracle oracle = {};
  std::map<int64_t, double> answers = {};  // of those that were asked and answered, by client
  // Whether they are drawn for places that are free in an asynchronous run, mostly one. A share of
  // a cohort is then met on average, and `round` is the version that would be made next.
  bool anytime = false;
};

// A client that takes part.
struct Drawn {
  int64_t client;
  double weight = kNotMeasured;  // of its update, p_k; not measured: by the job's weighting
};

// Plug-ins live in src/plugins/samplers/.
class Sampler {
 public:
  static constexpr const char* kKind = "sampler";
  struct Setup {
    const Job& job;
    int64_t clients;  // that may train: the population without those held out
  };

  // What it may ask clients before it draws, who are sent the model for it: the mean loss of the
  // model on all of a client's samples, or on a mini-batch of them; or the length of the update
  // that it would return.
  enum class Question : int64_t { kNothing, kLoss, kBatchLoss, kUpdateNorm };

  virtual ~Sampler() = default;

  // The cohort of a round, drawn from the candidates: distinct clients, ascending by id; fewer than
  // asked for where there are not enough. `rng` is the stream of this round.
  virtual std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const = 0;

  // Whether it sets the weights of those it draws, in place of the job's weighting.
  virtual bool weighs() const { return false; }

  // Whether those weights may come to something else than 1: then the server makes of updates
  // sum_k weight_k x_k, and not their mean by these weights.
  virtual bool estimates_sum() const { return false; }

  // Whether its draws are as good one by one, at any time and among those who are idle, as they are
  // in rounds: asynchronous runs need that. If it has a memory, it draws from what it has learnt
  // when the newest version was made, and nothing is trained ahead.
  virtual bool draws_anytime() const { return false; }

  // Whether it prefers clients, and has them count as if it did not.
  virtual bool biased() const { return false; }

  // Whether it learns from squared losses, ClientOutcome::squared_loss.
  virtual bool needs_squared_loss() const { return false; }

  // Its question, and whom it asks in a round, ascending; nobody where it need not. Their answers
  // are in the request when it draws, from those alone; a client that could not be reached any more
  // has none. `rng` is a stream of its own.
  virtual Question question() const { return Question::kNothing; }
  virtual std::vector<int64_t> ask(const SampleRequest& request, Rng& rng) const {
    (void)request, (void)rng;
    return {};
  }

  // What it remembers, for a population of ids 0 to `ids` - 1, on rank 0: tensors (float32, float64
  // or int64), saved with the server. It learns from the records of each round that counted, those
  // of clients that never answered included.
  virtual void init(State& memory, int64_t ids) const { (void)memory, (void)ids; }
  virtual void learn(State& memory, std::span<const ClientRecord> records) const {
    (void)memory, (void)records;
  }
  // From clients' evaluations of a round's model, where there are any, ascending by client.
  virtual void learn_evaluations(State& memory,
                                 std::span<const ClientEvaluation> evaluations) const {
    (void)memory, (void)evaluations;
  }
};

}  // namespace fl_sim
