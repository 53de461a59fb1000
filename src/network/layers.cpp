#include "network/layers.h"

#include <cmath>

#include "base/check.h"

namespace fl_sim {

namespace {

// An operand of a product, in the type in which the product is wanted.
torch::Tensor operand(const Weights& weights, const torch::Tensor& tensor) {
  return weights.product_type && tensor.defined() ? tensor.to(*weights.product_type) : tensor;
}

}  // namespace

Linear::Linear(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out)
    : in_(in),
      out_(out),
      weight_(layout.add(name + ".weight", {out, in}, 0, 1 / std::sqrt(static_cast<double>(in)))),
      bias_(layout.add(name + ".bias", {out}, 0, 1 / std::sqrt(static_cast<double>(in)))) {}

torch::Tensor Linear::operator()(const Weights& weights, const torch::Tensor& x) const {
  const int64_t clients = weights.clients(), batch = x.size(0);
  const torch::Tensor input = operand(weights, x), weight = operand(weights, weights[weight_]),
                      bias = operand(weights, weights[bias_]);
  if (clients == 1) return torch::linear(input, weight, bias).to(x.scalar_type());
  const torch::Tensor by_client =
      input.reshape({batch, clients, -1, in_}).transpose(0, 1).flatten(1, 2);  // [G, B·T, in]
  const torch::Tensor y = torch::baddbmm(bias.unsqueeze(1), by_client, weight.transpose(1, 2))
                              .view({clients, batch, -1, out_})
                              .transpose(0, 1)
                              .to(x.scalar_type());  // [B, G, T, out]
  return x.dim() == 2 ? y.reshape({batch, -1}) : y.flatten(1, 2);
}

Conv2d::Conv2d(ParameterLayout& layout, const std::string& name, int64_t in, int64_t out,
               int64_t kernel, Options options)
    : in_(in), out_(out), kernel_(kernel), options_(options) {
  const int64_t groups = options.groups;
  FL_CHECK(groups >= 1 && in % groups == 0 && out % groups == 0, "convolution ", name, ": ", in,
           " and ", out, " channels do not divide into ", groups, " groups");
  const auto area = static_cast<double>(kernel * kernel);
  const int64_t group_in = in / groups, group_out = out / groups;
  const double spread = 1 / std::sqrt(static_cast<double>(group_in) * area);
  // Uniform in [-s, s], numbers have variance s² / 3.
  const double he = std::sqrt(6 / (static_cast<double>(group_out) * area));
  weight_ = layout.add(name + ".weight", {out, in / groups, kernel, kernel}, 0,
                       options.he_initial ? he : spread);
  if (options.bias) bias_ = layout.add(name + ".bias", {out}, 0, options.he_initial ? 0 : spread);
}

torch::Tensor Conv2d::operator()(const Weights& weights, const torch::Tensor& x) const {
  const int64_t clients = weights.clients();
  torch::Tensor kernels = operand(weights, weights[weight_]);
  torch::Tensor bias = options_.bias ? operand(weights, weights[bias_]) : torch::Tensor();
  if (clients > 1) {
    kernels =
        kernels.flatten(0, 1);  // a copy: rows lie apart, a grouped convolution wants them together
    if (bias.defined()) bias = bias.flatten();
  }
  torch::Tensor input = operand(weights, x);
  if (clients == 1 && x.is_cpu() && x.scalar_type() == torch::kFloat32 && options_.channels_last) {
    // The convolution itself is no faster so.
    input = input.contiguous(at::MemoryFormat::ChannelsLast);
    kernels = kernels.contiguous(at::MemoryFormat::ChannelsLast);
  }
  return torch::conv2d(input, kernels, bias, options_.stride, options_.padding, 1,
                       clients * options_.groups)
      .to(x.scalar_type());
}

GroupNorm::GroupNorm(ParameterLayout& layout, const std::string& name, int64_t groups,
                     int64_t channels)
    : groups_(groups) {
  FL_CHECK(groups >= 1 && channels % groups == 0, "group norm ", name, ": ", channels,
           " channels do not divide into ", groups, " groups");
  weight_ = layout.add(name + ".weight", {channels}, 1);
  bias_ = layout.add(name + ".bias", {channels}, 0);
  for (const int64_t index : {weight_, bias_}) layout.mark_normalisation(index);
}

torch::Tensor GroupNorm::operator()(const Weights& weights, const torch::Tensor& x) const {
  return torch::group_norm(x, weights.clients() * groups_, weights[weight_].flatten(),
                           weights[bias_].flatten());
}

BatchNorm::BatchNorm(ParameterLayout& layout, const std::string& name, int64_t channels)
    : channels_(channels),
      weight_(layout.add(name + ".weight", {channels}, 1)),
      bias_(layout.add(name + ".bias", {channels}, 0)),
      mean_(layout.add_buffer(name + ".running_mean", {channels}, 0)),
      var_(layout.add_buffer(name + ".running_var", {channels}, 1)) {
  for (const int64_t index : {weight_, bias_, mean_, var_}) layout.mark_normalisation(index);
}

torch::Tensor BatchNorm::operator()(const Weights& weights, const torch::Tensor& x) const {
  constexpr double kMomentum = 0.1, kEpsilon = 1e-5;
  const int64_t clients = weights.clients(), batch = x.size(0);
  torch::Tensor running_mean = weights[mean_], running_var = weights[var_];
  const int64_t values = x.numel() / (batch * clients * channels_);  // of one sample and channel
  if (clients == 1) {
    const bool by_batch = weights.training() && batch * values > 1;
    return torch::batch_norm(x, weights[weight_], weights[bias_], running_mean, running_var,
                             by_batch, kMomentum, kEpsilon, /*cudnn_enabled=*/false);
  }
  // [B, G, C, values], statistics [G, C], and [1, G, C, 1] where they meet.
  const torch::Tensor by_client = x.reshape({batch, clients, channels_, values});
  const std::vector<int64_t> samples_and_values = {0, 3};
  const auto spread = [](const torch::Tensor& per_channel) {
    return per_channel.unsqueeze(0).unsqueeze(-1);
  };
  torch::Tensor mean = running_mean, var = running_var;
  if (weights.training()) {
    const torch::Tensor real =
        weights.mask.defined() ? weights.mask : torch::ones({batch, clients}, x.options());
    const torch::Tensor share = real.view({batch, clients, 1, 1});
    const torch::Tensor n = real.sum(0).mul(values).unsqueeze(1);  // [G, 1]
    const torch::Tensor by_batch = n.gt(1);
    const torch::Tensor batch_mean = by_client.mul(share).sum(samples_and_values) / n;
    const torch::Tensor batch_var =
        (by_client - spread(batch_mean)).square().mul(share).sum(samples_and_values) / n;
    mean = torch::where(by_batch, batch_mean, running_mean.clone());
    var = torch::where(by_batch, batch_var, running_var.clone());
    torch::NoGradGuard no_grad;
    const torch::Tensor momentum =
        by_batch.to(x.dtype()) * kMomentum;  // [G, 1], 0 for a single value
    const torch::Tensor unbiased = batch_var * (n / (n - 1).clamp_min(1));
    running_mean.add_((batch_mean - running_mean) * momentum);
    running_var.add_((unbiased - running_var) * momentum);
  }
  const torch::Tensor y = (by_client - spread(mean)) * spread(torch::rsqrt(var + kEpsilon));
  return (y * spread(weights[weight_]) + spread(weights[bias_])).view(x.sizes());
}

Dropout::Dropout(double p) : p_(p) {
  FL_CHECK(p >= 0 && p < 1, "dropout probability is ", p, " (must be at least 0 and less than 1)");
}

torch::Tensor Dropout::operator()(const Weights& weights, const torch::Tensor& x) const {
  if (!weights.training() || p_ == 0) return x;
  const int64_t clients = weights.clients(), batch = x.size(0);
  const int64_t values = x.numel() / (batch * clients);  // of one client's sample
  const auto threshold = static_cast<uint64_t>(p_ * 4294967296.0);
  const float scale = static_cast<float>(1 / (1 - p_));
  torch::Tensor keep = torch::zeros({batch, clients, values}, torch::kFloat32);
  float* out = keep.data_ptr<float>();
  for (int64_t client = 0; client < clients; ++client) {
    Rng& rng = weights.streams[static_cast<size_t>(client)];
    const int64_t real =
        weights.counts.empty() ? batch : weights.counts[static_cast<size_t>(client)];
    for (int64_t sample = 0; sample < real; ++sample) {
      float* row = out + (sample * clients + client) * values;
      for (int64_t i = 0; i < values; ++i) row[i] = rng.bits() < threshold ? 0 : scale;
    }
  }
  return x * keep.to(x.options()).view(x.sizes());
}

Embedding::Embedding(ParameterLayout& layout, const std::string& name, int64_t codes, int64_t width)
    : name_(name),
      codes_(codes),
      width_(width),
      weight_(layout.add(name + ".weight", {codes, width}, 0, std::sqrt(3.0))) {}

torch::Tensor Embedding::operator()(const Weights& weights, const torch::Tensor& x) const {
  const int64_t clients = weights.clients(), batch = x.size(0);
  torch::Tensor codes = x.detach().to(torch::kInt64);
  // In a stack, a code beyond the table would be one of the next client's.
  const torch::Tensor known =
      codes.eq(x.detach()).logical_and(codes.ge(0)).logical_and(codes.lt(codes_));
  if (!x.is_cpu()) {  // nobody waits for a device in every step; what no table has ends the run
    codes = codes.masked_fill(known.logical_not(), clients * codes_);
  } else if (!known.all().item<bool>()) {
    throw Error(message("layer ", name_, ": the data's numbers are from ", x.min().item<double>(),
                        " to ", x.max().item<double>(),
                        ", but codes must be whole numbers from 0 to ", codes_ - 1));
  }
  torch::Tensor table = weights[weight_];
  if (clients > 1) {
    const torch::Tensor first = torch::arange(clients, codes.options()).mul(codes_);
    codes = codes.view({batch, clients, -1}).add(first.unsqueeze(1)).flatten(1);
    table = table.flatten(0, 1);
  }
  return torch::embedding(table, codes);
}

Lstm::Lstm(ParameterLayout& layout, const std::string& name, int64_t in, int64_t hidden,
           int64_t layers)
    : hidden_(hidden) {
  FL_CHECK(hidden >= 1 && layers >= 1, "LSTM ", name, " has ", layers, " layers of ", hidden,
           " units (must be at least one of each)");
  const double spread = 1 / std::sqrt(static_cast<double>(hidden));
  for (int64_t i = 0; i < layers; ++i) {
    const auto add = [&](const char* kind, std::vector<int64_t> shape) {
      return layout.add(message(name, ".", kind, "_l", i), std::move(shape), 0, spread);
    };
    const int64_t weight_ih = add("weight_ih", {4 * hidden, i == 0 ? in : hidden});
    const int64_t weight_hh = add("weight_hh", {4 * hidden, hidden});
    const int64_t bias_ih = add("bias_ih", {4 * hidden});
    const int64_t bias_hh = add("bias_hh", {4 * hidden});
    layers_.push_back({weight_ih, weight_hh, bias_ih, bias_hh});
  }
}

torch::Tensor Lstm::operator()(const Weights& weights, const torch::Tensor& x) const {
  const int64_t clients = weights.clients(), batch = x.size(0);
  if (clients == 1 && x.is_cpu() && !weights.product_type) {
    std::vector<torch::Tensor> parameters;
    for (const Layer& layer : layers_) {
      for (const int64_t index : {layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh})
        parameters.push_back(weights[index]);
    }
    const auto layers = static_cast<int64_t>(layers_.size());
    const torch::Tensor zeros = torch::zeros({layers, batch, hidden_}, x.options());
    return std::get<0>(torch::lstm(x, {zeros, zeros}, parameters, /*has_biases=*/true, layers,
                                   /*dropout=*/0, weights.training(), /*bidirectional=*/false,
                                   /*batch_first=*/true));
  }
  torch::Tensor y = x.reshape({batch, clients, -1, x.size(2)}).transpose(0, 1);
  for (const Layer& layer : layers_) y = stacked(weights, layer, y);
  return y.transpose(0, 1).flatten(1, 2);
}

// x [G, B, T, in] -> [G, B, T, hidden].
torch::Tensor Lstm::stacked(const Weights& weights, const Layer& layer,
                            const torch::Tensor& x) const {
  const int64_t clients = weights.clients(), batch = x.size(1);
  const auto of_clients = [&](int64_t index) {  // [G, ...], for one client too
    const torch::Tensor& tensor = weights[index];
    return clients == 1 ? tensor.unsqueeze(0) : tensor;
  };
  const torch::Tensor input_weight = operand(weights, of_clients(layer.weight_ih)).transpose(1, 2);
  const torch::Tensor state_weight = operand(weights, of_clients(layer.weight_hh)).transpose(1, 2);
  const torch::Tensor bias = of_clients(layer.bias_ih) + of_clients(layer.bias_hh);
  // What the inputs add to the gates, for all positions at once: T times [G, B, 4·hidden].
  const std::vector<torch::Tensor> from_inputs =
      torch::baddbmm(operand(weights, bias).unsqueeze(1), operand(weights, x.flatten(1, 2)),
                     input_weight)
          .to(x.scalar_type())
          .view({clients, batch, -1, 4 * hidden_})
          .unbind(2);
  torch::Tensor hidden = torch::zeros({clients, batch, hidden_}, x.options()), cell = hidden;
  std::vector<torch::Tensor> states;
  for (const torch::Tensor& from_input : from_inputs) {
    const torch::Tensor from_state =
        torch::bmm(operand(weights, hidden), state_weight).to(x.scalar_type());
    const std::vector<torch::Tensor> gates = (from_input + from_state).chunk(4, 2);
    cell = torch::sigmoid(gates[1]) * cell + torch::sigmoid(gates[0]) * torch::tanh(gates[2]);
    hidden = torch::sigmoid(gates[3]) * torch::tanh(cell);
    states.push_back(hidden);
  }
  return torch::stack(states, 2);
}

torch::Tensor Lstm::last(const Weights& weights, const torch::Tensor& states) {
  return states.view({states.size(0), weights.clients(), -1, states.size(2)})
      .select(2, -1)
      .flatten(1);
}

namespace {

// [B, G·C, ...] -> [B, G, C, ...], a view. One client's tensors stay as they are, so that their
// memory keeps its order (channels last, mostly).
torch::Tensor by_client(const Weights& weights, const torch::Tensor& x) {
  if (weights.clients() == 1) return x;
  std::vector<int64_t> shape = x.sizes().vec();
  shape[1] /= weights.clients();
  shape.insert(shape.begin() + 1, weights.clients());
  return x.view(shape);
}

// And back.
torch::Tensor together(const Weights& weights, const torch::Tensor& x) {
  return weights.clients() == 1 ? x : x.flatten(1, 2);
}

int64_t channel_dimension(const Weights& weights) { return weights.clients() == 1 ? 1 : 2; }

}  // namespace

torch::Tensor join_channels(const Weights& weights, const torch::Tensor& first,
                            const torch::Tensor& second) {
  return together(weights, torch::cat({by_client(weights, first), by_client(weights, second)},
                                      channel_dimension(weights)));
}

std::pair<torch::Tensor, torch::Tensor> halve_channels(const Weights& weights,
                                                       const torch::Tensor& x) {
  const std::vector<torch::Tensor> halves =
      by_client(weights, x).chunk(2, channel_dimension(weights));
  return {together(weights, halves[0]), together(weights, halves[1])};
}

torch::Tensor shuffle_channels(const Weights& weights, const torch::Tensor& x, int64_t groups) {
  const int64_t dimension = channel_dimension(weights);
  const torch::Tensor channels = by_client(weights, x);
  std::vector<int64_t> shape = channels.sizes().vec();
  const auto at = static_cast<size_t>(dimension);
  shape[at] /= groups;
  shape.insert(shape.begin() + dimension, groups);
  return together(
      weights,
      channels.view(shape).transpose(dimension, dimension + 1).flatten(dimension, dimension + 1));
}

torch::Tensor pad_channels(const Weights& weights, const torch::Tensor& x, int64_t before,
                           int64_t after) {
  return together(weights,
                  torch::constant_pad_nd(by_client(weights, x), {0, 0, 0, 0, before, after}));
}

}  // namespace fl_sim
