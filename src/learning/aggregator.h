// What the server makes of the clients' updates where a weighted mean will not do: robust rules.
//
// Plug-ins live in src/plugins/aggregators/. Hosts keep the round's rows, after the transforms; the
// rows meet block by block of coordinates, each block on one rank, so that no rank ever holds a
// pile of models. What is combined is the whole of what a client returns: its delta with the
// buffers, and the algorithm's further vectors, as coordinates behind it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "learning/algorithm.h"

namespace fl_sim {

class Aggregator {
 public:
  static constexpr const char* kKind = "aggregator";
  struct Setup {
    const Job& job;
    const Network& network;
  };

  virtual ~Aggregator() = default;

  // Whether it wants the clients' rows; the weighted mean does not, which costs one reduction.
  virtual bool sees_clients() const { return true; }

  // The fewest clients that the rule works with. With fewer the model stays as it is, and the round
  // has failed.
  virtual int64_t fewest() const { return 1; }

  // Whether it takes account of the clients' weights p_k, which only choose() is told. A rule that
  // does not counts every client once, and is refused for jobs, samplers and algorithms that weigh.
  virtual bool weighs() const { return needs_products(); }

  // Why it cannot work with an algorithm of these needs, "…, which …"; empty: it can.
  virtual std::string obstacle(const Needs& needs) const {
    if (needs.pooled) return "which has no clients whose updates could be told apart";
    if (needs.lanes > 1) return "which trains cohorts apart, each with a sum of its own";
    if (needs.keeps_deltas) return "which compares the clients' updates itself";
    if (needs.sets_weights && !weighs()) return "which weighs its clients itself";
    if (needs.parts) return "whose clients train parts of the model: an update is 0 elsewhere";
    return "";
  }

  // Whether the rule chooses by inner products: then rank 0 learns those of the trainable parts,
  // [m, m] float64, clients ascending, and makes q rows of the clients' m: [q, m] float64, rounded
  // to float32 before use; each row of the result is divided by the sum of its weights. q = 1 is
  // the aggregate. `weights` [m] are the clients' p_k.
  virtual bool needs_products() const { return false; }
  virtual torch::Tensor choose(const torch::Tensor& products, const torch::Tensor& weights) const {
    (void)products;
    return weights.unsqueeze(0);
  }

  // Whether it takes updates that started from several versions of the model, which asynchronous
  // runs have. It is told then how many versions were made since each was begun, `staleness` [m]
  // float64, and weighs staleness itself.
  virtual bool takes_stale() const { return false; }
  virtual torch::Tensor choose_stale(const torch::Tensor& products, const torch::Tensor& weights,
                                     const torch::Tensor& staleness) const {
    (void)staleness;
    return choose(products, weights);
  }

  // On any rank, for a block of coordinates: rows [q, n] float64, those that choose() made, or the
  // clients' own, ascending by id -> [n] float64.
  virtual torch::Tensor combine(const torch::Tensor& rows) const { return rows[0]; }
};

}  // namespace fl_sim
