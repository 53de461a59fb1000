// Mutation tests of checkpoints, and of the files that keep clients' states.
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/checksum.h"
#include "fuzz.h"
#include "storage/checkpoint.h"

namespace fl_sim::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRound = 3, kLength = 5;
const char* const kFolder = "run.checkpoint/round-00000003/";

std::string hexadecimal_crc(const std::string& bytes) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", crc_of(bytes));
  return digits;
}

// With the checksum that it has to end with.
std::string sealed_manifest(const std::string& body) {
  return body + "\ncrc32 " + hexadecimal_crc(body) + "\n";
}

std::string body_of(const std::string& manifest) {
  return manifest.substr(0, manifest.rfind("\ncrc32 "));
}

// A checkpoint of a server and of two ranks' clients: rank r has clients r and r + 10.
Manifest write_checkpoint(const std::string& folder, double value) {
  ServerState server;
  server.round = kRound;
  server.weights = torch::full({1, 7}, value);
  server.shared["control"] = torch::full({4}, value);
  server.hidden["a/b"] = torch::arange(3, torch::kFloat64);
  server.memory["count"] = torch::tensor({int64_t{7}});
  Manifest manifest{.round = kRound, .folder = round_folder(folder, kRound), .program = "test"};
  manifest.partition = manifest.data = "0123";
  manifest.job = {{"seed", "0"}, {"output", "x.h5"}};
  manifest.files = {write_server_file(manifest.folder, server)};
  for (int rank = 0; rank < 2; ++rank) {
    ClientStore store("", 0, rank);
    for (const int64_t client : {rank, rank + 10})
      store.put(client, torch::full({kLength}, value + static_cast<double>(client)));
    CheckpointWriter writer;
    writer.start(manifest.folder, rank, kRound, kLength, torch::kFloat32, store.capture());
    manifest.files.push_back(writer.take(true)->file);
  }
  commit(manifest);
  return manifest;
}

// What a run would go on with, as text.
std::string state_text(const std::string& folder) {
  const std::optional<Manifest> found = find_checkpoint(folder);
  if (!found) throw Error(message(folder, ": no checkpoint"));
  std::ostringstream out;
  const auto add = [&](const std::string& name, const torch::Tensor& tensor) {
    Checksum checksum;
    checksum.add({static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()});
    out << name << " " << tensor.sizes() << " " << tensor.scalar_type() << " " << checksum.text()
        << "\n";
  };
  const auto show = [&](const State& state) {
    for (const auto& [name, tensor] : state) add(name, tensor);
  };
  const ServerState server = read_server_file(*found);
  out << found->round << " " << server.round << "\n";
  add("weights", server.weights);
  show(server.shared);
  show(server.hidden);
  show(server.memory);
  ClientStore store("", 0, 0);
  for (size_t i = 1; i < found->files.size(); ++i)
    read_clients_file(*found, found->files[i], store);
  for (const int64_t client : store.clients()) add(std::to_string(client), store.get(client));
  return out.str();
}

// Checksums cover it all: refused, or the same.
std::function<Outcome()> sealed_reader(const std::string& folder) {
  const std::string valid = state_text(folder);
  return [=] {
    return attempt({folder}, [&]() -> std::string {
      const std::string text = state_text(folder);
      return text == valid ? "" : "checksums were right, and what was read differs:\n" + text;
    });
  };
}

// Checksums were made to fit.
std::function<Outcome()> reader(const std::string& folder) {
  return [=] {
    return attempt({folder}, [&] {
      state_text(folder);
      return std::string();
    });
  };
}

const std::vector<std::string>& checkpoint_files() {
  static const std::vector<std::string> files = {
      std::string(kFolder) + "manifest", std::string(kFolder) + "server.h5",
      std::string(kFolder) + "rank-0.h5", std::string(kFolder) + "rank-1.h5"};
  return files;
}

// Damaged bytes, or the file of another rank, of another run, or of another round.
Case sealed_checkpoint() {
  const Folder folder = folder_of("checkpoints");
  const std::string place = folder->path() / "run.checkpoint";
  write_checkpoint(place, 1);
  write_checkpoint(folder->path() / "other.checkpoint", 2);
  std::vector<std::string> others;
  for (const std::string& file : checkpoint_files()) {
    others.push_back(bytes_of(folder->path() / file));
    others.push_back(bytes_of(folder->path() / "other.checkpoint" /
                              fs::path(file).lexically_relative("run.checkpoint")));
  }
  const Damage damage = [=](std::string bytes, Rng& rng) {
    return rng.below(6) == 0 ? others[static_cast<size_t>(rng.below(std::ssize(others)))]
                             : mutated(std::move(bytes), rng);
  };
  return files_case(folder, checkpoint_files(), sealed_reader(place), damage);
}

