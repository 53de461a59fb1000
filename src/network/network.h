// A network as a pure function of rows of weights and of a batch.
//
// G clients train side by side: their weights are rows [G, P], and a batch stacks their samples in
// the channel axis, [B, G·C, H, W] or [B, G·F], so that for one client every tensor is what PyTorch
// users know, and for several a convolution becomes a grouped one and element-wise functions stay
// as they are. A model file reads like a torch::nn module: members are layers (layers.h), forward()
// strings them together.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/job.h"
#include "base/registry.h"
#include "base/rng.h"
#include "network/objective.h"
#include "network/parameter_layout.h"
#include "network/weights.h"

namespace fl_sim {

class DirectPass;

// A forward pass that fails, with what is wrong in a line of its own.
class ForwardError : public Error {
 public:
  ForwardError(const std::string& what, std::string reason)
      : Error(what), reason_(std::move(reason)) {}
  const std::string& reason() const { return reason_; }

 private:
  std::string reason_;
};

// A linear or convolutional layer of a chain, see Network::chain(): indices of the layout.
struct ChainLayer {
  int64_t weight = 0;  // [out, in] or [out, in, kernel, kernel]
  int64_t bias = -1;   // [out]; -1: none
  int64_t places = 1;  // where a sample meets it: once, or at each pixel of the output
};

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

  // The layers, where each takes what the one before gives, with nothing but functions between
  // that make 0 of 0, each of its own unit: then units of hidden layers can be left out, see
  // learning/sub_models.h. They have all of the parameters. Empty: it is no such chain.
  virtual std::vector<ChainLayer> chain() const { return {}; }

  // The numbers that a new model starts with: a row [P] float32.
  virtual torch::Tensor initial_row(Rng& rng) const { return layout_.initial_row(rng); }

  // Whether forward() takes more than one client at a time.
  virtual bool stackable() const { return true; }

  // Whether forward() heeds Weights::product_type, as layers do.
  virtual bool mixed_precision() const { return true; }

  // Whether forward() is somebody else's code, which is tried on some samples before the first
  // round (engine/model_trial.h).
  virtual bool foreign() const { return false; }
  // What a user should know of such a network, a line each, at weights `row` [P] and samples x [B,
  // ...] as forward() takes them.
  virtual std::vector<std::string> findings(const torch::Tensor& row, const torch::Tensor& x) const;

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
