#include "engine/client_state.h"

#include <utility>

#include "engine/experiment.h"

namespace fl_sim {

StateLayout::StateLayout(VectorSizes sizes) : sizes_(std::move(sizes)) {
  for (const auto& [name, size] : sizes_) length_ += size;
}

State StateLayout::zeros(int64_t clients, const torch::TensorOptions& options) const {
  State state;
  for (const auto& [name, size] : sizes_) state[name] = torch::zeros({clients, size}, options);
  return state;
}

void StateLayout::unpack(const torch::Tensor& packed, State& state, int64_t row) const {
  int64_t offset = 0;
  for (const auto& [name, size] : sizes_) {
    state.at(name)[row].copy_(packed.narrow(0, offset, size));
    offset += size;
  }
}

torch::Tensor StateLayout::pack(const State& next, const State& old, int64_t row,
                                torch::ScalarType type) const {
  std::vector<torch::Tensor> parts;
  for (const auto& [name, size] : sizes_) {
    const auto found = next.find(name);
    parts.push_back((found != next.end() ? found->second : old.at(name))[row].to(type));
  }
  return torch::cat(parts).cpu();
}

StateLayout state_layout(const Experiment& e) {
  VectorSizes sizes = e.algorithm->needs().client_state;
  for (const auto& [name, transform] : e.transforms) {
    for (const auto& [vector, size] : transform->client_state()) sizes[name + "." + vector] = size;
  }
  return StateLayout(std::move(sizes));
}

// Sends first, receives then: nobody waits for somebody who waits. A leading 1 says that there is a
// state: a client whose updates were all refused so far has none.
void move_states(const std::vector<StateMove>& moves, ClientStore& store, Communicator& comm,
                 int64_t length, torch::ScalarType type) {
  const auto options = torch::dtype(type);
  for (const StateMove& move : moves) {
    if (move.from != comm.rank()) continue;
    torch::Tensor packet = torch::zeros({1 + length}, options);
    if (store.has(move.client)) {
      packet[0] = 1;
      packet.narrow(0, 1, length).copy_(store.get(move.client));
      store.erase(move.client);
    }
    comm.send(packet, static_cast<int>(move.to));
  }
  for (const StateMove& move : moves) {
    if (move.to != comm.rank()) continue;
    torch::Tensor packet = torch::empty({1 + length}, options);
    comm.receive(packet, static_cast<int>(move.from));
    if (packet[0].item<double>() == 1) store.put(move.client, packet.narrow(0, 1, length).clone());
  }
  comm.finish_sends();  // a large message needs its sender until it is through
}

}  // namespace fl_sim
