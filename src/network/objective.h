// What models are trained for: the loss of a sample, and what a model's scores say of its label.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fl_sim {

class Objective {
 public:
  enum class Kind {
    kCrossEntropy,  // C scores; -log softmax(scores)[label]
    kBinary,        // one score s; log(1 + exp(s)) - label * s
    kSquared        // one score s; (s - value of the label)^2
  };

  // Cross-entropy.
  Objective() = default;
  // `values` [classes]: the numbers that labels stand for, for squared errors; empty: themselves.
  explicit Objective(Kind kind, std::vector<double> values = {})
      : kind_(kind), values_(std::move(values)) {}

  Kind kind() const { return kind_; }
  // Scores at a position.
  int64_t outputs(int64_t classes) const { return kind_ == Kind::kCrossEntropy ? classes : 1; }
  // Whether a score means a class: what accuracies are defined for.
  bool classifies() const { return kind_ != Kind::kSquared; }

  // [B, G], from scores [B, G·T·outputs] and labels [B, G] or [B, G, T] int64. The loss of a
  // sequence is the mean over its positions that have a label, 0 if none has.
  torch::Tensor losses(const torch::Tensor& scores, const torch::Tensor& labels) const;

  // How many positions of each of the samples have a label, and at how many of them the scores name
  // it: [n] int64 each, from scores [n, T·outputs] and labels [n] or [n, T]. For squared errors
  // nothing is a hit.
  static torch::Tensor counted(const torch::Tensor& labels);
  torch::Tensor hits(const torch::Tensor& scores, const torch::Tensor& labels) const;

  // [n, T·C] float64: what a mixture of models averages. Probabilities of the classes (two for a
  // binary model), or the predicted number.
  torch::Tensor predictions(const torch::Tensor& scores, int64_t positions) const;
  // The loss [n] of averaged predictions, and their hits.
  torch::Tensor mixed_losses(const torch::Tensor& predictions, const torch::Tensor& labels) const;
  torch::Tensor mixed_hits(const torch::Tensor& predictions, const torch::Tensor& labels) const;

  // Of one sample with one label, in plain memory.
  double loss(std::span<const float> scores, int64_t label) const;
  // With its gradient by the scores, times `share`.
  double loss(std::span<const float> scores, int64_t label, float share,
              std::span<float> gradient) const;
  int64_t predicted(std::span<const float> scores) const;  // class; -1 where there are none
  // predictions() of one sample.
  std::vector<double> predictions(std::span<const float> scores) const;
  // What ranks a sample for each class, for areas under the curve: log(p / (1 - p)), which unlike p
  // still tells apart what is nearly certain. Of one model's scores, and of averaged probabilities.
  std::vector<double> log_odds(std::span<const float> scores) const;
  static std::vector<double> mixed_log_odds(std::span<const double> predictions);
  double mixed_loss(std::span<const double> predictions, int64_t label) const;
  int64_t mixed_predicted(std::span<const double> predictions) const;

 private:
  double value(int64_t label) const {
    return values_.empty() ? static_cast<double>(label) : values_[static_cast<size_t>(label)];
  }
  torch::Tensor targets(const torch::Tensor& labels, const torch::TensorOptions& options) const;

  Kind kind_ = Kind::kCrossEntropy;
  std::vector<double> values_;
};

}  // namespace fl_sim
