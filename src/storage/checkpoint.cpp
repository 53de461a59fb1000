#include "storage/checkpoint.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/engine_options.h"
#include "base/files.h"
#include "base/hdf5_file.h"
#include "base/text.h"
#include "base/version.h"
#include "process/interruption.h"
#include "process/test_hooks.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kFormat = "fl_sim checkpoint";
constexpr const char* kManifest = "manifest";
constexpr const char* kPrefix = "round-";
constexpr const char* kServer = "server.h5";
constexpr const char* kVersions = "/server/versions";  // of the model, by number
constexpr const char* kDrawn = "/server/drawn";

std::string hexadecimal(uLong number) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08lx", number);
  return digits;
}

std::string crc_of(const std::string& bytes) {
  return hexadecimal(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

// Size and checksum of what is there.
CheckpointFile measure(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  std::ifstream file(path, std::ios::binary);
  FL_CHECK(file, path, ": cannot be read (", std::strerror(errno), ")");
  std::vector<char> block(1 << 20);
  CheckpointFile result{.name = name};
  uLong crc = 0;
  while (file) {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    const auto n = static_cast<size_t>(file.gcount());
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(block.data()), n);
    result.bytes += static_cast<int64_t>(n);
  }
  FL_CHECK(file.eof(), path, ": cannot be read (", std::strerror(errno), ")");
  result.checksum = hexadecimal(crc);
  return result;
}

// Rounds of the folders there, the latest first.
std::vector<int64_t> rounds_in(const std::string& folder) {
  std::vector<int64_t> rounds;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || name.size() < 7 || name.size() > 24) continue;
    const std::string digits = name.substr(std::strlen(kPrefix));
    if (std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }))
      rounds.push_back(std::stoll(digits));
  }
  std::sort(rounds.rbegin(), rounds.rend());
  return rounds;
}

// A slash in a name would make a group.
std::string plain(std::string name) {
  std::replace(name.begin(), name.end(), '/', '|');
  return name;
}
std::string original(std::string name) {
  std::replace(name.begin(), name.end(), '|', '/');
  return name;
}

