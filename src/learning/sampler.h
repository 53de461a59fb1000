// Which clients take part in a round.
#pragma once

#include <algorithm>
#include <cstdint>
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
// them where nobody is left out.
class Candidates {
 public:
  // Everybody of 0 to `all` - 1, or those of `ids`, ascending.
  explicit Candidates(int64_t all) : size_(all) {}
  // Of 0 to `all` - 1 all but some, ascending.
  Candidates(int64_t all, std::vector<int64_t> without)
      : without_(std::move(without)), size_(all - std::ssize(without_)) {}
  explicit Candidates(std::vector<int64_t> ids)
      : listed_(true), ids_(std::move(ids)), size_(std::ssize(ids_)) {}

  int64_t size() const { return size_; }
  bool contains(int64_t id) const {
    if (listed_) return std::binary_search(ids_.begin(), ids_.end(), id);
    return id >= 0 && id < size_ + std::ssize(without_) &&
           !std::binary_search(without_.begin(), without_.end(), id);
  }
  bool everybody() const { return !listed_ && without_.empty(); }  // then the id is the place
  int64_t id(int64_t place) const {
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
  bool listed_ = false;
  std::vector<int64_t> ids_, without_;
  int64_t size_;
};

struct SampleRequest {
  int64_t round;
  int64_t cohort;  // clients to be drawn
  const Candidates& candidates;
  const Partition& partition;  // of what clients train with
  const State& memory;         // what init() and learn() have left
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

  virtual ~Sampler() = default;

  // The cohort of a round, drawn from the candidates: distinct clients, ascending by id; fewer than
  // asked for where there are not enough. `rng` is the stream of this round.
  virtual std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const = 0;

  // Whether it sets the weights of those it draws, in place of the job's weighting.
  virtual bool weighs() const { return false; }

  // What it remembers, for a population of ids 0 to `ids` - 1, on rank 0: tensors (float32, float64
  // or int64), saved with the server. It learns from the records of each round that counted, those
  // of clients that never answered included.
  virtual void init(State& memory, int64_t ids) const { (void)memory, (void)ids; }
  virtual void learn(State& memory, std::span<const ClientRecord> records) const {
    (void)memory, (void)records;
  }
};

}  // namespace fl_sim
