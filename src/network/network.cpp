#include "network/network.h"

#include "base/check.h"
#include "network/direct_pass.h"
#include "network/useful_line.h"

namespace fl_sim {

torch::Tensor Network::loss(const torch::Tensor& output, const torch::Tensor& labels) const {
  return objective_.losses(output, labels);
}

torch::Tensor Network::represent(const Weights&, torch::Tensor) const {
  throw Error("this model names no representation (has_representation() is false)");
}

torch::Tensor Network::classify(const Weights&, const torch::Tensor&) const {
  throw Error("this model names no head of its own (has_representation() is false)");
}

std::vector<std::string> Network::head() const {
  const auto prefix = [](const std::string& name) { return name.substr(0, name.rfind('.') + 1); };
  std::string last;
  for (const Parameter& parameter : layout_.parameters()) {
    if (parameter.trainable) last = parameter.name;
  }
  std::vector<std::string> names;
  for (const Parameter& parameter : layout_.parameters()) {
    const bool single = prefix(last).empty();  // "w": itself alone
    if (single ? parameter.name == last : prefix(parameter.name) == prefix(last))
      names.push_back(parameter.name);
  }
  return names;
}

std::vector<std::string> Network::findings(const torch::Tensor&, const torch::Tensor&) const {
  return {};
}

std::unique_ptr<DirectPass> Network::direct_pass(int64_t) const { return nullptr; }

torch::Tensor stack_inputs(const torch::Tensor& inputs, int64_t clients) {
  if (clients == 1) return inputs;
  std::vector<int64_t> shape = inputs.sizes().vec();
  shape[0] /= clients;
  shape[1] *= clients;
  return inputs.view(shape);
}

void check_network(const Network& network, const std::string& name,
                   const std::vector<int64_t>& input_shape, int64_t outputs, int64_t positions) {
  torch::NoGradGuard no_grad;
  Rng rng(0, "check");
  std::vector<int64_t> shape = {2};
  shape.insert(shape.end(), input_shape.begin(), input_shape.end());
  const std::string misfit =
      message("model ", name, " does not fit the data (samples of shape ",
              torch::IntArrayRef(input_shape), ", ", outputs, outputs == 1 ? " output" : " outputs",
              positions > 1 ? message(" at each of ", positions, " positions") : "", "): ");
  torch::Tensor result;
  try {
    const Weights weights(network.layout(), network.initial_row(rng).unsqueeze(0));
    result = network.forward(weights, torch::zeros(shape));
  } catch (const ForwardError& error) {
    throw Error(misfit + error.reason());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(misfit + useful_line(error));
  }
  FL_CHECK(result.dim() == 2 && result.size(0) == 2 && result.size(1) == positions * outputs,
           misfit, "for 2 samples it returns ", result.sizes(), ", expected [2, ",
           positions * outputs, "]");
}

}  // namespace fl_sim
