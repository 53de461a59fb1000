// A federated algorithm: what a client does with the model it receives, and what the server does
// with the sum of what clients return.
//
// Both halves are const: all change is in the arguments. What a client returns is additive, so that
// a round costs one reduction, however many clients take part. Plug-ins live in algorithms/;
// fedavg.cpp is the one to read first.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "dataset.h"
#include "job.h"
#include "network.h"
#include "partitioner.h"
#include "records.h"
#include "registry.h"

namespace fl_sim {

// Named tensors. A std::map, so that every rank walks it in the same order.
using State = std::map<std::string, torch::Tensor>;

// Names and lengths of vectors.
using VectorSizes = std::map<std::string, int64_t>;

// What clients receive.
struct GlobalModel {
  int64_t round = 0;      // the round that is under way: 1, 2, ...
  torch::Tensor weights;  // [1, P]
  State shared;           // further tensors for the clients
};

// With it, what the server keeps to itself.
struct ServerState : GlobalModel {
  State hidden;
};

// Every client's samples, on the device where it trains.
struct ClientData {
  Samples train;
  double scale = 1, shift = 0;  // of inputs, see Dataset
  const Partition* partition = nullptr;
};

// G clients that train as one batched computation, those with the most steps first.
struct ClientGroup {
  std::vector<int64_t> ids;
  const ClientData& data;
  uint64_t seed = 0;
  // [G, P], a copy of the global weights for each; training changes them in place.
  torch::Tensor rows = {};
  // What the clients keep between rounds, [G, n] each: zeros before a client's first round.
  State state = {};

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// What a group returns. Vectors are per client, [G, n]; the engine weighs and sums them.
struct Update {
  // [G, P], trained - received, buffers included.
  torch::Tensor delta;
  // Further vectors to be summed, as additive() declares them.
  State extra = {};
  // The clients' new state, as client_state() declares it; kept only if the update is accepted.
  State state = {};

  // Of local training, per client; losses as in ClientRecord. step_weight is the sum of the weights
  // that a client's gradients have in its delta, ||a_k||_1 (Wang et al. 2020): K_k without
  // momentum.
  std::vector<int64_t> steps = {};
  std::vector<double> step_weight = {};
  std::vector<double> loss = {}, loss_before = {}, loss_after = {};
  std::vector<int64_t> samples_seen = {};
};

// What the server gets: means over the accepted clients, weighted by p_k.
struct Sum {
  torch::Tensor delta;                // [1, P]
  State extra;                        // [n] each
  int64_t clients = 0;                // accepted
  int64_t samples = 0;                // that they hold
  std::vector<ClientRecord> records;  // of the whole cohort, in its order
};

class Algorithm {
 public:
  static constexpr const char* kKind = "algorithm";
  struct Setup {
    const Job& job;
    const Network& network;
    int64_t clients;  // N, the population
    int64_t samples;  // that the population holds
  };

  virtual ~Algorithm() = default;

  // The vectors of length n that a client keeps, and those that it returns beside the delta.
  virtual VectorSizes client_state() const { return {}; }
  virtual VectorSizes additive() const { return {}; }

  // On every rank before round 1: makes the tensors of `shared` and `hidden`, of the shape and type
  // of the weights, whose values are there on rank 0 only.
  virtual void init(ServerState& server) const { (void)server; }

  // On the client.
  virtual Update train(ClientGroup& group, const GlobalModel& global) const = 0;

  // On the server; not called in a round without accepted clients.
  virtual void aggregate(ServerState& server, const Sum& sum) const = 0;
};

}  // namespace fl_sim
