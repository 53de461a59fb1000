// Which clients take part in a round.
#pragma once

#include <cstdint>
#include <vector>

#include "base/job.h"
#include "base/registry.h"
#include "base/rng.h"

namespace fl_sim {

// Plug-ins live in src/plugins/samplers/.
class Sampler {
 public:
  static constexpr const char* kKind = "sampler";
  struct Setup {
    const Job& job;
    int64_t clients;  // that may train: the population without those held out
  };

  virtual ~Sampler() = default;

  // The cohort of a round, drawn from the clients that may train and can be reached in it: distinct
  // positions 0 to candidates - 1 among them, ascending; fewer than the cohort where there are not
  // enough. `rng` is the stream of this round.
  virtual std::vector<int64_t> sample(int64_t round, int64_t candidates, Rng& rng) const = 0;
};

}  // namespace fl_sim
