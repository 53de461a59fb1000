// Which clients take part in a round.
#pragma once

#include <cstdint>
#include <vector>

#include "job.h"
#include "registry.h"
#include "rng.h"

namespace fl_sim {

// Plug-ins live in src/samplers/.
class Sampler {
 public:
  static constexpr const char* kKind = "sampler";
  struct Setup {
    const Job& job;
    int64_t clients;  // N, the population
  };

  virtual ~Sampler() = default;

  // The cohort of a round: distinct client ids, ascending. `rng` is the stream of this round.
  virtual std::vector<int64_t> sample(int64_t round, Rng& rng) const = 0;
};

}  // namespace fl_sim
