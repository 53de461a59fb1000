#include "learning/scorer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace fl_sim {
namespace {

// Mann & Whitney 1947: of the column `c` of log-odds [n, classes].
double area_of_class(const Detail& detail, size_t classes, size_t c) {
  const size_t n = detail.labels.size();
  const auto odds = [&](size_t i) { return detail.log_odds[i * classes + c]; };
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return odds(a) < odds(b); });
  double ranks = 0, positives = 0;  // sum of the ranks of the class's samples
  for (size_t first = 0; first < n;) {
    size_t end = first;
    while (end < n && odds(order[end]) == odds(order[first])) ++end;
    const double rank = static_cast<double>(first + end + 1) / 2;  // mean of first + 1 ... end
    for (; first < end; ++first) {
      if (detail.labels[order[first]] == static_cast<int64_t>(c)) ranks += rank, ++positives;
    }
  }
  const double negatives = static_cast<double>(n) - positives;
  return (ranks - positives * (positives + 1) / 2) / (positives * negatives);
}

}  // namespace

double Detail::balanced_accuracy() const {
  double sum = 0, classes = 0;
  for (size_t c = 0; c < class_samples.size(); ++c) {
    if (class_samples[c] == 0) continue;
    sum += class_correct[c] / class_samples[c];
    ++classes;
  }
  return classes > 0 ? sum / classes : kNotMeasured;
}

double Detail::area_under_curve() const {
  const size_t classes = class_samples.size();
  const bool known =
      std::none_of(log_odds.begin(), log_odds.end(), [](double odds) { return std::isnan(odds); });
  if (!known) return kNotMeasured;  // of a diverged model
  double sum = 0, measured = 0;
  for (size_t c = classes == 2 ? 1 : 0; c < classes; ++c) {
    if (class_samples[c] == 0 || class_samples[c] == static_cast<double>(labels.size())) continue;
    sum += area_of_class(*this, classes, c);
    ++measured;
  }
  return measured > 0 ? sum / measured : kNotMeasured;
}

std::vector<double> Detail::class_f1() const {
  std::vector<double> out(class_samples.size(), kNotMeasured);
  for (size_t c = 0; c < out.size(); ++c) {
    const double named = class_samples[c] + class_predicted[c];
    if (named > 0) out[c] = 2 * class_correct[c] / named;
  }
  return out;
}

double Detail::macro_f1() const {
  double sum = 0, classes = 0;
  for (const double f1 : class_f1()) {
    if (std::isnan(f1)) continue;
    sum += f1;
    ++classes;
  }
  return classes > 0 ? sum / classes : kNotMeasured;
}

Scorer::Scorer(const Network& network, double scale, double shift, bool direct)
    : network_(network), scale_(scale), shift_(shift), direct_(direct) {}

Scorer::~Scorer() = default;

void Scorer::Totals::keep_detail(int64_t classes, bool log_odds, bool confusion) {
  const auto n = static_cast<size_t>(classes);
  detail_.class_samples.assign(n, 0);
  detail_.class_correct.assign(n, 0);
  detail_.class_predicted.assign(n, 0);
  if (confusion) detail_.confusion.assign(n * n, 0);
  keeps_log_odds_ = log_odds;
  keeps_confusion_ = confusion;
}

void Scorer::Totals::add_detail(int64_t label, int64_t predicted) {
  const auto is = static_cast<size_t>(label), said = static_cast<size_t>(predicted);
  detail_.class_samples[is] += 1;
  detail_.class_predicted[said] += 1;
  if (is == said) detail_.class_correct[is] += 1;
  if (keeps_confusion_) ++detail_.confusion[is * detail_.class_samples.size() + said];
}

const std::vector<Score>& Scorer::Totals::scores() {
  if (on_device_.defined()) {
    const torch::Tensor sums = on_device_.cpu();
    for (size_t i = 0; i < scores_.size(); ++i) {
      scores_[i].loss += sums[static_cast<int64_t>(i)][0].item<double>();
      scores_[i].correct += sums[static_cast<int64_t>(i)][1].item<double>();
    }
    on_device_.reset();
  }
  return scores_;
}

void Scorer::add_directly(const Samples& samples, std::span<const int64_t> indices,
                          const torch::Tensor& models, const std::vector<double>& weights,
                          Totals& totals) {
  const Objective& objective = network_.objective();
  const int64_t count = models.size(0);
  const auto n = std::ssize(indices);
  Detail& detail = totals.detail_;
  const auto add = [&](int64_t label, int64_t predicted, const auto& log_odds) {
    if (detail.class_samples.empty()) return;
    totals.add_detail(label, predicted);
    if (!totals.keeps_log_odds_) return;
    detail.labels.push_back(label);
    const std::vector<double> odds = log_odds();
    detail.log_odds.insert(detail.log_odds.end(), odds.begin(), odds.end());
  };
  direct_pass_->load(samples, indices, scale_, shift_);
  std::vector<std::vector<double>> mixed(static_cast<size_t>(n));
  for (int64_t m = 0; m < count; ++m) {
    direct_pass_->forward(models[m].data_ptr<float>());
    Score& score = totals.scores_[static_cast<size_t>(m)];
    for (int64_t i = 0; i < n; ++i) {
      const std::span<const float> s = direct_pass_->scores(i);
      const int64_t label = direct_pass_->label(i);
      const int64_t predicted = objective.predicted(s);
      score.correct += predicted == label ? 1 : 0;
      if (count == 1) {
        add(label, predicted, [&] { return objective.log_odds(s); });
        continue;
      }
      const double share =
          weights.empty() ? 1 / static_cast<double>(count) : weights[static_cast<size_t>(m)];
      const std::vector<double> own = objective.predictions(s);
      std::vector<double>& sum = mixed[static_cast<size_t>(i)];
      sum.resize(own.size(), 0);
      for (size_t c = 0; c < own.size(); ++c) sum[c] += share * own[c];
    }
    for (int64_t i = 0; i < n; ++i) score.loss += direct_pass_->sample_loss(i);
    score.predictions += static_cast<double>(n);
  }
  if (count == 1) return;
  Score& score = totals.scores_.back();
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double>& p = mixed[static_cast<size_t>(i)];
    const int64_t label = direct_pass_->label(i);
    const int64_t predicted = objective.mixed_predicted(p);
    score.correct += predicted == label ? 1 : 0;
    score.loss += objective.mixed_loss(p, label);
    add(label, predicted, [&] { return Objective::mixed_log_odds(p); });
  }
  score.predictions += static_cast<double>(n);
}