void write_tensor(Hdf5File& file, const std::string& path, const torch::Tensor& tensor) {
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

// `where`: the file's name, for messages.
torch::Tensor read_tensor(const Hdf5File& file, const std::string& where, const std::string& path) {
  const std::string type = file.read_text_attribute(path, "type");
  const std::vector<int64_t> shape = file.shape(path);
  const auto tensor = [&](auto values, torch::ScalarType scalar_type) {
    return torch::from_blob(values.data(), shape, scalar_type).clone();
  };
  if (type == c10::toString(torch::kFloat32))
    return tensor(file.read_floats(path), torch::kFloat32);
  if (type == c10::toString(torch::kFloat64))
    return tensor(file.read_doubles(path), torch::kFloat64);
  FL_CHECK(type == c10::toString(torch::kInt64), where, ": ", path, " has type '", type,
           "' (must be Float, Double or Long)");
  return tensor(file.read_integers(path), torch::kInt64);
}

void write_state(Hdf5File& file, const std::string& group, const State& state) {
  file.write_attribute(group, "tensors", std::ssize(state));
  for (const auto& [name, tensor] : state) write_tensor(file, group + "/" + plain(name), tensor);
}

State read_state(const Hdf5File& file, const std::string& where, const std::string& group) {
  State state;
  for (const std::string& name : file.names(group))
    state[original(name)] = read_tensor(file, where, group + "/" + name);
  return state;
}

void write_server(Hdf5File& file, const ServerState& server) {
  const std::vector<int64_t> round = {server.round};
  file.write("/server/round", std::span(round));
  write_tensor(file, "/server/weights", server.weights);
  write_state(file, "/server/shared", server.shared);
  write_state(file, "/server/hidden", server.hidden);
  write_state(file, "/server/memory", server.memory);
  for (const auto& [version, model] : server.versions) {
    const std::string group = message(kVersions, "/", version);
    write_tensor(file, group + "/weights", model.weights);
    write_state(file, group + "/shared", model.shared);
  }
  if (!server.drawn.empty()) file.write(kDrawn, std::span<const int64_t>(server.drawn));
}

ServerState read_server(const std::string& where) {
  const Hdf5File file = Hdf5File::open(where);
  ServerState server;
  const std::vector<int64_t> round = file.read_integers("/server/round");
  FL_CHECK(round.size() == 1, where, ": /server/round holds ", round.size(),
           " numbers (must be one)");
  server.round = round[0];
  server.weights = read_tensor(file, where, "/server/weights");
  server.shared = read_state(file, where, "/server/shared");
  server.hidden = read_state(file, where, "/server/hidden");
  server.memory = read_state(file, where, "/server/memory");
  if (file.has(kDrawn)) server.drawn = file.read_integers(kDrawn);
  if (!file.has(kVersions)) return server;
  for (const std::string& name : file.names(kVersions)) {
    const std::string group = message(kVersions, "/", name);
    GlobalModel& model = server.versions[std::stoll(name)];
    model.weights = read_tensor(file, where, group + "/weights");
    model.shared = read_state(file, where, group + "/shared");
  }
  return server;
}

// So many rows at a time pass through memory.
int64_t rows_at_once(int64_t length) {
  constexpr int64_t kNumbers = 1 << 22;
  return std::max<int64_t>(1, kNumbers / std::max<int64_t>(1, length));
}

template <class Number>
void write_states(Hdf5File& file, const std::vector<ClientStore::Saved>& states, int64_t length) {
  const int64_t n = std::ssize(states), step = rows_at_once(length);
  std::vector<Number> block;
  for (int64_t first = 0; first < n; first += step) {
    block.clear();
    for (int64_t i = first; i < std::min(n, first + step); ++i) {
      const torch::Tensor state = states[static_cast<size_t>(i)].load().contiguous();
      const Number* data = state.data_ptr<Number>();
      block.insert(block.end(), data, data + state.numel());
    }
    file.write_rows("/clients/state", first, std::span<const Number>(block));
  }
}

template <class Number>
void read_states(const Hdf5File& file, const std::vector<int64_t>& ids, int64_t length,
                 torch::ScalarType type, ClientStore& clients) {
  for (size_t i = 0; i < ids.size(); ++i) {
    torch::Tensor state = torch::empty({length}, type);
    file.read_rows("/clients/state", static_cast<int64_t>(i),
                   std::span<Number>(state.data_ptr<Number>(), static_cast<size_t>(length)));
    clients.put(ids[i], std::move(state));
  }
}

// A number of a manifest, from 0 on.
int64_t whole(const Json& json, const std::string& path, const char* what) {
  FL_CHECK(json.is_number_unsigned() && json.get<uint64_t>() <= INT64_MAX, path, ": ", what,
           " is no whole number from 0 on");
  return json.get<int64_t>();
}

}  // namespace

int64_t saving_block(int64_t length) { return rows_at_once(length) * length; }

const OptionSet<CheckpointOptions> CheckpointOptions::kOptions(
    600, {{&CheckpointOptions::every,
           {.name = "checkpoint-every",
            .default_value = "0",
            .meaning = "rounds between checkpoints, from which --resume goes on; 0: only when a "
                       "signal (SIGUSR1, SIGTERM, SIGINT, SIGHUP) stops the run",
            .range = at_least(0),
            .changes_results = false}},
          {&CheckpointOptions::folder,
           {.name = "checkpoint-dir",
            .default_value = "auto",
            .meaning = "folder for checkpoints, which all ranks see; auto: where the results file "
                       "is",
            .changes_results = false,
            .path = true}},
          {&CheckpointOptions::resume,
           {.name = "resume",
            .default_value = "no",
            .meaning = "go on from this job's checkpoint: auto, if there is one (a job that is "
                       "complete stays as it is); must, or else it is an error",
            .choices = {"no", "auto", "must"},
            .changes_results = false}},
          {&CheckpointOptions::keep,
           {.name = "keep-checkpoint",
            .default_value = "false",
            .meaning = "a run that is through leaves the checkpoint of its last round, from which "
                       "--resume auto with more rounds goes on",
            .changes_results = false}}});