// What the manifest says, with a checksum that is right.
Case manifest_contents() {
  const Folder folder = folder_of("checkpoints");
  const std::string place = folder->path() / "run.checkpoint";
  write_checkpoint(place, 1);
  const Damage damage = [](std::string bytes, Rng& rng) {
    using nlohmann::json;
    if (rng.below(2) == 0) return sealed_manifest(mutated(body_of(bytes), rng));
    static const std::vector<json> values = {nullptr,
                                             -1,
                                             0,
                                             4,
                                             1e300,
                                             9223372036854775808u,
                                             "",
                                             "../manifest",
                                             "x\0y",
                                             true,
                                             json::array(),
                                             json::object(),
                                             0.5,
                                             "3"};
    json all = json::parse(body_of(bytes));
    const auto value = [&] { return values[static_cast<size_t>(rng.below(std::ssize(values)))]; };
    const auto change = [&](json& object) {
      auto member = object.begin();
      std::advance(member, rng.below(static_cast<int64_t>(object.size())));
      if (rng.below(4) == 0) {
        object.erase(member);
      } else {
        *member = value();
      }
    };
    const int64_t kind = rng.below(4);
    json& files = all["files"];
    if (kind == 0) {
      change(all);
    } else if (kind == 1) {
      files.push_back(files[static_cast<size_t>(rng.below(static_cast<int64_t>(files.size())))]);
    } else {
      change(files[static_cast<size_t>(rng.below(static_cast<int64_t>(files.size())))]);
    }
    return sealed_manifest(all.dump(1));
  };
  return files_case(folder, {checkpoint_files()[0]}, reader(place), damage);
}

// The HDF5 files, with a manifest that was made to fit.
Case checkpoint_contents(bool bytes) {
  const Folder folder = folder_of("checkpoints");
  const std::string place = folder->path() / "run.checkpoint";
  write_checkpoint(place, 1);
  std::vector<std::string> originals;
  for (const std::string& file : checkpoint_files())
    originals.push_back(bytes_of(folder->path() / file));
  Case c;
  c.damage = [=](Rng& rng) {
    const auto file = static_cast<size_t>(1 + rng.below(3));
    const std::string& name = checkpoint_files()[file];
    const int64_t swaps = rng.below(20);
    if (swaps == 0) {
      folder->write(name, originals[static_cast<size_t>(1 + rng.below(3))]);
    } else if (bytes) {
      folder->write(name, mutated(originals[file], rng));
    } else {
      damage_hdf5(folder->path() / name, rng);
    }
    const std::string now = bytes_of(folder->path() / name);
    nlohmann::json manifest = nlohmann::json::parse(body_of(originals[0]));
    manifest["files"][file - 1]["bytes"] = now.size();
    manifest["files"][file - 1]["crc32"] = hexadecimal_crc(now);
    folder->write(checkpoint_files()[0], sealed_manifest(manifest.dump(1)));
    return name;
  };
  c.restore = [=] {
    for (size_t i = 0; i < originals.size(); ++i)
      folder->write(checkpoint_files()[i], originals[i]);
  };
  c.read = reader(place);
  if (bytes) c.crashing_library = "libhdf5";
  return c;
}

// Files of states beyond the memory that there is, damaged while a run goes on.
Case client_files() {
  const Folder folder = folder_of("states");
  const std::string place = folder->path() / "states";
  auto damage = std::make_shared<std::function<std::string(const std::string&, size_t)>>();
  const auto read = [=] {
    return attempt({place}, [&]() -> std::string {
      // Room for one state of three.
      ClientStore store(place, kLength * 8, 0);
      for (const int64_t client : {0, 1, 2})
        store.put(client, torch::full({kLength}, static_cast<double>(client), torch::kFloat64));
      const auto file = [](int64_t client) {
        return "states/rank-0/client-" + std::to_string(client) + ".state";
      };
      if (*damage) {
        const std::string first = bytes_of(folder->path() / file(0));
        folder->write(file(1), (*damage)(bytes_of(folder->path() / file(1)) + first, first.size()));
      }
      const torch::Tensor state = store.get(1);
      return state.equal(torch::full({kLength}, 1.0, torch::kFloat64))
                 ? ""
                 : "its checksum is right, and the state differs";
    });
  };
  return {[=](Rng& rng) -> std::string {
            *damage = [rng](const std::string& both, size_t half) mutable {
              const std::string own = both.substr(0, half), other = both.substr(half);
              return rng.below(10) == 0 ? other : mutated(own, rng);
            };
            return "client-1.state";
          },
          [=] { *damage = nullptr; }, read, ""};
}

}  // namespace

std::vector<Entry> checkpoint_cases() {
  return {{"checkpoint", 40, sealed_checkpoint},
          {"checkpoint manifest", 40, manifest_contents},
          {"checkpoint objects", 80, [] { return checkpoint_contents(false); }},
          {"checkpoint bytes", 40, [] { return checkpoint_contents(true); }},
          {"client states", 40, client_files}};
}

}  // namespace fl_sim::fuzz
