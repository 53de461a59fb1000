#include "storage/snapshot.h"

#include <algorithm>

#include "base/check.h"
#include "base/hdf5_file.h"

namespace fl_sim {
namespace {

// A slash in a name would make a group.
std::string plain(std::string name) {
  std::replace(name.begin(), name.end(), '/', '|');
  return name;
}
std::string original(std::string name) {
  std::replace(name.begin(), name.end(), '|', '/');
  return name;
}

void write(Hdf5File& file, const std::string& path, const torch::Tensor& tensor) {
  const torch::Tensor values = tensor.detach().cpu().contiguous();
  const auto n = static_cast<size_t>(values.numel());
  const std::vector<int64_t> shape = values.sizes().vec();
  switch (values.scalar_type()) {
    case torch::kFloat32:
      file.write(path, std::span(values.data_ptr<float>(), n), shape);
      break;
    case torch::kFloat64:
      file.write(path, std::span<const double>(values.data_ptr<double>(), n), shape);
      break;
    case torch::kInt64:
      file.write(path, std::span<const int64_t>(values.data_ptr<int64_t>(), n), shape);
      break;
    default:
      throw Error(message(path, " is of type ", values.scalar_type(),
                          " (state must be float32, float64 or int64)"));
  }
  file.write_attribute(path, "type", std::string(c10::toString(values.scalar_type())));
}

torch::Tensor read(const Hdf5File& file, const std::string& path) {
  const std::string type = file.read_text_attribute(path, "type");
  const std::vector<int64_t> shape = file.shape(path);
  const auto tensor = [&](auto values, torch::ScalarType scalar_type) {
    return torch::from_blob(values.data(), shape, scalar_type).clone();
  };
  if (type == c10::toString(torch::kFloat32))
    return tensor(file.read_floats(path), torch::kFloat32);
  if (type == c10::toString(torch::kFloat64))
    return tensor(file.read_doubles(path), torch::kFloat64);
  FL_CHECK(type == c10::toString(torch::kInt64), path, " has type '", type,
           "' (must be Float, Double or Long)");
  return tensor(file.read_integers(path), torch::kInt64);
}

void write_state(Hdf5File& file, const std::string& group, const State& state) {
  file.write_attribute(group, "tensors", std::ssize(state));
  for (const auto& [name, tensor] : state) write(file, group + "/" + plain(name), tensor);
}

State read_state(const Hdf5File& file, const std::string& group) {
  State state;
  for (const std::string& name : file.names(group))
    state[original(name)] = read(file, group + "/" + name);
  return state;
}

}  // namespace

void write_server(Hdf5File& file, const ServerState& server) {
  const std::vector<int64_t> round = {server.round};
  file.write("/server/round", std::span(round));
  write(file, "/server/weights", server.weights);
  write_state(file, "/server/shared", server.shared);
  write_state(file, "/server/hidden", server.hidden);
}

ServerState read_server(const Hdf5File& file) {
  ServerState server;
  server.round = file.read_integers("/server/round").at(0);
  server.weights = read(file, "/server/weights");
  server.shared = read_state(file, "/server/shared");
  server.hidden = read_state(file, "/server/hidden");
  return server;
}

void save_snapshot(const std::string& path, const ServerState& server, ClientStore& clients) {
  Hdf5File file = Hdf5File::create(path);
  write_server(file, server);
  const std::vector<int64_t> ids = clients.clients();
  file.write_attribute("/clients", "number", std::ssize(ids));
  for (const int64_t id : ids) write(file, message("/clients/", id), clients.get(id));
  file.close();
}

ServerState load_snapshot(const std::string& path, ClientStore& clients) {
  const Hdf5File file = Hdf5File::open(path);
  for (const std::string& id : file.names("/clients"))
    clients.put(std::stoll(id), read(file, "/clients/" + id));
  return read_server(file);
}

}  // namespace fl_sim