std::string checkpoint_folder(const Job& job) {
  const std::string folder = read_options<CheckpointOptions>(job).folder;
  fs::path path = job.get<std::string>("output");
  path.replace_extension(".checkpoint");
  return (folder == "auto" ? path : fs::path(folder) / path.filename()).string();
}

std::string round_folder(const std::string& folder, int64_t round) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%08lld", static_cast<long long>(round));
  return folder + "/" + kPrefix + digits;
}

std::vector<std::string> differences(const std::map<std::string, std::string>& there,
                                     const std::map<std::string, std::string>& here) {
  std::set<std::string> keys;
  for (const auto& [key, value] : there) keys.insert(key);
  for (const auto& [key, value] : here) keys.insert(key);
  const auto value = [](const std::map<std::string, std::string>& job, const std::string& key) {
    const auto found = job.find(key);
    return found == job.end() ? std::string("(none)") : found->second;
  };
  // Options of trackers that only one of them has, and that may not be known here.
  std::set<std::string> trackers;
  for (const auto* job : {&there, &here}) {
    for (const std::string& word : split_list(value(*job, "track")))
      trackers.insert(split_name(word).first + ".");
  }
  const auto is_trackers = [&](const std::string& key) {
    return trackers.contains(key.substr(0, key.find('.') + 1));
  };
  std::vector<std::string> lines;
  for (const std::string& key : keys) {
    if (may_differ(key) || is_trackers(key) || value(there, key) == value(here, key)) continue;
    lines.push_back(message(key, ": there ", value(there, key), ", here ", value(here, key)));
  }
  return lines;
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifest;
  std::ifstream file(path, std::ios::binary);
  FL_CHECK(file, path, ": cannot be read (", std::strerror(errno), ")");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const size_t end = text.rfind("\ncrc32 ");
  FL_CHECK(text.find(kFormat) != std::string::npos, path, ": is no manifest of a checkpoint (",
           text.size(), " bytes)");
  FL_CHECK(end != std::string::npos, path, ": is truncated (", text.size(), " bytes)");
  const std::string body = text.substr(0, end), crc = text.substr(end + 7, 8);
  FL_CHECK(crc == crc_of(body) && text.size() == end + 16, path, ": is damaged (its checksum is ",
           crc_of(body), ", it says ", crc, ")");
  Manifest manifest;
  try {
    const Json json = Json::parse(body);
    FL_CHECK(json.at("format") == kFormat, path, ": is no manifest of a checkpoint");
    const int64_t version = whole(json.at("version"), path, "version");
    FL_CHECK(version == Manifest::kVersion, path, ": is of format version ", version,
             ", by fl_sim ", json.at("program").get<std::string>(), " (this fl_sim reads version ",
             Manifest::kVersion, " only; go on with that one)");
    manifest.round = whole(json.at("round"), path, "round");
    manifest.program = json.at("program");
    manifest.partition = json.at("partition");
    manifest.data = json.at("data");
    manifest.job = json.at("job").get<std::map<std::string, std::string>>();
    for (const Json& one : json.at("files")) {
      const std::string name = one.at("name");
      FL_CHECK(!name.empty() && name.find('/') == std::string::npos, path, ": names a file '", name,
               "' (must be one beside it)");
      manifest.files.push_back({name, whole(one.at("bytes"), path, "bytes"), one.at("crc32"),
                                whole(one.at("clients"), path, "clients")});
    }
  } catch (const Json::exception& error) {
    throw Error(message(path, ": cannot be understood (", error.what(), ")"));
  }
  FL_CHECK(!manifest.files.empty() && manifest.files[0].name == kServer, path, ": names no ",
           kServer);
  manifest.folder = folder;
  return manifest;
}

