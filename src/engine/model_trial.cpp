#include "engine/model_trial.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/registry.h"
#include "learning/batches.h"
#include "learning/scorer.h"
#include "network/arithmetic.h"
#include "network/useful_line.h"

namespace fl_sim {
namespace {

constexpr int64_t kMostTried = 64;  // samples of a batch: a rest of any size is more telling

// The first few, and how many more there are.
std::string some_of(const std::vector<std::string>& words) {
  constexpr size_t kMost = 8;
  if (words.size() <= kMost) return list_of(words);
  return message(list_of({words.begin(), words.begin() + kMost}), " and ", words.size() - kMost,
                 " more");
}

class ModelTrial {
 public:
  explicit ModelTrial(Experiment& e)
      : e_(e),
        network_(*e.network),
        layout_(network_.layout()),
        plan_(e.job),
        row_(initial_row(e, 0)),
        name_("model " + e.job.get<std::string>("model")) {
    if (e_.algorithm->needs().pooled) {
      clients_ = {-1};
    } else if (e_.trained.empty()) {
      clients_.resize(static_cast<size_t>(e_.partition.clients()));
      std::iota(clients_.begin(), clients_.end(), int64_t{0});
    } else {
      clients_ = e_.trained;
    }
  }

  void run() {
    int64_t largest = 0;
    for (const int64_t client : clients_)
      largest = std::max(largest, std::min(samples_of(client), plan_.batch_size));
    const int64_t count = std::clamp<int64_t>(largest, 2, kMostTried);
    train(count);
    const torch::Tensor x = inputs(count);
    for (std::string& note : network_.findings(row_, x)) e_.notes.push_back(std::move(note));
    look_at_scores(x);
    try_single_samples();
  }

 private:
  int64_t samples_of(int64_t client) const {
    if (client >= 0) return e_.partition.size(client);
    int64_t total = 0;
    for (int64_t k = 0; k < e_.partition.clients(); ++k) total += e_.partition.size(k);
    return total;
  }

  // Whether a batch of a client's round has a single sample, with batches of `batch_size`.
  bool meets_one(int64_t client, int64_t batch_size) const {
    LocalPlan plan = plan_;
    plan.batch_size = batch_size;
    const int64_t n = samples_of(client);
    if (n == 0) return false;
    return batch_size == 1 ||
           (n % batch_size == 1 && (plan.steps == 0 || plan.steps >= plan.batches_per_epoch(n)));
  }

  torch::Tensor indices(int64_t count) const {
    return torch::arange(std::min(count, e_.data.train.size()), torch::kInt64);
  }

  torch::Tensor inputs(int64_t count) const {
    return fetch_inputs(e_.data.train, indices(count), e_.data.scale, e_.data.shift,
                        torch::kFloat32);
  }

  // A step's forward and backward pass. Returns the gradients, undefined for what the loss does not
  // depend on.
  std::vector<torch::Tensor> gradients(int64_t count) const {
    const torch::Tensor rows = row_.clone().unsqueeze(0);
    const torch::Tensor unused = torch::zeros({1, layout_.trainable()});
    std::vector<Rng> streams = {Rng(e_.job.seed(), "trial")};
    Weights weights(layout_, rows, unused);
    weights.streams = streams;
    const torch::Tensor labels = e_.data.train.labels.index_select(0, indices(count)).unsqueeze(1);
    torch::AutoGradMode with_gradients(true);
    const torch::Tensor loss =
        network_.loss(network_.forward(weights, inputs(count)), labels).mean();
    std::vector<torch::Tensor> leaves;
    for (size_t i = 0; i < layout_.parameters().size(); ++i) {
      if (layout_.parameters()[i].trainable) leaves.push_back(weights[static_cast<int64_t>(i)]);
    }
    if (!loss.requires_grad()) return std::vector<torch::Tensor>(leaves.size());
    return torch::autograd::grad({loss}, leaves, {}, {}, false, /*allow_unused=*/true);
  }

  static bool is_finite(const std::vector<torch::Tensor>& gradients) {
    return std::all_of(gradients.begin(), gradients.end(), [](const torch::Tensor& gradient) {
      return !gradient.defined() || torch::isfinite(gradient).all().item<bool>();
    });
  }

