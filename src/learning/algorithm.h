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

#include "base/job.h"
#include "base/registry.h"
#include "data/dataset.h"
#include "data/input_changes.h"
#include "data/partitioner.h"
#include "learning/records.h"
#include "network/network.h"
#include "network/row_part.h"

namespace fl_sim {

// Named tensors. A std::map, so that every rank walks it in the same order.
using State = std::map<std::string, torch::Tensor>;

// Names and lengths of vectors.
using VectorSizes = std::map<std::string, int64_t>;

// What clients receive.
struct GlobalModel {
  int64_t round = 0;      // the round that is under way: 1, 2, ...
  int64_t exchange = 0;   // and which of its exchanges, see Algorithm::exchanges()
  torch::Tensor weights;  // [M, P]; M is 1 unless Algorithm::models() says otherwise
  State shared;           // further tensors for the clients

  torch::Tensor model(int64_t index) const { return weights.narrow(0, index, 1); }  // [1, P]
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
  const InputChanges* changes = nullptr;  // null: inputs are as they are

  bool changes_inputs() const { return changes != nullptr && changes->training(); }
};

// G clients that train as one batched computation, those with the most steps first.
struct ClientGroup {
  std::vector<int64_t> ids;
  const ClientData& data;
  uint64_t seed = 0;
  // [G, P], a copy of the group's global model for each; training changes them in place.
  torch::Tensor rows = {};
  // What the clients keep between rounds, [G, n] each: zeros before a client's first round.
  State state = {};
  // Whether it is a client's first round: it has no state yet.
  std::vector<bool> fresh = {};
  // Stragglers: at most so many local epochs (or steps, if the job counts in steps), 0 for as many
  // as the job says. Empty: there are none.
  std::vector<int64_t> limits = {};
  // Which of the global models the clients were dealt: 0 but in lanes, see Algorithm::lanes().
  int64_t model = 0;

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t limit(int64_t k) const { return limits.empty() ? 0 : limits[static_cast<size_t>(k)]; }
};

// What a group returns. Vectors are per client, [G, n]; the engine weighs and sums them.
struct Update {
  // [G, P], trained - received, buffers included. What a client keeps to itself is 0.
  torch::Tensor delta;
  // Further vectors to be summed, as additive() declares them.
  State extra = {};
  // The clients' new state, as client_state() declares it; kept only if the update is accepted.
  State state = {};
  // Numbers per client for the server and the results, as scalars() declares them.
  std::map<std::string, std::vector<double>> scalars = {};
  // Which global model each client trained; empty: the group's.
  std::vector<int64_t> model = {};
  // The clients' weights, if the algorithm sets them; all of a cohort's must sum to at most 1.
  // Empty: the job's weighting.
  std::vector<double> weight = {};

  // Of local training, per client; losses as in ClientRecord. step_weight is the sum of the weights
  // that a client's gradients have in its delta, ||a_k||_1 (Wang et al. 2020): K_k without
  // momentum.
  std::vector<int64_t> steps = {};
  std::vector<double> step_weight = {};
  std::vector<double> loss = {}, loss_before = {}, loss_after = {};
  std::vector<int64_t> samples_seen = {};
  std::vector<double> delta_norm = {};  // l2 of the trainable part, as trained
};

// What the server gets: means over the accepted clients, weighted by p_k.
struct Sum {
  int64_t lane = 0;
  torch::Tensor delta;                     // [M, P]: per model, over the clients that trained it
  std::vector<double> weight;              // [M] the sum of their p_k; 0: nobody did
  State extra;                             // [n] each, over all clients
  int64_t clients = 0;                     // accepted
  int64_t samples = 0;                     // that they hold
  std::vector<ClientRecord> records = {};  // of the whole cohort, in its order
  std::map<std::string, int64_t> scalar_index = {};  // name -> column of ClientRecord::scalars
  // [m, m] float64: inner products of the trainable parts of the clients' deltas, in the order of
  // records, 0 for clients that were not accepted; defined if wants_products() asked for it.
  torch::Tensor products = {};

  double scalar(const ClientRecord& record, const std::string& name) const {
    return record.scalars[static_cast<size_t>(scalar_index.at(name))];
  }
};

// A client's own model, for evaluation: one row, or several whose predicted probabilities are
// averaged.
struct PersonalModel {
  std::vector<torch::Tensor> rows;  // [P] each
  std::vector<double> weights;      // of each row, sum 1; empty for a single one
};

class Algorithm {
 public:
  static constexpr const char* kKind = "algorithm";
  struct Setup {
    const Job& job;
    const Network& network;
    int64_t clients;  // N, those that may train; their ids are below clients + holdout-clients
    int64_t samples;  // that they hold
  };

  virtual ~Algorithm() = default;

  // The vectors of length n that a client keeps, and those that it returns beside the delta.
  virtual VectorSizes client_state() const { return {}; }
  virtual VectorSizes additive() const { return {}; }

  // Numbers that a client returns, at most ClientRecord::kScalars: columns of /clients.
  virtual std::vector<std::string> scalars() const { return {}; }

  // How many times in a round clients and server talk: train() and aggregate() are called for each,
  // with GlobalModel::exchange 0, 1, ...; the model and `shared` are sent again before each.
  virtual int64_t exchanges() const { return 1; }

  // M, the number of global models, and whether they start with different random weights.
  virtual int64_t models() const { return 1; }
  virtual bool distinct_models() const { return false; }

  // For the count of bytes: how many of the models a client receives, and what of a model it keeps
  // to itself, which is neither sent nor returned.
  virtual int64_t models_received() const { return models() / lanes(); }
  virtual RowPart not_sent() const { return {}; }

  // Cohorts of a round that train apart, each with ranks of its own and a sum of its own, so that
  // the server aggregates one while the others train. With more than one, lane i trains model i.
  virtual int64_t lanes() const { return 1; }

  // Whether one client with everybody's samples trains, as many steps as the cohort would.
  virtual bool pooled() const { return false; }

  // On every rank before round 1: makes the tensors of `shared` and `hidden`, of the shape and type
  // of the weights, whose values are there on rank 0 only.
  virtual void init(ServerState& server) const { (void)server; }

  // On the client.
  virtual Update train(ClientGroup& group, const GlobalModel& global) const = 0;

  // On the server; not called for a sum without accepted clients.
  virtual void aggregate(ServerState& server, const Sum& sum) const = 0;

  // On the server, after the last lane of the last exchange. `records` are the round's.
  virtual void end_round(ServerState& server, const std::vector<ClientRecord>& records) const {
    (void)server, (void)records;
  }

  // Whether hosts keep the round's deltas until aggregate(), and whether the server then wants
  // their inner products (Sum::products), which costs a second exchange of all deltas.
  virtual bool keeps_deltas() const { return false; }
  virtual bool wants_products(const ServerState& server, const Sum& sum) const {
    (void)server, (void)sum;
    return false;
  }

  // Whether clients have models of their own, and which, for evaluation: of each client of a group,
  // whose rows are copies of the global model. Nothing that is kept may change.
  virtual bool personal() const { return false; }
  virtual std::vector<PersonalModel> personalize(ClientGroup& group,
                                                 const GlobalModel& global) const {
    (void)group, (void)global;
    return {};
  }

  // What a user should know of this job before it runs, a line each: a setting that has no effect.
  virtual std::vector<std::string> warnings() const { return {}; }
};

}  // namespace fl_sim
