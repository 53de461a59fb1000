#include "network/flops.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include <memory>
#include <string_view>

namespace fl_sim {
namespace {

// Of the forward pass under way in this thread: LibTorch's callbacks are plain functions.
thread_local double counted_flops = 0;
thread_local int convolutions_deep = 0;  // what a convolution is made of is not counted again

bool convolves(const at::RecordFunction& op) {
  return std::string_view(op.name()) == "aten::convolution";
}

std::unique_ptr<at::ObserverContext> op_begins(const at::RecordFunction& op) {
  convolutions_deep += convolves(op) ? 1 : 0;
  return nullptr;
}

void op_ends(const at::RecordFunction& op, at::ObserverContext*) {
  const bool convolution = convolves(op);
  convolutions_deep -= convolution ? 1 : 0;
  if (convolutions_deep > 0) return;
  const std::string_view name = op.name();
  // The places of the factors among the op's inputs.
  size_t left = 0;
  if (name == "aten::addmm" || name == "aten::baddbmm") {
    left = 1;
  } else if (name != "aten::mm" && name != "aten::bmm" && !convolution) {
    return;
  }
  const auto inputs = op.inputs();
  if (inputs.size() < left + 2 || !inputs[left].isTensor() || !inputs[left + 1].isTensor()) return;
  const torch::Tensor a = inputs[left].toTensor(), b = inputs[left + 1].toTensor();
  if (convolution) {  // b [out, in / groups, kernel...]
    const auto outputs = op.outputs();
    if (outputs.empty() || !outputs[0].isTensor()) return;
    counted_flops += 2 * static_cast<double>(outputs[0].toTensor().numel()) *
                     static_cast<double>(b.numel() / b.size(0));
  } else {  // [..., m, k] by [..., k, n]
    counted_flops += 2 * static_cast<double>(a.numel()) * static_cast<double>(b.size(-1));
  }
}

}  // namespace

// Two clients side by side, where they can be: layers are made of plain products then.
double forward_flops(const Network& network, const std::vector<int64_t>& input_shape) {
  torch::NoGradGuard no_grad;
  Rng rng(0, "check");
  const int64_t clients = network.stackable() ? 2 : 1;
  std::vector<int64_t> shape = {clients};
  shape.insert(shape.end(), input_shape.begin(), input_shape.end());
  const Weights weights(network.layout(),
                        network.initial_row(rng).unsqueeze(0).repeat({clients, 1}));
  const torch::Tensor inputs = stack_inputs(torch::zeros(shape), clients);
  counted_flops = 0;
  convolutions_deep = 0;
  const at::CallbackHandle handle =
      at::addThreadLocalCallback(at::RecordFunctionCallback(op_begins, op_ends)
                                     .needsInputs(true)
                                     .needsOutputs(true)
                                     .scopes({at::RecordScope::FUNCTION}));
  try {
    network.forward(weights, inputs);
  } catch (...) {
    at::removeCallback(handle);
    throw;
  }
  at::removeCallback(handle);
  return counted_flops / static_cast<double>(clients);
}

}  // namespace fl_sim