  void train(int64_t count) {
    std::vector<torch::Tensor> found;
    try {
      found = gradients(count);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(message(name_, " cannot be trained: loss and gradient of ", count,
                          " samples fail (", useful_line(error), ")"));
    }
    std::vector<std::string> untrained;
    size_t next = 0;
    for (const Parameter& parameter : layout_.parameters()) {
      if (parameter.trainable && !found[next++].defined()) untrained.push_back(parameter.name);
    }
    FL_CHECK(untrained.size() < found.size(), name_, ": the loss depends on none of its ",
             found.size(), " parameters, ", some_of(untrained),
             ": nothing would train (does forward() compute with copies of them, or detached?)");
    if (!untrained.empty()) {
      e_.notes.push_back(message(name_, ": the loss does not depend on ", some_of(untrained), " (",
                                 untrained.size(), " of ", found.size(),
                                 " parameters), so they do not train"));
    }
  }

  // Cross-entropy takes scores, not probabilities.
  void look_at_scores(const torch::Tensor& x) {
    const Objective& objective = network_.objective();
    const int64_t outputs = objective.outputs(e_.data.classes);
    if (objective.kind() != Objective::Kind::kCrossEntropy || outputs < 2) return;
    torch::NoGradGuard no_grad;
    const torch::Tensor scores =
        network_.forward(Weights(layout_, row_.unsqueeze(0)), x).reshape({-1, outputs});
    const auto is_one = [](const torch::Tensor& sums) {
      return (sums - 1).abs().max().item<double>() < 1e-4;
    };
    if (scores.min().item<double>() >= 0 && is_one(scores.sum(1))) {
      e_.notes.push_back(name_ +
                         ": its outputs are probabilities, as of a softmax, but the loss takes "
                         "scores and applies its own: it learns slowly so (leave the softmax out)");
    } else if (is_one(scores.exp().sum(1))) {
      e_.notes.push_back(
          name_ +
          ": its outputs are log-probabilities, as of a log-softmax; the loss applies "
          "its own, which changes nothing of them (it can be left out)");
    }
  }

  std::string batch_size_without_rest() const {
    for (int64_t size = plan_.batch_size + 1; size <= plan_.batch_size + 1000; ++size) {
      if (std::none_of(clients_.begin(), clients_.end(),
                       [&](int64_t client) { return meets_one(client, size); })) {
        return message("--local.batch-size ", size, " leaves no such batch, or");
      }
    }
    return "leave clients of a single sample out, or";
  }

  // Whether the last batch of an evaluation has a single sample.
  bool evaluates_one() const {
    const bool on_gpu = read_options<Arithmetic>(e_.job).cuda();
    const Scorer scorer(network_, e_.data.scale, e_.data.shift, /*direct=*/false);
    const int64_t batch = scorer.batch(on_gpu ? row_.to(torch::kMeta) : row_);
    if (e_.data.test.size() % batch == 1) return true;
    for (const Partition* kept : {&e_.validation, &e_.test}) {
      for (int64_t k = 0; k < kept->clients(); ++k) {
        if (kept->size(k) % batch == 1) return true;
      }
    }
    return false;
  }

  void try_single_samples() {
    std::vector<std::string> met;
    for (const int64_t client : clients_) {
      if (meets_one(client, plan_.batch_size))
        met.push_back(client < 0 ? std::string("of all") : std::to_string(client));
    }
    if (!met.empty()) {
      const auto refuse = [&](const std::string& reason) {
        throw Error(message(name_, " cannot train on a batch of one sample (", reason, "), which ",
                            met.size() == 1 ? "client " : "clients ", some_of(met),
                            " would meet with batches of ", plan_.batch_size, ": ",
                            batch_size_without_rest(),
                            " use a layer that needs no batch, such as GroupNorm"));
      };
      try {
        if (!is_finite(gradients(1)) && is_finite(gradients(2)))
          refuse("its gradient is NaN or infinite there, as where a standard deviation is taken");
      } catch (const ForwardError& error) {
        refuse(error.reason());
      } catch (const Error&) {
        throw;
      } catch (const std::exception& error) {
        refuse(useful_line(error));
      }
    }
    if (!evaluates_one()) return;
    torch::NoGradGuard no_grad;
    network_.forward(Weights(layout_, row_.unsqueeze(0)), inputs(1));
  }

  Experiment& e_;
  const Network& network_;
  const ParameterLayout& layout_;
  const LocalPlan plan_;
  const torch::Tensor row_;  // [P]
  const std::string name_;
  std::vector<int64_t> clients_;  // who trains; -1: on everybody's samples at once
};

}  // namespace

void try_foreign_model(Experiment& e) {
  if (e.network->foreign()) ModelTrial(e).run();
}

}  // namespace fl_sim
