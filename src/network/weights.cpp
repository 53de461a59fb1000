#include "network/weights.h"

#include <torch/csrc/autograd/autograd.h>

namespace fl_sim {

Weights::Weights(const ParameterLayout& layout, const torch::Tensor& rows,
                 const torch::Tensor& gradients, bool training)
    : clients_(rows.size(0)), training_(training) {
  // One client's tensors have the plain shapes, so that layers call the plain kernels.
  // variable_data and not detach: a version counter for each view, or a change of running
  // statistics would invalidate the weights that autograd has saved for the backward pass.
  const auto view = [&](const torch::Tensor& matrix, int64_t index) {
    const torch::Tensor stacked = layout.view(matrix, index);
    return (clients_ == 1 ? stacked.squeeze(0) : stacked).variable_data();
  };
  for (int64_t i = 0; i < static_cast<int64_t>(layout.parameters().size()); ++i) {
    views_.push_back(view(rows, i));
    if (training_ && layout.parameters()[static_cast<size_t>(i)].trainable) {
      leaves_.push_back(views_.back().set_requires_grad(true));
      if (gradients.defined()) leaf_gradients_.push_back(view(gradients, i));
    }
  }
}

void Weights::backward(const torch::Tensor& loss) const {
  const auto computed =
      torch::autograd::grad({loss}, leaves_, {}, {}, false, /*allow_unused=*/true);
  for (size_t i = 0; i < leaves_.size(); ++i) {
    torch::Tensor target = leaf_gradients_[i];
    if (computed[i].defined()) {
      target.copy_(computed[i]);
    } else {
      target.zero_();  // a parameter that the loss does not depend on
    }
  }
}

void Weights::descend(const torch::Tensor& loss, double lr) const {
  const auto computed =
      torch::autograd::grad({loss}, leaves_, {}, {}, false, /*allow_unused=*/true);
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    torch::Tensor leaf = leaves_[i];
    if (computed[i].defined()) leaf.add_(computed[i], -lr);
  }
}

}  // namespace fl_sim
