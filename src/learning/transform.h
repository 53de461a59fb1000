// What happens to a client's update between its training and the sum, and to the sum before the
// server's step: clipping, noise, compression. No algorithm knows of it.
//
// Plug-ins live in src/plugins/transforms/. A job names them in their order, "clip,gaussian": a
// client's update goes through them in that order where the client trained, the mean of the updates
// in the reverse order on rank 0.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "learning/algorithm.h"

namespace fl_sim {

class Transform {
 public:
  static constexpr const char* kKind = "transform";
  struct Setup {
    const Job& job;
    const Network& network;
    RowPart sent;          // what of a delta is changed: trainable, and sent; buffers never are
    int64_t clients;       // N, those that may train
    int64_t first_scalar;  // the place of its first number in ClientOutcome::scalars
  };

  virtual ~Transform() = default;

  // What a client keeps for it between rounds, error feedback for one: vectors of these lengths,
  // which apply() finds in ClientGroup::state and leaves in Update::state as "<transform>.<name>".
  virtual VectorSizes client_state() const { return {}; }

  // Names of numbers that apply() leaves in ClientOutcome::scalars, from Setup::first_scalar on:
  // columns "<transform>.<name>" of /clients.
  virtual std::vector<std::string> scalars() const { return {}; }

  // Why it cannot work with an algorithm of these needs, "…, which …"; empty: it can. By default it
  // wants clients that send something, all to one sum.
  virtual std::string obstacle(const Needs& needs) const {
    if (needs.pooled) return "which has no clients that would send something";
    if (needs.lanes > 1) return "which trains cohorts apart, each with a sum of its own";
    return other_models(needs);
  }

  // Such as fedem: a client returns one model's update as its delta, others' as further vectors.
  static std::string other_models(const Needs& needs) {
    return needs.models_in_lane() > 1 && !needs.additive.empty()
               ? "whose clients return updates of several models at once"
               : "";
  }

  // On every rank before round 1, after the algorithm's: tensors of `memory`, or of `shared` where
  // clients must know them, named "<transform>.<name>".
  virtual void init(ServerState& server) const { (void)server; }

  // On the host of a group, after its training: changes rows of `update` in place. Rows that are
  // not finite or too large for the sum are 0 here; their clients count as diverged whatever comes
  // of it. Chance: Rng(group.seed, "<transform>", global.round, client).
  virtual void apply(Update& update, const ClientGroup& group, const GlobalModel& global) const = 0;

  // On rank 0: changes what the clients' updates came to, in place.
  virtual void finish(ServerState& server, Sum& sum) const { (void)server, (void)sum; }

  // How many bits a vector of so many numbers has on its way up, if it had `bits` before.
  virtual double bits(int64_t numbers, double bits) const {
    (void)numbers;
    return bits;
  }

  // On rank 0 after a round, of its clients: columns "<transform>.<name>" of /rounds.
  virtual Figures figures(const ServerState& server, std::span<const ClientRecord> records) const {
    (void)server, (void)records;
    return {};
  }
};

}  // namespace fl_sim
