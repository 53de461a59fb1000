#include "evaluation.h"

#include <algorithm>
#include <chrono>

namespace fl_sim {

Evaluator::Evaluator(const Network& network, Samples test, double scale, double shift,
                     std::function<void(const TestResult&)> done)
    : network_(network),
      test_(std::move(test)),
      scale_(scale),
      shift_(shift),
      done_(std::move(done)) {}

void Evaluator::add(int64_t round, const torch::Tensor& rows) {
  queue_.push_back({.round = round, .rows = rows.detach().clone()});
}

bool Evaluator::step() {
  if (queue_.empty()) return false;
  const auto start = std::chrono::steady_clock::now();
  torch::NoGradGuard no_grad;
  Model& model = queue_.front();
  const int64_t count = std::min(kBatch, test_.size() - model.next);
  const torch::Tensor indices = torch::arange(
      model.next, model.next + count, torch::dtype(torch::kInt64).device(model.rows.device()));
  const torch::Tensor x = fetch_inputs(test_, indices, scale_, shift_, model.rows.scalar_type());
  const torch::Tensor y = test_.labels.narrow(0, model.next, count);
  const torch::Tensor output = network_.forward(Weights(network_.layout(), model.rows), x);
  model.loss += network_.loss(output, y.unsqueeze(1)).to(torch::kFloat64).sum().item<double>();
  model.correct += output.argmax(1).eq(y).sum().item<int64_t>();
  model.next += count;
  if (model.next == test_.size()) {
    const auto n = static_cast<double>(test_.size());
    const TestResult result{model.round, model.loss / n, static_cast<double>(model.correct) / n};
    queue_.pop_front();
    done_(result);
  }
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return !queue_.empty();
}

void Evaluator::finish(size_t left) {
  while (queue_.size() > left) step();
}

}  // namespace fl_sim
