#include "engine/contract.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace fl_sim {
namespace {

constexpr int64_t kLongest = int64_t{1} << 40;  // of a vector

std::vector<ServerShapes::Shape> shapes_of(const ServerState& server) {
  std::vector<ServerShapes::Shape> shapes;
  const auto add = [&](std::string what, const torch::Tensor& tensor) {
    shapes.push_back({std::move(what)});
    if (!tensor.defined()) return;
    shapes.back().contiguous = tensor.is_contiguous();
    shapes.back().type = tensor.scalar_type();
    shapes.back().sizes = tensor.sizes().vec();
  };
  add("weights", server.weights);
  for (const auto& [name, tensor] : server.shared) add("shared '" + name + "'", tensor);
  for (const auto& [name, tensor] : server.hidden) add("hidden '" + name + "'", tensor);
  for (const auto& [name, tensor] : server.memory) add("memory '" + name + "'", tensor);
  return shapes;
}

}  // namespace

void check_needs(const std::string& who, const Needs& needs) {
  const auto at_least = [&](const char* member, int64_t value, int64_t least) {
    FL_CHECK(value >= least, who, ": Needs::", member, " is ", value, " (must be at least ", least,
             ")");
  };
  at_least("exchanges", needs.exchanges, 1);
  at_least("models", needs.models, 1);
  at_least("lanes", needs.lanes, 1);
  at_least("models_received", needs.models_received, 0);
  FL_CHECK(needs.lanes == 1 || needs.lanes == needs.models, who, ": Needs::lanes is ", needs.lanes,
           ", but models is ", needs.models, " (must be the same: lane i trains model i)");
  for (const VectorSizes* sizes : {&needs.client_state, &needs.additive}) {
    const std::string member = sizes == &needs.additive ? "additive" : "client_state";
    for (const auto& [name, size] : *sizes) {
      FL_CHECK(!name.empty(), who, ": Needs::", member, " has a vector without a name");
      FL_CHECK(size >= 1 && size <= kLongest, who, ": Needs::", member, "[\"", name, "\"] is ",
               size, " (must be a length, 1 to 2^40)");
    }
  }
}

Untouched::Untouched(const GlobalModel& global) : before_(changes(global)) {}

void Untouched::check(const std::string& who, const GlobalModel& global) const {
  FL_CHECK(changes(global) == before_, who,
           " changes the model that clients are sent, or what goes with it, in place; others start "
           "from it too (work on the group's rows, or on a clone(): narrow() and [] are views)");
}

uint64_t Untouched::changes(const GlobalModel& global) {
  uint64_t count = global.weights._version();
  for (const auto& [name, tensor] : global.shared) count += tensor._version();
  return count;
}

std::string ServerShapes::Shape::text() const {
  if (!type) return name + " is not defined";
  return message(name, " is ", c10::toString(*type), " ", torch::IntArrayRef(sizes),
                 contiguous ? "" : ", not contiguous");
}

ServerShapes::ServerShapes(const ServerState& server) : shapes_(shapes_of(server)) {}

void ServerShapes::check(const std::string& who, const ServerState& server) const {
  const std::vector<Shape> now = shapes_of(server);
  const auto [was, is] = std::mismatch(shapes_.begin(), shapes_.end(), now.begin(), now.end());
  const auto text = [](auto place, auto end) {
    return place == end ? "nothing more" : place->text();
  };
  FL_CHECK(was == shapes_.end() && is == now.end(), who,
           " leaves other tensors of the server than init() made: ", text(is, now.end()),
           ", where there was ", text(was, shapes_.end()),
           " (make all of them in init(), and change what is in them)");
  FL_CHECK(std::isfinite(server.weights.sum().item<double>()), who, " leaves a model that is not ",
           "finite after round ", server.round,
           " (a smaller server.lr or local.lr may help; rounds before it are in the results)");
}

}  // namespace fl_sim
