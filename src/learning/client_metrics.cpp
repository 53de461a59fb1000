#include "learning/client_metrics.h"

#include <algorithm>
#include <cmath>

#include "base/statistics.h"

namespace fl_sim {
namespace {

double mean(std::vector<double>::const_iterator first, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += *(first + static_cast<std::ptrdiff_t>(i));
  return sum / static_cast<double>(count);
}

// Weighted by samples, and of every client the same.
struct Means {
  double weighted = 0, samples = 0, sum = 0;
  int64_t clients = 0;

  // Not where there is none.
  void add(double value, int64_t of) {
    if (std::isnan(value)) return;
    weighted += static_cast<double>(of) * value;
    samples += static_cast<double>(of);
    sum += value;
    ++clients;
  }
  void give(double& by_samples, double& by_client) const {
    if (clients == 0) return;
    by_samples = weighted / samples;
    by_client = sum / static_cast<double>(clients);
  }
};

}  // namespace

EvaluationSummary summarize(const std::vector<ClientEvaluation>& evaluations, bool holdout,
                            bool personal) {
  EvaluationSummary summary;
  std::vector<double> accuracies;
  double samples = 0, correct = 0, loss = 0, loss_samples = 0, losses = 0, measured = 0;
  int64_t evaluated = 0;
  Means balanced, area, f1;
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
    balanced.add(personal ? evaluation.personal_balanced_accuracy : evaluation.balanced_accuracy,
                 evaluation.samples);
    area.add(personal ? evaluation.personal_area_under_curve : evaluation.area_under_curve,
             evaluation.samples);
    f1.add(personal ? evaluation.personal_macro_f1 : evaluation.macro_f1, evaluation.samples);
    if (!std::isfinite(client_loss)) continue;
    loss += n * client_loss;
    loss_samples += n;
    losses += client_loss;
    measured += 1;
  }
  summary.clients = evaluated;
  if (measured > 0) summary.loss = loss / loss_samples, summary.mean_loss = losses / measured;
  balanced.give(summary.balanced_accuracy, summary.mean_balanced_accuracy);
  area.give(summary.area_under_curve, summary.mean_area_under_curve);
  f1.give(summary.macro_f1, summary.mean_macro_f1);
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
