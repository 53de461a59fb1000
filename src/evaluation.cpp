#include "evaluation.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "direct_pass.h"

namespace fl_sim {

Evaluator::Evaluator(const Network& network, Samples test, double scale, double shift, bool direct,
                     std::function<void(const TestResult&)> done)
    : network_(network),
      test_(std::move(test)),
      scale_(scale),
      shift_(shift),
      direct_(direct),
      done_(std::move(done)) {}

Evaluator::~Evaluator() = default;

void Evaluator::add(int64_t round, const torch::Tensor& rows) {
  queue_.push_back({.round = round, .rows = rows.detach().clone()});
}

void Evaluator::evaluate_directly(Model& model, int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), model.next);
  direct_pass_->load(test_, indices, scale_, shift_);
  direct_pass_->forward(model.rows.data_ptr<float>());
  const int64_t* labels = test_.labels.data_ptr<int64_t>() + model.next;
  for (int64_t n = 0; n < count; ++n) {
    const std::span<const float> scores = direct_pass_->scores(n);
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    model.correct += best == labels[n] ? 1 : 0;
  }
  model.loss += direct_pass_->loss() * static_cast<double>(count);
}

void Evaluator::evaluate(Model& model, int64_t count) const {
  torch::NoGradGuard no_grad;
  const torch::Tensor indices = torch::arange(
      model.next, model.next + count, torch::dtype(torch::kInt64).device(model.rows.device()));
  const torch::Tensor x = fetch_inputs(test_, indices, scale_, shift_, model.rows.scalar_type());
  const torch::Tensor y = test_.labels.narrow(0, model.next, count);
  const torch::Tensor output = network_.forward(Weights(network_.layout(), model.rows), x);
  const torch::Tensor loss = network_.loss(output, y.unsqueeze(1)).to(torch::kFloat64).sum();
  const torch::Tensor correct = output.argmax(1).eq(y).sum().to(torch::kFloat64);
  const torch::Tensor both = torch::stack({loss, correct});
  model.on_device = model.on_device.defined() ? model.on_device + both : both;
}

bool Evaluator::step() {
  if (queue_.empty()) return false;
  const auto start = std::chrono::steady_clock::now();
  Model& model = queue_.front();
  if (direct_ && model.rows.is_cpu() && model.rows.scalar_type() == torch::kFloat32) {
    direct_pass_ = network_.direct_pass(kBatch);
    direct_ = false;  // do not ask again
  }
  const int64_t batch = model.rows.is_cpu() ? kBatch : kDeviceBatch;
  const int64_t count = std::min(batch, test_.size() - model.next);
  if (direct_pass_) {
    evaluate_directly(model, count);
  } else {
    evaluate(model, count);
  }
  model.next += count;
  if (model.next == test_.size()) {
    if (model.on_device.defined()) {
      const torch::Tensor both = model.on_device.cpu();
      model.loss = both[0].item<double>();
      model.correct = both[1].item<double>();
    }
    const auto n = static_cast<double>(test_.size());
    const TestResult result{model.round, model.loss / n, model.correct / n};
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
