// A federated algorithm: what a client does with the model it receives, and what the server does
// with the sum of what clients return.
//
// Both halves are const: all change is in the arguments. What a client returns is additive, so that
// a round costs one reduction, however many clients take part. Plug-ins live in algorithms/;
// fedavg.cpp is the one to read first.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
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

// Named numbers of a round: columns of /rounds.
using Figures = std::map<std::string, double>;

// What clients receive.
struct GlobalModel {
  int64_t round = 0;      // the round that is under way: 1, 2, ...
  int64_t exchange = 0;   // and which of its exchanges, see Needs::exchanges
  torch::Tensor weights;  // [M, P]; M is 1 unless Needs::models says otherwise
  State shared;           // further tensors for the clients

  // [1, P]: a view, as narrow() and [] are. What is here stays as it is while clients train: a
  // change in place would reach the clients behind, and is an error.
  torch::Tensor model(int64_t index) const { return weights.narrow(0, index, 1); }
};

// With it, what the server keeps to itself: the algorithm, and what stands around it (the sampler,
// the transforms), each its own tensors. Names, shapes and types of all of them are those that
// init() made: other ranks and checkpoints count on them.
struct ServerState : GlobalModel {
  State hidden;
  State memory = {};
  // Of an asynchronous run: former versions of the model that tasks under way have started from, by
  // number; 0 is the initial one. Theirs is the engine.
  std::map<int64_t, GlobalModel> versions = {};
  // Of an asynchronous run whose sampler learns: of each of its draws so far how many it drew, and
  // whom. With that the engine finds again who is under way.
  std::vector<int64_t> drawn = {};
};

// What an algorithm asks of the engine. A wrapper copies that of the algorithm inside as a whole
// and changes what it changes.
struct Needs {
  // Names and lengths n of the vectors that a client keeps between rounds, and of those that it
  // returns beside the delta, to be summed; of the model's type, float32 unless the job says
  // otherwise.
  VectorSizes client_state = {}, additive = {};
  // Names of numbers that a client returns, ClientOutcome::scalars, eight at most with those of the
  // transforms: columns of /clients, called as here (a transform's are "<transform>.<name>").
  std::vector<std::string> scalars = {};
  // How many times in a round clients and server talk: train() and aggregate() are called for each,
  // with GlobalModel::exchange 0, 1, ...; the model and `shared` are sent again before each.
  int64_t exchanges = 1;
  int64_t models = 1;            // M, the number of global models
  bool distinct_models = false;  // they start with different random weights
  // Cohorts of a round that train apart, each with ranks of its own and a sum of its own, so that
  // the server aggregates one while the others train. With more than one, lane i trains model i.
  int64_t lanes = 1;
  // For the count of bytes: how many of the models a client receives (0: those of its lane), and
  // what of a model it keeps to itself, which is neither sent nor returned.
  int64_t models_received = 0;
  RowPart not_sent = {};
  bool pooled = false;    // one client with everybody's samples trains, as long as the cohort would
  bool personal = false;  // clients have models of their own, see Algorithm::personalize()
  bool sets_weights = false;  // its clients' weights are its own, ClientOutcome::weight
  bool parts =
      false;  // clients train parts of the model: deltas are 0 where somebody trains nothing
  // The server's step follows the length of each client's delta, ClientOutcome::sent_norm.
  bool follows_norms = false;
  bool splits_models = false;  // a model may become two
  bool keeps_deltas = false;   // hosts keep the round's deltas until aggregate()
  // Why rounds would have been others from the first one on if the job had more of them:
  // "local.lr-schedule is cosine". Empty: a run may be prolonged.
  std::string follows_length = {};
  // What is evaluated, and saved as the result, is not `weights` but Algorithm::evaluated().
  bool evaluates_apart = false;

  int64_t models_in_lane() const { return models / lanes; }
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
  // Which of the global models the clients were dealt: 0 but in lanes, see Needs::lanes.
  int64_t model = 0;
  bool squared_losses = false;  // whether ClientOutcome::squared_loss is asked for

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t limit(int64_t k) const { return limits.empty() ? 0 : limits[static_cast<size_t>(k)]; }
};

// What a group returns. Vectors are per client, [G, n]; the engine weighs and sums them.
struct Update {
  // [G, P], trained - received, buffers included. What a client keeps to itself is 0.
  torch::Tensor delta;
  State extra = {};  // further vectors to be summed: all that Needs::additive declares
  // The clients' new state, of what Needs::client_state declares; kept only if the update is
  // accepted. What is not returned stays as it was.
  State state = {};
  std::vector<ClientOutcome> clients = {};  // [G]

