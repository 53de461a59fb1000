// Layers on trial: a batch of random samples for one client or a stack, with short batches where
// wanted; outputs, gradients and running statistics of a training pass.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "network/layers.h"
#include "network/network.h"

namespace fl_sim {

// A network of one layer.
template <class Layer>
class One final : public Network {
 public:
  template <class... Arguments>
  explicit One(Arguments... arguments) : layer_(layout_, "layer", arguments...) {}
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return layer_(weights, x);
  }

 private:
  Layer layer_;
};

inline torch::Tensor normal(const std::vector<int64_t>& sizes, uint64_t seed) {
  torch::Generator generator = torch::make_generator<torch::CPUGeneratorImpl>(seed);
  return torch::randn(sizes, generator, torch::kFloat64);
}

inline double largest(const torch::Tensor& tensor) { return tensor.abs().max().item<double>(); }

// A batch for G clients, of which client c has counts[c] real samples, and their rows.
struct Trial {
  const Network& network;
  std::vector<int64_t> counts;
  torch::Tensor rows;     // [G, P]
  torch::Tensor samples;  // [B, G, shape...]

  Trial(const Network& a_network, std::vector<int64_t> real, const std::vector<int64_t>& shape)
      : network(a_network), counts(std::move(real)) {
    // Random numbers everywhere, variances positive.
    rows = normal({clients(), network.layout().row()}, 1) / 2;
    const int64_t trainable = network.layout().trainable();
    rows.narrow(1, trainable, rows.size(1) - trainable).abs_().add_(0.5);
    std::vector<int64_t> sizes = {*std::max_element(counts.begin(), counts.end()), clients()};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    samples = normal(sizes, 2);
  }

  // With rows and samples of the caller's.
  Trial(const Network& a_network, std::vector<int64_t> real, torch::Tensor the_rows,
        torch::Tensor the_samples)
      : network(a_network),
        counts(std::move(real)),
        rows(std::move(the_rows)),
        samples(std::move(the_samples)) {}

  int64_t clients() const { return static_cast<int64_t>(counts.size()); }
  int64_t batch() const { return samples.size(0); }

  // [B, G] ones for real samples.
  torch::Tensor mask() const {
    return torch::arange(batch()).unsqueeze(1).lt(torch::tensor(counts)).to(torch::kFloat64);
  }

  struct Result {
    torch::Tensor output;     // [B, G, ...], of real samples only
    torch::Tensor rows;       // [G, P] with the running statistics as they are now
    torch::Tensor gradients;  // [G, trainable], of sum(output * fixed random numbers)
    torch::Tensor inputs;     // and for the samples; undefined where they are codes
    double loss = 0;
  };
  Result train() const {
    Result result;
    result.rows = rows.clone();
    // The gaps between parameters are nobody's; everything else has to be overwritten.
    const ParameterLayout& layout = network.layout();
    result.gradients = torch::zeros({clients(), layout.trainable()}, torch::kFloat64);
    for (size_t i = 0; i < layout.parameters().size(); ++i) {
      if (!layout.parameters()[i].trainable) continue;
      layout.view(result.gradients, static_cast<int64_t>(i)).fill_(99);
    }
    Weights weights(network.layout(), result.rows, result.gradients);
    std::vector<Rng> streams;
    for (int64_t c = 0; c < clients(); ++c)
      streams.emplace_back(1, "dropout", 1, first_client_ + c);
    weights.streams = streams;
    if (*std::min_element(counts.begin(), counts.end()) < batch()) {
      weights.counts = counts;
      weights.mask = mask();
    }
    const torch::Tensor x = samples.clone().set_requires_grad(true);
    const torch::Tensor output = split(network.forward(weights, stacked(x)));
    const torch::Tensor real = mask().view({batch(), clients(), 1});
    result.output = (output.flatten(2) * real).detach();
    // Sample and client have coefficients of their own, the same for every stack.
    const torch::Tensor loss = (output.flatten(2) * real * coefficients(output.flatten(2))).sum();
    result.loss = loss.item<double>();
    result.inputs = torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true,
                                          /*create_graph=*/false, /*allow_unused=*/true)[0];
    weights.backward(loss);
    return result;
  }
  torch::Tensor evaluate() const {
    return split(network.forward(Weights(network.layout(), rows), stacked(samples)));
  }

  // Client c alone, with its real samples.
  Trial alone(int64_t c) const {
    Trial trial = *this;
    trial.counts = {counts[static_cast<size_t>(c)]};
    trial.rows = rows.narrow(0, c, 1).clone();
    trial.samples = samples.narrow(1, c, 1).narrow(0, 0, trial.counts[0]).clone();
    trial.first_client_ = first_client_ + c;
    return trial;
  }

 private:
  torch::Tensor stacked(const torch::Tensor& x) const {
    return stack_inputs(x.flatten(0, 1), clients());
  }
  torch::Tensor split(const torch::Tensor& output) const {
    std::vector<int64_t> sizes = output.sizes().vec();
    sizes[1] /= clients();
    sizes.insert(sizes.begin() + 1, clients());
    return output.reshape(sizes);
  }
  torch::Tensor coefficients(const torch::Tensor& output) const {
    return normal({8, 8, output.size(2)}, 3)
        .narrow(0, 0, batch())
        .narrow(1, first_client_, clients());
  }

  int64_t first_client_ = 0;
};

}  // namespace fl_sim
