#include "learning/batch_pass.h"

#include <torch/csrc/autograd/autograd.h>
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fl_sim {
namespace {

torch::Tensor copy_of(const DirectPass& pass, int64_t size,
                      const std::function<std::span<const float>(int64_t)>& values) {
  torch::Tensor copy = torch::empty({pass.batch(), 1, size});
  float* to = copy.data_ptr<float>();
  for (int64_t n = 0; n < pass.batch(); ++n) {
    const std::span<const float> from = values(n);
    std::copy(from.begin(), from.end(), to + n * size);
  }
  return copy;
}

void copy_back(const torch::Tensor& values, const std::function<std::span<float>(int64_t)>& to) {
  const torch::Tensor contiguous = values.contiguous();
  const float* from = contiguous.data_ptr<float>();
  const int64_t size = values.size(2);
  for (int64_t n = 0; n < values.size(0); ++n) {
    std::copy(from + n * size, from + (n + 1) * size, to(n).begin());
  }
}

}  // namespace

double sum_of_squares(const DirectPass& pass) {
  double sum = 0;
  for (int64_t n = 0; n < pass.batch(); ++n) sum += std::pow(pass.sample_loss(n), 2);
  return sum;
}

BatchPass::BatchPass(const Setup& setup, const ClientGroup& group, Batches batches,
                     const std::string& dropout, int64_t round)
    : setup_(setup),
      data_(group.data),
      batches_(std::move(batches)),
      options_(group.rows.options()),
      direct_(false),
      ids_(group.ids) {
  if (data_.changes_inputs()) {
    for (const int64_t id : group.ids)
      input_streams_.emplace_back(group.seed, "inputs for " + dropout, round, id);
  }
  if (group.size() == 1 && setup_.one_thread && !setup_.product_type && group.rows.is_cpu() &&
      group.rows.scalar_type() == torch::kFloat32) {
    main_.pass = setup_.network.direct_pass(batches_.at(0).longest);
    direct_ = main_.pass != nullptr;
  }
  if (direct_) return;
  batches_.upload(options_);
  for (const int64_t id : group.ids) streams_.emplace_back(group.seed, dropout, round, id);
}

DirectPass& BatchPass::load(Pass& pass) {
  if (!pass.pass) pass.pass = setup_.network.direct_pass(batches_.at(0).longest);
  if (pass.loaded != step_) {
    const auto indices = batches_.indices(batch());
    if (data_.changes_inputs()) {
      std::vector<int64_t> all(indices.size());
      std::iota(all.begin(), all.end(), 0);
      const torch::Tensor index =
          torch::tensor(at::IntArrayRef(indices.data(), indices.size()), torch::kInt64);
      pass.pass->load({changed_inputs(), data_.train.labels.index_select(0, index)}, all, 1, 0);
    } else {
      pass.pass->load(data_.train, indices, data_.scale, data_.shift);
    }
    pass.loaded = step_;
  }
  return *pass.pass;
}

DirectPass& BatchPass::direct() { return load(main_); }

const torch::Tensor& BatchPass::changed_inputs() {
  if (changed_step_ == step_) return changed_;
  const auto indices = batches_.indices(batch());
  const torch::Tensor index =
      direct_ ? torch::tensor(at::IntArrayRef(indices.data(), indices.size()), torch::kInt64)
              : batches_.device_indices(batch());
  const auto clients = static_cast<size_t>(batch().clients);
  changed_ = data_.changes->apply(
      fetch_inputs(data_.train, index, data_.scale, data_.shift, options_.dtype().toScalarType()),
      std::span(ids_).first(clients), std::span(input_streams_).first(clients),
      std::span(batch().counts, clients));
  changed_step_ = step_;
  return changed_;
}

torch::Tensor BatchPass::inputs() {
  const torch::Tensor x =
      data_.changes_inputs()
          ? changed_inputs()
          : fetch_inputs(data_.train, batches_.device_indices(batch()), data_.scale, data_.shift,
                         options_.dtype().toScalarType());
  return stack_inputs(x, batch().clients);
}

torch::Tensor BatchPass::labels() const {
  const torch::Tensor labels = data_.train.labels.index_select(0, batches_.device_indices(batch()));
  return labels.dim() == 1 ? labels.view({-1, batch().clients})
                           : labels.view({-1, batch().clients, labels.size(1)});
}

// Everything but scores.
Scored BatchPass::describe() const {
  Scored scored;
  const int64_t clients = batch().clients;
  if (direct_) {
    const auto indices = batches_.indices(batch());
    scored.indices =
        torch::tensor(at::IntArrayRef(indices.data(), indices.size()), torch::kInt64).view({-1, 1});
    scored.labels = data_.train.labels.index_select(0, scored.indices.flatten()).view({-1, 1});
    scored.share =
        torch::full({batch().longest, 1}, 1 / static_cast<double>(batch().longest), options_);
    return scored;
  }
  scored.indices = batches_.device_indices(batch()).view({-1, clients});
  scored.labels = labels();
  scored.share = batch().ragged ? batches_.mask(step_) / batches_.sizes(step_)
                                : torch::full({batch().longest, clients},
                                              1 / static_cast<double>(batch().longest), options_);
  return scored;
}

void BatchPass::prepare(Weights& weights) {
  weights.product_type = setup_.product_type;
  weights.streams = std::span(streams_).first(static_cast<size_t>(batch().clients));
  weights.mask = batch().ragged ? batches_.mask(step_) : torch::Tensor();
  weights.counts.clear();
  if (batch().ragged) {
    weights.counts.assign(batch().counts, batch().counts + batch().clients);
  }
}

// Without `gradients`, for descend().
Weights& BatchPass::training_weights(const torch::Tensor& rows, const torch::Tensor& gradients) {
  const void* to = gradients.defined() ? gradients.data_ptr() : nullptr;
  if (!weights_ || weights_->clients() != rows.size(0) || weights_rows_ != rows.data_ptr() ||
      weights_gradients_ != to) {
    const ParameterLayout& layout = setup_.network.layout();
    weights_.reset();
    if (gradients.defined()) {
      weights_.emplace(layout, rows, gradients);
    } else {
      weights_ = Weights::for_descent(layout, rows);
    }
    weights_rows_ = rows.data_ptr();
    weights_gradients_ = to;
  }
  prepare(*weights_);
  return *weights_;
}

torch::Tensor BatchPass::client_losses(const torch::Tensor& sample_losses) {
  if (keeps_squares_) {
    const torch::Tensor squares = sample_losses.detach().to(torch::kFloat64).square();
    squares_ = (batch().ragged ? squares.mul(batches_.mask(step_)) : squares).sum(0);
  }
  return batch().ragged ? sample_losses.mul(batches_.mask(step_)).sum(0).div(batches_.sizes(step_))
                        : sample_losses.mean(0);
}

torch::Tensor BatchPass::direct_gradient(const torch::Tensor& rows, torch::Tensor& gradients,
                                         const LossRule& loss) {
  DirectPass& pass = direct();
  const float* row = rows.data_ptr<float>();
  pass.forward(row);
  const double mean = pass.loss();
  if (keeps_squares_) squares_ = torch::full({1}, sum_of_squares(pass), torch::kFloat64);
  if (loss) {
    Scored scored = describe();
    const int64_t classes = std::ssize(pass.scores(0));
    scored.scores = copy_of(pass, classes, [&](int64_t n) { return pass.scores(n); });
    scored.score_gradients =
        copy_of(pass, classes, [&](int64_t n) { return pass.score_gradient(n); });
    if (loss.representation) {
      scored.representation = copy_of(pass, pass.representation_size(),
                                      [&](int64_t n) { return pass.representation(n); });
      scored.representation_gradients = torch::zeros_like(scored.representation);
    }
    loss.hook(scored);
    copy_back(scored.score_gradients, [&](int64_t n) { return pass.score_gradient(n); });
    if (loss.representation) {
      copy_back(scored.representation_gradients,
                [&](int64_t n) { return pass.representation_gradient(n); });
    }
  }
  pass.backward(row, {.row = gradients.data_ptr<float>()});
  return torch::full({1}, mean, torch::kFloat64);
}

torch::Tensor BatchPass::gradient(const torch::Tensor& rows, torch::Tensor& gradients,
                                  const LossRule& rule) {
  if (direct_) return direct_gradient(rows, gradients, rule);
  Weights& weights = training_weights(rows, gradients);
  const Network& network = setup_.network;
  torch::Tensor representation;
  if (rule.representation) representation = network.represent(weights, inputs());
  const torch::Tensor output = rule.representation ? network.classify(weights, representation)
                                                   : network.forward(weights, inputs());
  const torch::Tensor losses = client_losses(network.loss(output, labels()));
  torch::Tensor loss = batch().clients == 1 ? losses.squeeze(0) : losses.sum();
  if (rule) {
    Scored scored = describe();
    const std::vector<int64_t> shape = {batch().longest, batch().clients, -1};
    scored.scores = output.detach().view(shape);
    scored.score_gradients =
        torch::autograd::grad({loss}, {output}, {}, /*retain_graph=*/true)[0].clone().view(shape);
    if (rule.representation) {
      scored.representation = representation.detach().reshape(shape);
      scored.representation_gradients = torch::zeros_like(scored.representation);
    }
    {
      torch::NoGradGuard no_grad;
      rule.hook(scored);
    }
    loss = (output * scored.score_gradients.view(output.sizes())).sum();
    if (rule.representation) {
      loss =
          loss +
          (representation * scored.representation_gradients.reshape(representation.sizes())).sum();
    }
  }
  weights.backward(loss);
  return losses.detach();
}

torch::Tensor BatchPass::descend(const torch::Tensor& rows, double lr) {
  Weights& weights = training_weights(rows, {});
  const torch::Tensor losses =
      client_losses(setup_.network.loss(setup_.network.forward(weights, inputs()), labels()));
  weights.descend(batch().clients == 1 ? losses.squeeze(0) : losses.sum(), lr);
  return losses.detach();
}

Scored BatchPass::forward(const torch::Tensor& rows, bool representation) {
  torch::NoGradGuard no_grad;
  Scored scored = describe();
  if (direct_) {
    DirectPass& pass = load(other_);
    pass.forward(rows.data_ptr<float>());
    const int64_t classes = std::ssize(pass.scores(0));
    scored.scores = copy_of(pass, classes, [&](int64_t n) { return pass.scores(n); });
    if (representation) {
      scored.representation = copy_of(pass, pass.representation_size(),
                                      [&](int64_t n) { return pass.representation(n); });
    }
    return scored;
  }
  Weights weights(setup_.network.layout(), rows);
  weights.product_type = setup_.product_type;
  const std::vector<int64_t> shape = {batch().longest, batch().clients, -1};
  if (representation) {
    const torch::Tensor z = setup_.network.represent(weights, inputs());
    scored.representation = z.reshape(shape);
    scored.scores = setup_.network.classify(weights, z).reshape(shape);
  } else {
    scored.scores = setup_.network.forward(weights, inputs()).reshape(shape);
  }
  return scored;
}

}  // namespace fl_sim
