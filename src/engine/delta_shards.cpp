#include "engine/delta_shards.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace fl_sim {
namespace {

constexpr int64_t kBlock = DeltaShards::kBlock;
// Coordinates of a block that a rule sees at once: it may copy them often.
constexpr int64_t kSlice = 1 << 13;

int64_t block_size(int64_t length, int64_t block) {
  return std::min(kBlock, length - block * kBlock);
}

}  // namespace

void DeltaShards::each_block(const std::vector<int64_t>& clients, int64_t length,
                             const std::function<void(int64_t, torch::Tensor)>& work) {
  const int64_t m = std::ssize(clients), ranks = comm_.size(), me = comm_.rank();
  // Who has which: every rank's list on every rank.
  std::string mine;
  for (const int64_t client : clients) mine += rows_.contains(client) ? '1' : '0';
  std::string all;
  for (const std::string& part : comm_.gather(mine)) all += part;
  comm_.broadcast(all);
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(ranks));  // in `clients`, by rank
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] == '1') places[i / static_cast<size_t>(m)].push_back(static_cast<int64_t>(i) % m);
  }

  const auto own_rows = [&](int64_t first, int64_t n) {
    std::vector<torch::Tensor> rows;
    for (const int64_t place : places[static_cast<size_t>(me)]) {
      rows.push_back(rows_.at(clients[static_cast<size_t>(place)]).narrow(0, first, n).cpu());
    }
    return torch::stack(rows);
  };
  const int64_t blocks = (length + kBlock - 1) / kBlock;
  for (int64_t wave = 0; wave < blocks; wave += ranks) {
    for (int64_t block = wave; block < std::min(wave + ranks, blocks); ++block) {
      if (block % ranks == me || places[static_cast<size_t>(me)].empty()) continue;
      comm_.send(own_rows(block * kBlock, block_size(length, block)),
                 static_cast<int>(block % ranks));
    }
    const int64_t block = wave + me;
    if (block < blocks) {
      const int64_t n = block_size(length, block);
      torch::Tensor rows = torch::zeros({m, n}, torch::kFloat64);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const std::vector<int64_t>& there = places[static_cast<size_t>(rank)];
        if (there.empty()) continue;
        torch::Tensor part;
        if (rank == me) {
          part = own_rows(block * kBlock, n);
        } else {
          part = torch::empty({std::ssize(there), n}, torch::dtype(type_));
          comm_.receive(part, static_cast<int>(rank));
        }
        rows.index_copy_(0, torch::tensor(there, torch::kInt64), part.to(torch::kFloat64));
      }
      work(block * kBlock, std::move(rows));
    }
    comm_.finish_sends();
  }
}

torch::Tensor DeltaShards::products(const std::vector<int64_t>& clients, int64_t length) {
  const int64_t m = std::ssize(clients);
  // The largest row's square, of which all ranks make the same scale.
  double largest = 0;
  for (const int64_t client : clients) {
    const auto found = rows_.find(client);
    if (found == rows_.end()) continue;
    const torch::Tensor row = found->second.narrow(0, 0, length).to(torch::kFloat64);
    largest = std::max(largest, row.dot(row).item<double>());
  }
  for (const double other : comm_.gather_records(std::vector<double>{largest}))
    largest = std::max(largest, other);
  comm_.broadcast(largest);
  const double scale = largest > 0 ? std::ldexp(1.0, 57 - std::ilogb(largest)) : 1;

  torch::Tensor sum = torch::zeros({m, m}, torch::kInt64);
  each_block(clients, length, [&](int64_t, const torch::Tensor& rows) {
    sum.add_(rows.mm(rows.t()).mul_(scale).round_().to(torch::kInt64));
  });
  comm_.sum_to_root(sum);
  return sum.to(torch::kFloat64).div_(scale);
}

torch::Tensor DeltaShards::combine(const std::vector<int64_t>& clients, int64_t length,
                                   const Rule& rule) {
  const int64_t ranks = comm_.size();
  const int64_t blocks = (length + kBlock - 1) / kBlock;
  // A rank's blocks, one after the other.
  std::vector<torch::Tensor> own;
  each_block(clients, length, [&](int64_t, const torch::Tensor& rows) {
    for (int64_t first = 0; first < rows.size(1); first += kSlice) {
      const int64_t n = std::min(kSlice, rows.size(1) - first);
      own.push_back(rule(rows.narrow(1, first, n).contiguous()).to(type_));
    }
  });
  if (comm_.rank() != 0) {
    if (!own.empty()) comm_.send(torch::cat(own), 0);
    comm_.finish_sends();
    return {};
  }
  torch::Tensor row = torch::empty({length}, torch::dtype(type_));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    int64_t total = 0;
    for (int64_t block = rank; block < blocks; block += ranks) total += block_size(length, block);
    if (total == 0) continue;
    torch::Tensor part;
    if (rank == 0) {
      part = torch::cat(own);
    } else {
      part = torch::empty({total}, torch::dtype(type_));
      comm_.receive(part, static_cast<int>(rank));
    }
    int64_t offset = 0;
    for (int64_t block = rank; block < blocks; block += ranks) {
      const int64_t n = block_size(length, block);
      row.narrow(0, block * kBlock, n).copy_(part.narrow(0, offset, n));
      offset += n;
    }
  }
  return row;
}

}  // namespace fl_sim