std::optional<Manifest> find_checkpoint(const std::string& folder) {
  std::string problem;
  for (const int64_t round : rounds_in(folder)) {
    const std::string place = round_folder(folder, round);
    std::error_code error;
    if (!fs::exists(place + "/" + kManifest, error)) {  // it was not finished, and takes room
      fs::remove_all(place, error);
      continue;
    }
    try {
      Manifest manifest = read_manifest(place);
      FL_CHECK(manifest.round == round, place, ": its manifest is of round ", manifest.round);
      for (const CheckpointFile& file : manifest.files) {
        const auto bytes = fs::file_size(place + "/" + file.name, error);
        FL_CHECK(!error, place, "/", file.name, ": is missing (", error.message(), ")");
        FL_CHECK(static_cast<int64_t>(bytes) == file.bytes, place, "/", file.name, ": has ", bytes,
                 " bytes, but ", file.bytes, " were written");
      }
      return manifest;
    } catch (const Error& error_found) {
      if (problem.empty()) problem = error_found.what();
    }
  }
  FL_CHECK(problem.empty(), problem, "; remove ", folder, " to begin anew");
  return {};
}

void verify(const Manifest& manifest, const CheckpointFile& file) {
  const CheckpointFile found = measure(manifest.folder, file.name);
  FL_CHECK(found.bytes == file.bytes && found.checksum == file.checksum, manifest.folder, "/",
           file.name, ": is damaged (", found.bytes, " bytes with checksum ", found.checksum,
           ", written were ", file.bytes, " with ", file.checksum,
           "); remove this checkpoint to go on from an earlier one, or to begin anew");
}

CheckpointFile write_server_file(const std::string& folder, const ServerState& server) {
  fs::create_directories(folder);
  replace_file(folder + "/" + kServer, [&](const std::string& path) {
    Hdf5File file = Hdf5File::create(path);
    write_server(file, server);
    file.close();
  });
  return measure(folder, kServer);
}

ServerState read_server_file(const Manifest& manifest) {
  verify(manifest, manifest.files[0]);
  const ServerState server = read_server(manifest.folder + "/" + kServer);
  FL_CHECK(server.round == manifest.round, manifest.folder, "/", kServer, ": is of round ",
           server.round);
  return server;
}

void read_clients_file(const Manifest& manifest, const CheckpointFile& file, ClientStore& clients) {
  verify(manifest, file);
  const std::string path = manifest.folder + "/" + file.name;
  const Hdf5File opened = Hdf5File::open(path);
  const std::vector<int64_t> ids = opened.read_integers("/clients/id");
  FL_CHECK(std::ssize(ids) == file.clients, path, ": holds ", ids.size(),
           " clients' states, the manifest says ", file.clients);
  const bool ascending =
      std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>()) == ids.end();
  FL_CHECK(ascending && (ids.empty() || ids[0] >= 0), path,
           ": /clients/id holds no clients in ascending order");
  if (ids.empty()) return;
  const std::vector<int64_t> shape = opened.shape("/clients/state");
  FL_CHECK(shape.size() == 2 && shape[0] == std::ssize(ids), path, ": holds ", ids.size(),
           " clients, but not their states");
  const std::string type = opened.read_text_attribute("/clients", "type");
  FL_CHECK(type == c10::toString(torch::kFloat64) || type == c10::toString(torch::kFloat32), path,
           ": /clients has type '", type, "' (must be Float or Double)");
  if (type == c10::toString(torch::kFloat64)) {
    read_states<double>(opened, ids, shape[1], torch::kFloat64, clients);
  } else {
    read_states<float>(opened, ids, shape[1], torch::kFloat32, clients);
  }
}

