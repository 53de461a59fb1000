// How well models do on samples: losses, accuracies and further metrics, of single models and of
// mixtures.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "learning/records.h"
#include "network/direct_pass.h"
#include "network/network.h"

namespace fl_sim {

// Sums over the predictions so far: one for each sample, or for each position of a sequence that
// has a label.
struct Score {
  double loss = 0, correct = 0;
  double predictions = 0;
  bool classifies = true;

  double mean_loss() const { return loss / predictions; }
  double accuracy() const {  // NaN for a model that predicts numbers
    return classifies ? correct / predictions : kNotMeasured;
  }
};

// What metrics beside loss and accuracy are made of: of the whole, a single model or a mixture.
struct Detail {
  std::vector<double> class_samples = {}, class_correct = {};  // [classes] by label
  std::vector<double> class_predicted = {};  // [classes] samples that were taken for it
  // [classes, classes] Samples by label and prediction, if kept.
  std::vector<int64_t> confusion = {};
  // [predictions, C] log-odds of the classes (Objective::log_odds), and their labels, if kept.
  std::vector<double> log_odds = {};
  std::vector<int64_t> labels = {};

  // Mean over the classes that occur of the share of a class's samples that are found (recall).
  double balanced_accuracy() const;
  // The area under the receiver operating characteristic: chance that a sample of a class has a
  // higher probability of it than one of another class, ties count half. Of class 1 where there are
  // two, else the mean over the classes that occur (one against the rest, macro average).
  double area_under_curve() const;
  // [classes] The harmonic mean of recall and precision, 2 TP / (samples + predicted); NaN for a
  // class that neither occurs nor is predicted.
  std::vector<double> class_f1() const;
  // Its mean over the classes that have one (macro average).
  double macro_f1() const;
};

class Scorer {
 public:
  // Of samples scaled and shifted as a Dataset's. With `direct`, float32 models on a CPU go the
  // network's direct pass, if it has one.
  Scorer(const Network& network, double scale, double shift, bool direct);
  ~Scorer();

  // Scores each of the models [C, P] on the samples at `indices` and, for C > 1, the mixture that
  // averages their predicted probabilities by `weights` (empty: equally): C scores, then the
  // mixture's. Added to `scores`, which has that many elements, or on a GPU to its totals.
  class Totals {
   public:
    explicit Totals(int64_t models) : scores_(static_cast<size_t>(models > 1 ? models + 1 : 1)) {}
    // Asks for the details, of so many classes, and for the log-odds and the matrix among them.
    void keep_detail(int64_t classes, bool log_odds, bool confusion = false);
    const Detail& detail() const { return detail_; }
    // Of all that was added; waits for the device.
    const std::vector<Score>& scores();
    const Score& whole() { return scores().back(); }

   private:
    friend class Scorer;
    std::vector<Score> scores_;
    torch::Tensor on_device_;  // [C + 1, 2] float64, fetched once
    void add_detail(int64_t label, int64_t predicted);
    Detail detail_;
    bool keeps_log_odds_ = false, keeps_confusion_ = false;
  };
  // `change`, if there is one, is applied to inputs [n, shape...] as networks see them.
  using Change = std::function<torch::Tensor(const torch::Tensor&)>;
  void add(const Samples& samples, std::span<const int64_t> indices, const torch::Tensor& models,
           const std::vector<double>& weights, Totals& totals, const Change& change = {});

  // How many samples at a time are best, at these weights.
  int64_t batch(const torch::Tensor& models) const {
    return models.is_cpu() ? kBatch : kDeviceBatch;
  }

 private:
  // A fixed size, since results may depend on it in the last bits; about 5 ms for a small
  // convolutional network.
  static constexpr int64_t kBatch = 30;
  static constexpr int64_t kDeviceBatch = 500;  // on a GPU

  void add_directly(const Samples& samples, std::span<const int64_t> indices,
                    const torch::Tensor& models, const std::vector<double>& weights,
                    Totals& totals);

  const Network& network_;
  double scale_, shift_;
  bool direct_, asked_ = false;
  std::unique_ptr<DirectPass> direct_pass_;  // made when it is first needed
};

}  // namespace fl_sim