  // Their delta_norm: the l2 norms of the first `trainable` numbers of the rows of `moved`, [G, P].
  void set_delta_norms(const torch::Tensor& moved, int64_t trainable) {
    const torch::Tensor norms = moved.narrow(1, 0, trainable).norm(2, 1).to(torch::kFloat64).cpu();
    for (size_t k = 0; k < clients.size(); ++k)
      clients[k].delta_norm = norms[static_cast<int64_t>(k)].item<double>();
  }
};

// What the server gets: means over the accepted clients, weighted by p_k.
struct Sum {
  int64_t lane = 0;
  torch::Tensor delta;         // [M, P]: per model, over the clients that trained it
  std::vector<double> weight;  // [M] the sum of their p_k; 0: nobody did
  State extra;                 // [n] each, over all clients
  int64_t clients = 0;         // accepted
  int64_t samples = 0;         // that they hold
  // Of an asynchronous run: what its protocol says of the version (Course::make_version), such as
  // the tier that makes it.
  int64_t part = 0;
  std::vector<ClientRecord> records = {};            // of the whole cohort, in its order
  std::map<std::string, int64_t> scalar_index = {};  // name -> place in ClientOutcome::scalars
  // [m, m] float64: inner products of the trainable parts of the clients' deltas, in the order of
  // records, 0 for clients that were not accepted; defined if wants_products() asked for it.
  torch::Tensor products = {};

  double scalar(const ClientRecord& record, const std::string& name) const {
    return record.scalars[static_cast<size_t>(scalar_index.at(name))];
  }
};

// What a client's task takes beside that of a client that does the job's local steps with the whole
// model, for the counts of bytes and for virtual time. Real time may differ.
struct TaskCost {
  double steps = 1;         // how often it does its local steps in an exchange
  double compute = 1;       // of such a step
  double down = 1, up = 1;  // of the bytes
  // How often it goes through all its samples in a round beside that, with gradients and without.
  double full_gradients = 0, full_losses = 0;
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
    // The seconds per sample of each client's device, by id, where the job has devices; for the
    // constructor only.
    std::function<std::vector<double>()> client_speeds = {};
  };

  virtual ~Algorithm() = default;

  // What it asks of the engine: the same whenever it is asked.
  virtual Needs needs() const { return {}; }

  // On every rank before round 1: makes the tensors of `shared` and `hidden`, of the shape and type
  // of the weights, whose values are there on rank 0 only.
  virtual void init(ServerState& server) const { (void)server; }

  // On the client.
  virtual Update train(ClientGroup& group, const GlobalModel& global) const = 0;

  // What the client's task of this round takes, by the job alone. On rank 0.
  virtual TaskCost task_cost(int64_t client, int64_t round) const {
    (void)client, (void)round;
    return {};
  }

  // On the server; not called for a sum without accepted clients.
  virtual void aggregate(ServerState& server, const Sum& sum) const = 0;

  // On the server, after the last lane of the last exchange. `records` are the round's.
  virtual void end_round(ServerState& server, const std::vector<ClientRecord>& records) const {
    (void)server, (void)records;
  }

  // Where it says so (Needs::evaluates_apart): the models [E, P] to be evaluated and saved. On rank
  // 0.
  virtual torch::Tensor evaluated(const ServerState& server) const { return server.weights; }

  // Where deltas are kept (Needs::keeps_deltas): whether the server wants their inner products
  // (Sum::products), which costs a second exchange of all deltas.
  virtual bool wants_products(const ServerState& server, const Sum& sum) const {
    (void)server, (void)sum;
    return false;
  }

  // Where clients have models of their own (Needs::personal): those of each client of a group,
  // whose rows are copies of the global model, for evaluation. Nothing that is kept may change.
  virtual std::vector<PersonalModel> personalize(ClientGroup& group,
                                                 const GlobalModel& global) const {
    (void)group, (void)global;
    return {};
  }

  // On rank 0 after a round, of its clients: columns of /rounds.
  virtual Figures figures(const ServerState& server,
                          const std::vector<ClientRecord>& records) const {
    (void)server, (void)records;
    return {};
  }

  // What a user should know of this job before it runs, a line each: a setting that has no effect.
  virtual std::vector<std::string> warnings() const { return {}; }
};

}  // namespace fl_sim