void commit(const Manifest& manifest) {
  Json files = Json::array();
  for (const CheckpointFile& file : manifest.files) {
    files.push_back({{"name", file.name},
                     {"bytes", file.bytes},
                     {"crc32", file.checksum},
                     {"clients", file.clients}});
  }
  const Json json = {{"format", kFormat},        {"version", Manifest::kVersion},
                     {"round", manifest.round},  {"program", manifest.program},
                     {"written", utc_now()},     {"partition", manifest.partition},
                     {"data", manifest.data},    {"job", manifest.job},
                     {"files", std::move(files)}};
  const std::string body = json.dump(1);
  replace_file(manifest.folder + "/" + kManifest, [&](const std::string& path) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << body << "\ncrc32 " << crc_of(body) << "\n";
    file.close();
    FL_CHECK(file, path, " cannot be written (", std::strerror(errno), ")");
  });
  sync(manifest.folder);
  const std::string folder = fs::path(manifest.folder).parent_path().string();
  sync(folder);
  std::error_code ignored;
  for (const int64_t round : rounds_in(folder)) {
    if (round == manifest.round) continue;
    // Its manifest first: half a checkpoint must not look like one.
    fs::remove(round_folder(folder, round) + "/" + kManifest, ignored);
    fs::remove_all(round_folder(folder, round), ignored);
  }
}

void remove_checkpoints(const std::string& folder) {
  std::error_code ignored;
  for (const int64_t round : rounds_in(folder)) {
    fs::remove(round_folder(folder, round) + "/" + kManifest, ignored);
    fs::remove_all(round_folder(folder, round), ignored);
  }
  fs::remove(folder, ignored);
}

void tidy_checkpoints(const Job& job) {
  if (!read_options<CheckpointOptions>(job).keep) remove_checkpoints(checkpoint_folder(job));
}

void prepare_checkpoints(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  FL_CHECK(!error, "checkpoint-dir: ", folder, " cannot be made (", error.message(),
           "); choose another one");
  const std::string trial = message(folder, "/try.", getpid());
  error = try_file(trial);
  FL_CHECK(!error, "checkpoint-dir: ", trial, " cannot be written (", error.message(),
           "); choose another one");
}

struct CheckpointWriter::Task {
  std::atomic<bool> through = false;
  Done done;
};

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::start(const std::string& folder, int rank, int64_t round, int64_t length,
                             torch::ScalarType type, std::vector<ClientStore::Saved> states) {
  if (thread_.joinable()) thread_.join();
  auto task = std::make_shared<Task>();
  task->done.round = round;
  task_ = task;
  thread_ = std::thread([=, states = std::move(states)] {
    const std::string name = message("rank-", rank, ".h5");
    try {
      fs::create_directories(folder);
      replace_file(folder + "/" + name, [&](const std::string& path) {
        Hdf5File file = Hdf5File::create(path);
        std::vector<int64_t> ids;
        for (const ClientStore::Saved& saved : states) ids.push_back(saved.client);
        file.write("/clients/id", std::span<const int64_t>(ids));
        file.write_attribute("/clients", "type", std::string(c10::toString(type)));
        if (!ids.empty()) {
          const bool doubles = type == torch::kFloat64;
          file.make_table("/clients/state", std::ssize(ids), length, doubles);
          if (doubles) {
            write_states<double>(file, states, length);
          } else {
            write_states<float>(file, states, length);
          }
        }
        file.close();
        std::this_thread::sleep_for(std::chrono::milliseconds(TestHooks::get().slow_disk_ms));
      });
      task->done.file = measure(folder, name);
      task->done.file.clients = std::ssize(states);
    } catch (const std::exception& error) {
      task->done.error = error.what();
    }
    std::error_code ignored;
    for (const ClientStore::Saved& saved : states) {
      if (!saved.file.empty()) fs::remove(saved.file, ignored);
    }
    task->through = true;
  });
}

std::optional<CheckpointWriter::Done> CheckpointWriter::take(bool wait) {
  while (wait && task_ && !task_->through) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Interruption::get().at_step();  // others are not to take this for silence
  }
  if (!task_ || !task_->through) return {};
  if (thread_.joinable()) thread_.join();
  const Done done = std::move(task_->done);
  task_.reset();
  return done;
}

}  // namespace fl_sim
