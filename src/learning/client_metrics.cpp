#include "learning/client_metrics.h"

#include <algorithm>
#include <cmath>

namespace fl_sim {
namespace {

// Of sorted values, linear between them (numpy's default).
double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double mean(std::vector<double>::const_iterator first, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += *(first + static_cast<std::ptrdiff_t>(i));
  return sum / static_cast<double>(count);
}

}  // namespace

EvaluationSummary summarize(const std::vector<ClientEvaluation>& evaluations, bool holdout,
                            bool personal) {
  EvaluationSummary summary;
  std::vector<double> accuracies;
  double samples = 0, correct = 0, loss = 0, loss_samples = 0, losses = 0, measured = 0;
  int64_t evaluated = 0;
  for (const ClientEvaluation& evaluation : evaluations) {
    const double accuracy = personal ? evaluation.personal_accuracy : evaluation.accuracy;
    const double client_loss = personal ? evaluation.personal_loss : evaluation.loss;
    // Where a number is predicted there is no accuracy; where a client has no model of its own,
    // neither.
    if ((evaluation.holdout != 0) != holdout || (std::isnan(accuracy) && std::isnan(client_loss)))
      continue;
    ++evaluated;
    const auto n = static_cast<double>(evaluation.samples);
    if (!std::isnan(accuracy)) {
      accuracies.push_back(accuracy);
      samples += n;
      correct += n * accuracy;
    }
    if (!std::isfinite(client_loss)) continue;
    loss += n * client_loss;
    loss_samples += n;
    losses += client_loss;
    measured += 1;
  }
  summary.clients = evaluated;
  if (measured > 0) summary.loss = loss / loss_samples, summary.mean_loss = losses / measured;
  if (accuracies.empty()) return summary;
  std::sort(accuracies.begin(), accuracies.end());
  const size_t tenth = std::max<size_t>(1, (accuracies.size() + 5) / 10);
  summary.accuracy = correct / samples;
  summary.mean_accuracy = mean(accuracies.begin(), accuracies.size());
  summary.variance = 0;
  for (const double accuracy : accuracies) {
    summary.variance += (accuracy - summary.mean_accuracy) * (accuracy - summary.mean_accuracy) /
                        static_cast<double>(accuracies.size());
  }
  summary.worst_tenth = mean(accuracies.begin(), tenth);
  summary.best_tenth = mean(accuracies.end() - static_cast<std::ptrdiff_t>(tenth), tenth);
  summary.percentile_10 = percentile(accuracies, 0.1);
  summary.percentile_50 = percentile(accuracies, 0.5);
  summary.percentile_90 = percentile(accuracies, 0.9);
  return summary;
}

}  // namespace fl_sim