void Scorer::add(const Samples& samples, std::span<const int64_t> indices,
                 const torch::Tensor& models, const std::vector<double>& weights, Totals& totals,
                 const Change& change) {
  assert(std::ssize(totals.scores_) == (models.size(0) > 1 ? models.size(0) + 1 : 1));
  if (indices.empty()) return;
  const Objective& objective = network_.objective();
  for (Score& score : totals.scores_) score.classifies = objective.classifies();
  if (direct_ && !asked_ && models.is_cpu() && models.scalar_type() == torch::kFloat32) {
    direct_pass_ = network_.direct_pass(kBatch);
    asked_ = true;
  }
  if (direct_pass_ && models.is_cpu() && models.scalar_type() == torch::kFloat32 &&
      std::ssize(indices) <= kBatch && !change) {
    add_directly(samples, indices, models, weights, totals);
    return;
  }
  torch::NoGradGuard no_grad;
  const torch::Tensor index =
      torch::tensor(at::IntArrayRef(indices.data(), indices.size()), torch::kInt64)
          .to(models.device());
  torch::Tensor x = fetch_inputs(samples, index, scale_, shift_, models.scalar_type());
  if (change) x = change(x);
  const torch::Tensor y = samples.labels.index_select(0, index);
  const torch::Tensor counted = Objective::counted(y);
  const int64_t positions = samples.positions();
  std::vector<torch::Tensor> sums;
  torch::Tensor mixed, last;
  for (int64_t m = 0; m < models.size(0); ++m) {
    const torch::Tensor output =
        network_.forward(Weights(network_.layout(), models.narrow(0, m, 1)), x);
    const torch::Tensor losses = network_.loss(output, y.unsqueeze(1)).squeeze(1);
    const torch::Tensor hits = objective.hits(output, y);
    sums.push_back(losses.to(torch::kFloat64).mul(counted).sum());
    sums.push_back(hits.sum().to(torch::kFloat64));
    last = output;
    if (models.size(0) == 1) continue;
    const double share =
        weights.empty() ? 1 / static_cast<double>(models.size(0)) : weights[static_cast<size_t>(m)];
    const torch::Tensor part = objective.predictions(output, positions) * share;
    mixed = mixed.defined() ? mixed + part : part;
  }
  if (mixed.defined()) {
    sums.push_back(objective.mixed_losses(mixed, y).mul(counted).sum());
    sums.push_back(objective.mixed_hits(mixed, y).sum().to(torch::kFloat64));
  }
  const torch::Tensor all = torch::stack(sums).view({-1, 2});
  totals.on_device_ = totals.on_device_.defined() ? totals.on_device_ + all : all;
  const auto predictions = static_cast<double>(
      positions > 1 ? counted.sum().item<int64_t>() : static_cast<int64_t>(indices.size()));
  for (Score& score : totals.scores_) score.predictions += predictions;

  Detail& detail = totals.detail_;
  if (detail.class_samples.empty() || positions > 1) return;
  // Of a binary model there is one score, of a mixture two probabilities.
  const torch::Tensor labels = y.cpu();
  const torch::Tensor predicted = (mixed.defined()     ? mixed.argmax(1)
                                   : last.size(1) == 1 ? last.squeeze(1).gt(0).to(torch::kInt64)
                                                       : last.argmax(1))
                                      .cpu();
  for (int64_t i = 0; i < labels.size(0); ++i) {
    const auto label = labels[i].item<int64_t>();
    totals.add_detail(label, predicted[i].item<int64_t>());
    if (totals.keeps_log_odds_) detail.labels.push_back(label);
  }
  if (!totals.keeps_log_odds_) return;
  const auto keep = [&](const torch::Tensor& rows, const auto& log_odds) {  // [n, C]
    for (int64_t i = 0; i < rows.size(0); ++i) {
      const std::vector<double> odds = log_odds(rows[i]);
      detail.log_odds.insert(detail.log_odds.end(), odds.begin(), odds.end());
    }
  };
  if (mixed.defined()) {
    keep(mixed.cpu().contiguous(), [](const torch::Tensor& row) {
      return Objective::mixed_log_odds({row.data_ptr<double>(), static_cast<size_t>(row.numel())});
    });
  } else {
    keep(last.to(torch::kFloat32).cpu().contiguous(), [&](const torch::Tensor& row) {
      return objective.log_odds({row.data_ptr<float>(), static_cast<size_t>(row.numel())});
    });
  }
}

}  // namespace fl_sim
