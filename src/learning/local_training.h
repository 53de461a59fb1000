// Local epochs of mini-batch training for a group of clients.
//
// In each step: gradient of the mean loss over the client's batch; the algorithm's corrections;
// the optimiser's step (local_optimizer.h). Each client goes through its own samples in its own
// random order; the last batch of an epoch may be short. A client that has done its steps rests:
// nothing of its row changes any more.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/option_set.h"
#include "learning/batch_pass.h"
#include "learning/local_optimizer.h"
#include "network/row_part.h"

namespace fl_sim {

// How the local learning rate goes over the rounds.
struct RateOptions {
  double lr = 0;
  std::string schedule;  // "decay", "step" or "cosine"
  double decay = 1;
  int64_t step = 1;
  static const OptionSet<RateOptions> kOptions;
};

// A correction that is affine in the rows: gradient += pull * (rows - anchor) + shift. Said in this
// form, it can be folded into the kernels that update the weights.
struct AffineCorrection {
  double pull = 0;
  torch::Tensor anchor = {};  // [T], [1, T] or [G, T]; needed unless pull is 0
  torch::Tensor shift = {};   // likewise; undefined is 0

  ~AffineCorrection();  // elsewhere: g++ 12 warns of an inlined one, as if `shift` were not set
};

// One step of the A clients that still train, the group's first A. T is the length of the trainable
// part, P that of a row.
class LocalStep {
 public:
  int64_t index;              // 0, 1, ...
  int64_t clients;            // A
  double lr;                  // of this round
  const torch::Tensor whole;  // [A, P]
  const torch::Tensor rows;   // [A, T], the trainable part of it
  torch::Tensor gradients;    // [A, T], for a GradientHook to change in place

  // The same clients' rows of a tensor [G, n].
  torch::Tensor of(const torch::Tensor& per_client) const {
    return per_client.narrow(0, 0, clients);
  }

  // The gradient [A, T] of each client's mean loss at other rows [A, P], whose running statistics
  // it updates, on the step's batch; or on a batch of its own that LocalRule::more_batches has
  // asked for, 1, 2, ... Not from a loss hook: it would disturb the gradient that is under way.
  torch::Tensor gradient(const torch::Tensor& other_rows, int64_t batch = 0,
                         const LossRule& loss = {});

  // Scores of the step's batch at other rows [A, P], as in evaluation.
  Scored forward(const torch::Tensor& other_rows, bool representation = false);

 private:
  friend class LocalTraining;
  LocalStep(int64_t an_index, double a_rate, torch::Tensor all, torch::Tensor trainable,
            torch::Tensor their_gradients, std::vector<BatchPass>& passes)
      : index(an_index),
        clients(all.size(0)),
        lr(a_rate),
        whole(std::move(all)),
        rows(std::move(trainable)),
        gradients(std::move(their_gradients)),
        passes_(passes) {}
  std::vector<BatchPass>& passes_;
};
using GradientHook = std::function<void(LocalStep&)>;

// What distinguishes an algorithm's local training from plain SGD. At most one of `affine` and
// `gradient`.
struct LocalRule {
  AffineCorrection affine = {};
  // Taken from the rows, times lr, after each step of the optimiser: [G, T], undefined is 0.
  torch::Tensor displacement = {};
  // After the gradient has been computed, before clipping, weight decay and momentum.
  GradientHook gradient = {};
  // Where the gradient is taken, [A, P], if not at the rows themselves.
  std::function<torch::Tensor(LocalStep&)> at = {};
  // Changes the loss through its gradient by the scores.
  std::function<void(LocalStep&, Scored&)> loss = {};
  bool representation = false;  // whether `loss` reads or changes the representation's part
  // What stays as it was received.
  const RowPart* frozen = nullptr;
  // Instead of the job's.
  std::optional<int64_t> epochs = {}, steps = {};
  std::optional<double> lr = {};
  // Which stream orders the samples: trainings of one round that must not see the same batches
  // differ in it.
  std::string batches = "shuffle";
  int64_t more_batches = 0;  // further batches in each step, see LocalStep::gradient()
};

class LocalTraining {
 public:
  explicit LocalTraining(const Algorithm::Setup& setup);

  // Trains group.rows and returns the update: delta from the group's global model, steps and
  // losses.
  Update train(ClientGroup& group, const GlobalModel& global, const LocalRule& rule = {}) const;
  Update train(ClientGroup& group, const GlobalModel& global, const AffineCorrection& affine) const;

  // The velocities that clients keep, if the job says so (local.keep-momentum): where an
  // algorithm's own needs begin.
  Needs needs() const;

  double learning_rate(int64_t round) const;  // by local.lr-schedule
  int64_t trainable() const { return network_.layout().trainable(); }
  const LocalPlan& plan() const { return plan_; }
  const LocalOptimizer& optimizer() const { return optimizer_; }
  const Network& network() const { return network_; }

 private:
  Update run(ClientGroup& group, const GlobalModel& global, const LocalRule& rule,
             const std::vector<int64_t>& steps) const;
  Update run_sorted(ClientGroup& group, const GlobalModel& global, const LocalRule& rule,
                    const std::vector<int64_t>& steps) const;
  LocalPlan plan_for(const LocalRule& rule) const;

  const Network& network_;
  LocalPlan plan_;
  LocalOptimizer optimizer_;
  RateOptions rate_;
  int64_t rounds_;
  bool one_thread_;
  std::optional<torch::ScalarType> product_type_;
};

// The name in a client's state under which local.keep-momentum keeps the velocity.
inline constexpr const char* kMomentumState = "local.momentum";

}  // namespace fl_sim
