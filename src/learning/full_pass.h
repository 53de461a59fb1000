// Losses and gradients over all of a client's training samples, at given weights: what algorithms
// need beside mini-batches.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "learning/algorithm.h"

namespace fl_sim {

class FullPass {
 public:
  // Passes take `batch` samples at a time; 0 for what is fast.
  explicit FullPass(const Algorithm::Setup& setup, int64_t batch = 0);

  // The mean loss of each client of the group at its row of `rows` [G, P], or at their only row [1,
  // P]. 0 for a client without samples. Losses are of samples as they are, without augmentation and
  // noise.
  std::vector<double> losses(const ClientGroup& group, const torch::Tensor& rows) const;

  // [G, T] the gradients of these losses, of samples changed as in training. Dropout drops (from
  // the stream "gradient dropout"). Running statistics of `rows` stay as they are; what they become
  // goes to `statistics`, buffers of other rows [G, P], if that is defined.
  torch::Tensor gradients(const ClientGroup& group, const torch::Tensor& rows, int64_t round,
                          const torch::Tensor& statistics = {}) const;

  // [n] float64, the loss of each of a client's samples, in the order of its list.
  torch::Tensor sample_losses(const ClientGroup& group, int64_t k, const torch::Tensor& row) const;

 private:
  static constexpr int64_t kBatch = 50;         // on one core of a CPU
  static constexpr int64_t kLargeBatch = 1000;  // elsewhere
  int64_t batch(int64_t samples, bool direct) const;
  std::unique_ptr<DirectPass> direct_pass(const torch::Tensor& rows, int64_t batch) const;
  // The samples as the network sees them: with `streams` [1] changed as in training.
  torch::Tensor inputs(const ClientData& data, const torch::Tensor& indices,
                       torch::ScalarType dtype, int64_t client, std::vector<Rng>* streams) const;
  void load(DirectPass& direct, const ClientData& data, std::span<const int64_t> piece,
            int64_t client, std::vector<Rng>* streams) const;

  const Network& network_;
  int64_t batch_;
  bool one_thread_;
  std::optional<torch::ScalarType> product_type_;
};

}  // namespace fl_sim
