#include "learning/full_pass.h"

#include <algorithm>
#include <numeric>

#include "network/arithmetic.h"
#include "network/direct_pass.h"
#include "process/interruption.h"

namespace fl_sim {
namespace {

// Calls `work` with the pieces of a list, of at most `size`.
template <class Work>
void in_pieces(std::span<const int64_t> list, int64_t size, const Work& work) {
  for (size_t first = 0; first < list.size(); first += static_cast<size_t>(size)) {
    Interruption::get().at_step();
    work(list.subspan(first, std::min(static_cast<size_t>(size), list.size() - first)));
  }
}

torch::Tensor index_tensor(std::span<const int64_t> list, torch::Device device) {
  return torch::tensor(at::IntArrayRef(list.data(), list.size()), torch::kInt64).to(device);
}

}  // namespace

FullPass::FullPass(const Algorithm::Setup& setup, int64_t batch)
    : network_(setup.network),
      batch_(batch),
      one_thread_(read_options<Arithmetic>(setup.job).one_thread()),
      product_type_(product_type(setup.job)) {}

// Of a client with so many samples.
int64_t FullPass::batch(int64_t samples, bool direct) const {
  const int64_t most = batch_ > 0 ? batch_ : direct ? kBatch : kLargeBatch;
  return std::clamp(samples, int64_t{1}, most);
}

std::unique_ptr<DirectPass> FullPass::direct_pass(const torch::Tensor& rows, int64_t batch) const {
  const bool possible =
      one_thread_ && !product_type_ && rows.is_cpu() && rows.scalar_type() == torch::kFloat32;
  return possible ? network_.direct_pass(batch) : nullptr;
}

void FullPass::load(DirectPass& direct, const ClientData& data, std::span<const int64_t> piece,
                    int64_t client, std::vector<Rng>* streams) const {
  if (!data.changes_inputs()) {
    direct.load(data.train, piece, data.scale, data.shift);
    return;
  }
  const torch::Tensor indices = index_tensor(piece, torch::kCPU);
  std::vector<int64_t> all(piece.size());
  std::iota(all.begin(), all.end(), 0);
  direct.load({inputs(data, indices, torch::kFloat32, client, streams),
               data.train.labels.index_select(0, indices)},
              all, 1, 0);
}

torch::Tensor FullPass::inputs(const ClientData& data, const torch::Tensor& indices,
                               torch::ScalarType dtype, int64_t client,
                               std::vector<Rng>* streams) const {
  const torch::Tensor x = fetch_inputs(data.train, indices, data.scale, data.shift, dtype);
  if (!data.changes_inputs()) return x;
  return (streams != nullptr ? data.changes->apply(x, std::span(&client, 1), *streams)
                             : data.changes->masked(x, client))
      .contiguous();
}

torch::Tensor FullPass::sample_losses(const ClientGroup& group, int64_t k,
                                      const torch::Tensor& row) const {
  torch::NoGradGuard no_grad;
  const ClientData& data = group.data;
  const int64_t id = group.ids[static_cast<size_t>(k)];
  const auto list = data.partition->of(id);
  const int64_t small = batch(std::ssize(list), true), large = batch(std::ssize(list), false);
  if (const auto direct = direct_pass(row, small)) {
    torch::Tensor result = torch::empty({std::ssize(list)}, torch::kFloat64);
    double* next = result.data_ptr<double>();
    in_pieces(list, small, [&](std::span<const int64_t> piece) {
      load(*direct, data, piece, id, nullptr);
      direct->forward(row.data_ptr<float>());
      for (int64_t n = 0; n < std::ssize(piece); ++n) *next++ = direct->sample_loss(n);
    });
    return result;
  }
  std::vector<torch::Tensor> parts;
  Weights weights(network_.layout(), row.view({1, -1}));
  weights.product_type = product_type_;
  in_pieces(list, large, [&](std::span<const int64_t> piece) {
    const torch::Tensor indices = index_tensor(piece, row.device());
    const torch::Tensor x = inputs(data, indices, row.scalar_type(), id, nullptr);
    const torch::Tensor y = data.train.labels.index_select(0, indices).unsqueeze(1);
    parts.push_back(network_.loss(network_.forward(weights, x), y).squeeze(1).to(torch::kFloat64));
  });
  return parts.empty() ? torch::zeros({0}, row.options().dtype(torch::kFloat64))
                       : torch::cat(parts);
}

std::vector<double> FullPass::losses(const ClientGroup& group, const torch::Tensor& rows) const {
  std::vector<double> result;
  for (int64_t k = 0; k < group.size(); ++k) {
    const torch::Tensor losses = sample_losses(group, k, rows[rows.size(0) > 1 ? k : 0]);
    result.push_back(losses.numel() > 0 ? losses.mean().item<double>() : 0);
  }
  return result;
}

torch::Tensor FullPass::gradients(const ClientGroup& group, const torch::Tensor& rows,
                                  int64_t round, const torch::Tensor& statistics) const {
  const ClientData& data = group.data;
  const int64_t trained = network_.layout().trainable(), buffers = rows.size(1) - trained;
  torch::Tensor result = torch::zeros({group.size(), trained}, rows.options());
  int64_t most = 0;
  for (const int64_t id : group.ids) most = std::max(most, data.partition->size(id));
  const auto direct = direct_pass(rows, batch(most, true));
  for (int64_t k = 0; k < group.size(); ++k) {
    const int64_t id = group.ids[static_cast<size_t>(k)];
    const auto list = data.partition->of(id);
    const torch::Tensor row = rows[rows.size(0) > 1 ? k : 0];
    const auto share = [&](std::span<const int64_t> piece) {
      return static_cast<double>(piece.size()) / static_cast<double>(list.size());
    };
    std::vector<Rng> input_streams;
    if (data.changes_inputs())
      input_streams.emplace_back(group.seed, "inputs for gradient", round, id);
    if (direct) {
      in_pieces(list, batch(most, true), [&](std::span<const int64_t> piece) {
        load(*direct, data, piece, id, &input_streams);
        direct->forward(row.data_ptr<float>());
        direct->loss();
        direct->backward(row.data_ptr<float>(), {.row = result[k].data_ptr<float>(),
                                                 .scale = static_cast<float>(share(piece)),
                                                 .add = true});
      });
      continue;
    }
    std::vector<Rng> streams;
    streams.emplace_back(group.seed, "gradient dropout", round, id);
    const torch::Tensor copy = row.clone().view({1, -1});
    // Zeros in the gaps between parameters, which no gradient is written to.
    torch::Tensor part = torch::zeros({1, trained}, rows.options());
    in_pieces(list, batch(most, false), [&](std::span<const int64_t> piece) {
      Weights weights(network_.layout(), copy, part);
      weights.product_type = product_type_;
      weights.streams = streams;
      const torch::Tensor indices = index_tensor(piece, row.device());
      const torch::Tensor x = inputs(data, indices, row.scalar_type(), id, &input_streams);
      const torch::Tensor y = data.train.labels.index_select(0, indices).unsqueeze(1);
      weights.backward(network_.loss(network_.forward(weights, x), y).mean());
      torch::NoGradGuard no_grad;
      result[k].add_(part[0], share(piece));
    });
    if (statistics.defined() && buffers > 0) {
      torch::NoGradGuard no_grad;
      statistics[k].narrow(0, trained, buffers).copy_(copy[0].narrow(0, trained, buffers));
    }
  }
  return result;
}

}  // namespace fl_sim
