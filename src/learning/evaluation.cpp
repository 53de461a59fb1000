#include "learning/evaluation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "base/clock.h"
#include "process/interruption.h"

namespace fl_sim {

MetricChoice choose_metrics(const Job& job, const Network& network, int64_t classes) {
  MetricChoice choice{.classes = classes};
  const std::map<std::string, bool*> known = {{"balanced-accuracy", &choice.balanced_accuracy},
                                              {"auc", &choice.area_under_curve},
                                              {"class-accuracy", &choice.class_accuracy},
                                              {"f1", &choice.macro_f1},
                                              {"class-f1", &choice.class_f1},
                                              {"confusion", &choice.confusion},
                                              {"perplexity", &choice.perplexity}};
  std::vector<std::string> names;
  for (const auto& [name, unused] : known) names.push_back(name);
  const auto text = job.get<std::string>("metrics");
  if (text == "none") return choice;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t first = word.find_first_not_of(' '), last = word.find_last_not_of(' ');
    word = first == std::string::npos ? "" : word.substr(first, last - first + 1);
    const auto found = known.find(word);
    FL_CHECK(found != known.end(), "metrics: '", word, "' is not known (must be none, or of ",
             list_of(names), ", with commas between them)");
    *found->second = true;
  }
  FL_CHECK(!choice.needs_detail() || (network.objective().classifies() && network.positions() == 1),
           "metrics is ", text, ", but ",
           network.positions() > 1 ? "samples are sequences with a label at each position"
                                   : "the model predicts a number (objective = squared)",
           " (perplexity is what remains)");
  constexpr int64_t kMostClasses = 4096;
  FL_CHECK(!choice.confusion || classes <= kMostClasses, "metrics asks for confusion, a matrix of ",
           classes, " x ", classes, " (there may be ", kMostClasses, " classes at most)");
  FL_CHECK(!choice.perplexity || network.objective().classifies(),
           "metrics asks for perplexity, but the model predicts a number (objective = squared)");
  return choice;
}

Evaluator::Evaluator(const Network& network, Samples test, double scale, double shift, bool direct,
                     const MetricChoice& metrics, std::function<void(const TestResult&)> done)
    : test_(std::move(test)),
      scorer_(network, scale, shift, direct),
      metrics_(metrics),
      done_(std::move(done)) {}

void Evaluator::add(int64_t round, const torch::Tensor& rows) {
  queue_.push_back({round, rows.detach().clone(), 0, Scorer::Totals(rows.size(0))});
  if (metrics_.needs_detail())
    queue_.back().totals.keep_detail(metrics_.classes, metrics_.area_under_curve,
                                     metrics_.confusion);
}

bool Evaluator::step() {
  if (queue_.empty()) return false;
  const auto start = Clock::now();
  Model& model = queue_.front();
  const int64_t count = std::min(scorer_.batch(model.rows), test_.size() - model.next);
  indices_.resize(static_cast<size_t>(count));
  std::iota(indices_.begin(), indices_.end(), model.next);
  try {
    scorer_.add(test_, indices_, model.rows, {}, model.totals);
  } catch (const ForwardError& error) {
    throw Error(message("evaluating the model of round ", model.round, ", test samples ",
                        model.next, " to ", model.next + count - 1, ": ", error.what()));
  }
  model.next += count;
  if (model.next == test_.size()) {
    TestResult result{.round = model.round,
                      .loss = model.totals.whole().mean_loss(),
                      .accuracy = model.totals.whole().accuracy()};
    const std::vector<Score>& scores = model.totals.scores();
    for (size_t m = 0; m + 1 < scores.size(); ++m) {
      result.model_loss.push_back(scores[m].mean_loss());
      result.model_accuracy.push_back(scores[m].accuracy());
    }
    const Detail& detail = model.totals.detail();
    if (metrics_.balanced_accuracy) result.metrics.balanced_accuracy = detail.balanced_accuracy();
    if (metrics_.area_under_curve) result.metrics.area_under_curve = detail.area_under_curve();
    if (metrics_.macro_f1) result.metrics.macro_f1 = detail.macro_f1();
    if (metrics_.class_f1) result.metrics.class_f1 = detail.class_f1();
    if (metrics_.confusion) result.metrics.confusion = detail.confusion;
    if (metrics_.perplexity) result.metrics.perplexity = std::exp(result.loss);
    if (metrics_.class_accuracy) {
      for (size_t c = 0; c < detail.class_samples.size(); ++c)
        result.metrics.class_accuracy.push_back(detail.class_correct[c] / detail.class_samples[c]);
    }
    queue_.pop_front();
    done_(result);
  }
  seconds_ += seconds_since(start);
  return !queue_.empty();
}

void Evaluator::finish(size_t left) {
  while (queue_.size() > left) {
    step();
    Interruption::get().at_step();
  }
}

}  // namespace fl_sim
