// Sub-models: a client trains a part of the units of each hidden layer, and is sent no more.
//
// A sub-model of rate r has ⌈r n⌉ of a hidden layer's n units, with their inputs of the layer
// before that it has; what goes into the network, and what comes out, is whole. In the rows [G, P]
// the numbers outside of it are 0: a unit that gives 0 and goes nowhere gets no gradient, so that
// training leaves it at 0, whatever the optimiser (networks with a Network::chain()). Real time is
// the whole model's therefore; virtual time and bytes are the sub-model's own.
//
// The server takes for each number the mean over those that trained it: with w_k the weights of the
// clients and S_j those whose sub-models have number j,
//
//   Δ_j = Σ_{k in S_j} w_k Δ_kj / Σ_{k in S_j} w_k, or 0 where nobody has it.
//
// That is the usual sum over clients, whose deltas are 0 outside, times a factor that the server
// computes: it knows who trained what, so that no masks travel.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/option_set.h"
#include "learning/local_training.h"

namespace fl_sim {

struct WidthOptions {
  std::string levels = "1", assign = "fix";
  bool scaler = false;
  static const OptionSet<WidthOptions> kOptions;
};

// A rate, and the share of clients that have it.
struct WidthLevel {
  double rate = 1, share = 1;
};

// "1:0.3, 0.25:0.7", or "1, 0.25" for equal shares, from the widest; shares sum to 1 in what is
// returned. Throws Error for anything else.
std::vector<WidthLevel> parse_width_levels(const std::string& text);

class SubModels {
 public:
  // A choice of `kept` of a hidden layer's units. `layer`: 0, 1, ...
  struct Choice {
    int64_t client, round, layer, units, kept;
  };
  struct Rule {
    std::string algorithm;  // whose they are
    // Which units, distinct numbers below Choice::units; the same for all clients of a rate in a
    // round unless `by_client`. Empty: the first ones.
    std::function<std::vector<int64_t>(const Choice&)> units = {};
    bool by_client = false;
  };

  // Throws Error if the job's network has no sub-models. It must outlive what is made here.
  SubModels(const Algorithm::Setup& setup, Rule rule);

  // Keys of the job that it reads, for PluginInfo::reads.
  static std::vector<std::string> keys(std::vector<std::string> more);

  const std::vector<WidthLevel>& levels() const { return levels_; }
  // Whether everybody trains the whole model.
  bool whole() const { return levels_.back().rate == 1; }
  size_t level_of(int64_t client, int64_t round) const;
  double rate_of(int64_t client, int64_t round) const {
    return levels_[level_of(client, round)].rate;
  }

  // Ones where the sub-model has a number, zeros elsewhere: [P].
  torch::Tensor mask(size_t level, int64_t client, int64_t round) const;
  // Of the group's clients: [G, P].
  torch::Tensor masks(const ClientGroup& group, int64_t round) const;

  // Trains the group's clients on their sub-models. Their deltas are 0 outside.
  // `loss`: as of LocalRule.
  Update train(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
               const std::function<void(LocalStep&, Scored&)>& loss = {}) const;
  // The same by a rule of the algorithm's own.
  Update train(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
               const LocalRule& rule) const;

  // From the mean over all clients the mean over those that trained each number, [1, P]. `outputs`,
  // where clients do not train all outputs: what share of the sum's weight each has, by level, [R,
  // outputs].
  torch::Tensor mean(const Sum& sum, const torch::Tensor& outputs = {}) const;
  int64_t outputs() const { return units_of(chain_.size() - 1); }

  // Of a sub-model, as shares of the whole model: multiplications of a forward pass, and numbers.
  double compute_share(size_t level) const { return compute_[level]; }
  double size_share(size_t level) const { return size_[level]; }
  TaskCost cost(int64_t client, int64_t round) const;

  // A hint where widths change nothing.
  std::vector<std::string> warnings() const;

 private:
  int64_t units_of(size_t layer) const;
  void assign(const Algorithm::Setup& setup);
  torch::Tensor scales(const ClientGroup& group, int64_t round) const;

  const Network& network_;
  const Rule rule_;
  const WidthOptions o_;
  const std::vector<WidthLevel> levels_;
  const std::vector<ChainLayer> chain_;
  const uint64_t seed_;
  std::vector<uint8_t> assigned_;  // levels of clients, by id, unless they are drawn in each round
  std::vector<double> compute_, size_;  // by level
};

}  // namespace fl_sim
