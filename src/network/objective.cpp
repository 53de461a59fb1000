#include "network/objective.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/dataset.h"

namespace fl_sim {
namespace {

constexpr double kLeastProbability = 1e-30;  // keeps logarithms finite

// Scores [n, T·C] and labels [n] or [n, T] as [n·T, C] and [n·T].
struct Flat {
  torch::Tensor scores, labels;
  Flat(const torch::Tensor& s, const torch::Tensor& l)
      : scores(s.reshape({l.numel(), -1})), labels(l.reshape({-1})) {}
};

// Per-position numbers [n·T] as means over the positions of each sample that have a label.
torch::Tensor mean_over_positions(const torch::Tensor& losses, const torch::Tensor& labels) {
  const torch::Tensor counts = labels.ne(Samples::kIgnored).to(losses.scalar_type());
  const torch::Tensor by_position = losses.view(labels.sizes());
  return by_position.mul(counts).sum(-1) / counts.sum(-1).clamp_min(1);
}

// log(1 + exp(s)) without overflow.
template <class Float>
Float softplus(Float s) {
  return std::max(s, Float(0)) + std::log1p(std::exp(-std::abs(s)));
}

template <class Float>
Float sigmoid(Float s) {
  return s >= 0 ? 1 / (1 + std::exp(-s)) : std::exp(s) / (1 + std::exp(s));
}

}  // namespace

torch::Tensor Objective::targets(const torch::Tensor& labels,
                                 const torch::TensorOptions& options) const {
  if (values_.empty()) return labels.to(options.dtype());
  return torch::tensor(values_, options.dtype(torch::kFloat64))
      .index_select(0, labels.clamp_min(0).flatten())
      .to(options.dtype())
      .view(labels.sizes());
}

torch::Tensor Objective::losses(const torch::Tensor& scores, const torch::Tensor& labels) const {
  const bool sequence = labels.dim() == 3;
  const Flat flat(scores, labels);
  torch::Tensor losses;
  if (kind_ == Kind::kCrossEntropy) {
    losses = torch::nn::functional::cross_entropy(flat.scores, flat.labels,
                                                  torch::nn::functional::CrossEntropyFuncOptions()
                                                      .reduction(torch::kNone)
                                                      .ignore_index(Samples::kIgnored));
  } else {
    const torch::Tensor score = flat.scores.squeeze(1);
    const torch::Tensor target = targets(flat.labels, score.options());
    losses = kind_ == Kind::kBinary ? torch::binary_cross_entropy_with_logits(score, target, {}, {},
                                                                              at::Reduction::None)
                                    : (score - target).square();
  }
  return sequence ? mean_over_positions(losses, labels) : losses.view(labels.sizes());
}

torch::Tensor Objective::counted(const torch::Tensor& labels) {
  return labels.dim() == 2 ? labels.ne(Samples::kIgnored).sum(1) : torch::ones_like(labels);
}

torch::Tensor Objective::hits(const torch::Tensor& scores, const torch::Tensor& labels) const {
  const Flat flat(scores, labels);
  torch::Tensor hit;
  if (kind_ == Kind::kCrossEntropy) {
    hit = flat.scores.argmax(1).eq(flat.labels);
  } else if (kind_ == Kind::kBinary) {
    hit = flat.scores.squeeze(1).gt(0).eq(flat.labels);
  } else {
    hit = torch::zeros_like(flat.labels);
  }
  hit = hit.to(torch::kInt64).view(labels.sizes());
  return labels.dim() == 2 ? hit.sum(1) : hit;
}

torch::Tensor Objective::predictions(const torch::Tensor& scores, int64_t positions) const {
  torch::Tensor s = scores.to(torch::kFloat64);
  if (kind_ == Kind::kCrossEntropy) {
    return torch::softmax(s.reshape({s.size(0) * positions, -1}), 1).view(s.sizes());
  }
  if (kind_ == Kind::kSquared) return s;
  return torch::stack({torch::sigmoid(-s), torch::sigmoid(s)}, -1).flatten(1);
}

torch::Tensor Objective::mixed_losses(const torch::Tensor& predictions,
                                      const torch::Tensor& labels) const {
  const Flat flat(predictions, labels);
  torch::Tensor losses;
  if (kind_ == Kind::kSquared) {
    losses = (flat.scores.squeeze(1) - targets(flat.labels, flat.scores.options())).square();
  } else {
    losses = -flat.scores.gather(1, flat.labels.clamp_min(0).unsqueeze(1))
                  .clamp_min(kLeastProbability)
                  .log()
                  .squeeze(1);
  }
  return labels.dim() == 2 ? mean_over_positions(losses, labels) : losses;
}

torch::Tensor Objective::mixed_hits(const torch::Tensor& predictions,
                                    const torch::Tensor& labels) const {
  if (kind_ == Kind::kSquared) return torch::zeros({labels.size(0)}, labels.options());
  const Flat flat(predictions, labels);
  const torch::Tensor hit = flat.scores.argmax(1).eq(flat.labels).to(torch::kInt64);
  return labels.dim() == 2 ? hit.view(labels.sizes()).sum(1) : hit;
}

double Objective::loss(std::span<const float> scores, int64_t label) const {
  if (kind_ == Kind::kBinary) {
    const double s = scores[0];
    return softplus(s) - s * static_cast<double>(label);
  }
  if (kind_ == Kind::kSquared) {
    const double error = scores[0] - value(label);
    return error * error;
  }
  const float largest = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (const float s : scores) sum += std::exp(s - largest);
  return std::log(sum) + largest - scores[static_cast<size_t>(label)];
}

double Objective::loss(std::span<const float> scores, int64_t label, float share,
                       std::span<float> gradient) const {
  if (kind_ == Kind::kBinary) {
    gradient[0] = share * (sigmoid(scores[0]) - static_cast<float>(label));
    return loss(scores, label);
  }
  if (kind_ == Kind::kSquared) {
    gradient[0] = static_cast<float>(2 * share * (scores[0] - value(label)));
    return loss(scores, label);
  }
  const float largest = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (size_t c = 0; c < scores.size(); ++c) {
    gradient[c] = std::exp(scores[c] - largest);
    sum += gradient[c];
  }
  for (float& g : gradient) g *= share / sum;
  gradient[static_cast<size_t>(label)] -= share;
  return std::log(sum) + largest - scores[static_cast<size_t>(label)];
}

int64_t Objective::predicted(std::span<const float> scores) const {
  if (kind_ == Kind::kBinary) return scores[0] > 0 ? 1 : 0;
  if (kind_ == Kind::kSquared) return -1;
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

std::vector<double> Objective::predictions(std::span<const float> scores) const {
  if (kind_ == Kind::kSquared) return {scores[0]};
  if (kind_ == Kind::kBinary) {
    const double p = sigmoid(static_cast<double>(scores[0]));
    return {sigmoid(-static_cast<double>(scores[0])), p};
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  std::vector<double> p(scores.begin(), scores.end());
  double total = 0;
  for (double& value : p) total += value = std::exp(value - largest);
  for (double& value : p) value /= total;
  return p;
}

std::vector<double> Objective::log_odds(std::span<const float> scores) const {
  if (kind_ == Kind::kSquared) return {scores[0]};
  if (kind_ == Kind::kBinary) return {-scores[0], scores[0]};
  // s_c - log(sum of exp(s_j) over the others), each sum relative to its own largest term.
  const auto largest = std::max_element(scores.begin(), scores.end()) - scores.begin();
  std::vector<double> odds;
  for (int64_t c = 0; c < std::ssize(scores); ++c) {
    const auto after = scores.subspan(static_cast<size_t>(c) + 1);
    const auto before = scores.first(static_cast<size_t>(c));
    double top = scores[static_cast<size_t>(largest)], sum = 0;
    if (c == largest) {
      top = -std::numeric_limits<double>::infinity();
      for (const auto& part : {before, after}) {
        for (const float s : part) top = std::max<double>(top, s);
      }
    }
    for (const auto& part : {before, after}) {
      for (const float s : part) sum += std::exp(s - top);
    }
    odds.push_back(scores[static_cast<size_t>(c)] - top - std::log(sum));
  }
  return odds;
}

std::vector<double> Objective::mixed_log_odds(std::span<const double> predictions) {
  std::vector<double> odds;
  for (size_t c = 0; c < predictions.size(); ++c) {
    double others = 0;  // not 1 - p, which is 0 where p is nearly 1
    for (size_t j = 0; j < predictions.size(); ++j) others += j == c ? 0 : predictions[j];
    odds.push_back(std::log(predictions[c]) - std::log(others));
  }
  return odds;
}

double Objective::mixed_loss(std::span<const double> predictions, int64_t label) const {
  if (kind_ == Kind::kSquared) {
    const double error = predictions[0] - value(label);
    return error * error;
  }
  return -std::log(std::max(predictions[static_cast<size_t>(label)], kLeastProbability));
}

int64_t Objective::mixed_predicted(std::span<const double> predictions) const {
  if (kind_ == Kind::kSquared) return -1;
  return std::max_element(predictions.begin(), predictions.end()) - predictions.begin();
}

}  // namespace fl_sim
