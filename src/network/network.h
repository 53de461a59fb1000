// A network as a pure function of rows of weights and of a batch.
//
// G clients train side by side: their weights are rows [G, P], and a batch stacks their samples in
// the channel axis, [B, G·C, H, W] or [B, G·F], so that for one client every tensor is what PyTorch
// users know, and for several a convolution becomes a grouped one and element-wise functions stay
// as they are. A model file reads like a torch::nn module: members are layers (layers.h), forward()
// strings them together.
#pragma once

#include <torch/types.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/job.h"
#include "base/registry.h"
#include "base/rng.h"
#include "network/objective.h"
#include "network/parameter_layout.h"

namespace fl_sim {

// The weights of a forward pass: views of rows, one per parameter. The rows' memory is shared, not
// copied.
class Weights {
 public:
  // To evaluate: rows [G, P].
  Weights(const ParameterLayout& layout, const torch::Tensor& rows)
      : Weights(layout, rows, torch::Tensor(), false) {}

  // To train: each trainable view is an autograd leaf of its own, whose gradient backward() writes
  // into `gradients` [G, trainable part]. Dropout drops, and batch normalisation uses the batch's
  // statistics and updates the running ones.
  Weights(const ParameterLayout& layout, const torch::Tensor& rows, const torch::Tensor& gradients)
      : Weights(layout, rows, gradients, true) {}

  // To train with descend() alone: without gradient rows.
  static Weights for_descent(const ParameterLayout& layout, const torch::Tensor& rows) {
    return Weights(layout, rows, torch::Tensor(), true);
  }

  int64_t clients() const { return clients_; }
  bool training() const { return training_; }

  // A parameter: [shape...] for one client, [G, shape...] for several.
  const torch::Tensor& operator[](int64_t index) const {
    return views_[static_cast<size_t>(index)];
  }

  // The gradient of `loss`, a scalar computed with these weights, into the gradient rows.
  void backward(const torch::Tensor& loss) const;

  // weights -= lr * gradient of `loss`, without a detour through the gradient rows.
  void descend(const torch::Tensor& loss, double lr) const;

  // A short batch: how many of its B samples are real for each client, and the same as a mask [B,
  // G] of ones and zeros. Empty and undefined where every sample is real.
  std::vector<int64_t> counts = {};
  torch::Tensor mask = {};

  // The type that layers multiply in, if it is not the rows'.
  std::optional<torch::ScalarType> product_type = {};

  // A stream per client, for dropout and the like; each draws for its own row only.
  std::span<Rng> streams = {};

 private:
  Weights(const ParameterLayout& layout, const torch::Tensor& rows, const torch::Tensor& gradients,
          bool training);

  int64_t clients_;
  bool training_;
  std::vector<torch::Tensor> views_;
  std::vector<torch::Tensor> leaves_;          // those of views_ that are trainable
  std::vector<torch::Tensor> leaf_gradients_;  // where each leaf's gradient goes
};

class DirectPass;

// Plug-ins live in src/plugins/models/.
class Network {
 public:
  static constexpr const char* kKind = "model";
  struct Setup {
    const Job& job;
    std::string argument;              // what stands behind the colon of `model = name:argument`
    std::vector<int64_t> input_shape;  // of one sample, as the dataset gives it: [1, 28, 28]
    int64_t outputs;                   // numbers to predict at a position: classes, or 1
    int64_t positions = 1;             // T, where samples are sequences with a label at each
  };

  virtual ~Network() = default;

  const ParameterLayout& layout() const { return layout_; }

  // x [B, G·C, H, W] or [B, G·F], stacked as said above; returns [B, G·outputs], or [B,
  // G·T·outputs] for sequences, client by client, position by position.
  virtual torch::Tensor forward(const Weights& weights, torch::Tensor x) const = 0;

  // Whether the network names a representation: the input of its head.
  virtual bool has_representation() const { return false; }
  // forward() in two halves: the representation [B, G·R] of x, and the result of the head for it.
  virtual torch::Tensor represent(const Weights& weights, torch::Tensor x) const;
  virtual torch::Tensor classify(const Weights& weights, const torch::Tensor& representation) const;

  // What the model is trained for, and at how many positions T of a sample: cross-entropy at one,
  // unless set otherwise before the first use.
  const Objective& objective() const { return objective_; }
  int64_t positions() const { return positions_; }
  void set_objective(Objective objective, int64_t positions) {
    objective_ = std::move(objective);
    positions_ = positions;
  }

  // Loss of each sample, [B, G], from forward()'s result and labels [B, G] or [B, G, T] int64: the
  // objective's unless overridden.
  virtual torch::Tensor loss(const torch::Tensor& output, const torch::Tensor& labels) const;

  // The names of the parameters that make the head; the rest is the body. Unless overridden, those
  // that share the last trainable parameter's prefix: the last layer's.
  virtual std::vector<std::string> head() const;

  // The numbers that a new model starts with: a row [P] float32.
  virtual torch::Tensor initial_row(Rng& rng) const { return layout_.initial_row(rng); }

  // Whether forward() takes more than one client at a time.
  virtual bool stackable() const { return true; }

  // Whether forward() heeds Weights::product_type, as layers do.
  virtual bool mixed_precision() const { return true; }

  // The faster way for one client in float32 on one core of a CPU, for batches of up to
  // `batch_size`; null if there is none. See direct_pass.h, and Sequential, which has it.
  virtual std::unique_ptr<DirectPass> direct_pass(int64_t batch_size) const;

 protected:
  ParameterLayout layout_;

 private:
  Objective objective_;
  int64_t positions_ = 1;
};

// Runs one batch of zeros through the network. Throws Error, naming the model, if it does not fit
// data of that shape.
void check_network(const Network& network, const std::string& name,
                   const std::vector<int64_t>& input_shape, int64_t outputs, int64_t positions = 1);

// Puts samples [B·G, shape...], ordered by sample then client, into the form that forward() takes.
torch::Tensor stack_inputs(const torch::Tensor& inputs, int64_t clients);

}  // namespace fl_sim
