#include "data/partition_file.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/checksum.h"
#include "base/files.h"
#include "base/hdf5_file.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const char* const kForms = "(must be {\"0\": [5, 17], \"1\": [2]} or [[5, 17], [2]])";

bool is_hdf5(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  FL_CHECK(in.good() && !fs::is_directory(path), path,
           ": cannot be read (must be a saved partition, HDF5 or JSON)");
  std::string start(8, '\0');
  in.read(start.data(), 8);
  // The first byte says so, the second which protocol: 2 to 5.
  FL_CHECK(start[0] != '\x80' || start[1] < 2 || start[1] > 5, path,
           ": is a Python pickle, such as FL-bench's partition.pkl, which could run anything and "
           "is not read (write its lists as JSON: json.dump([[int(i) for i in c[\"train\"]] for c "
           "in pickle.load(open(FILE, \"rb\"))[\"data_indices\"]], open(NEW, \"w\")))");
  return start == "\x89HDF\r\n\x1a\n";
}

std::vector<int64_t> read_list(const json& list, const std::string& path, size_t client) {
  FL_CHECK(!list.is_object() || !list.contains("train"), path, ": what client ", client,
           " holds is split into train and others ", kForms,
           "; give what clients train with; partition.test-fraction makes them keep samples back");
  FL_CHECK(list.is_array(), path, ": what client ", client, " holds is no list ", kForms);
  std::vector<int64_t> samples;
  samples.reserve(list.size());
  for (const json& item : list) {
    FL_CHECK(item.is_number_integer() &&
                 (!item.is_number_unsigned() || item.get<uint64_t>() <= INT64_MAX),
             path, ": client ", client, " holds ", item.dump(-1, ' ', true).substr(0, 40),
             " (must be numbers of samples)");
    samples.push_back(item.get<int64_t>());
  }
  return samples;
}

Partition read_json(const std::string& path) {
  std::set<std::string> keys;  // the parser would keep the last of equal ones
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    FL_CHECK(depth <= 4, path, ": lists are nested too deeply ", kForms);
    if (depth == 1 && event == json::parse_event_t::key) {
      const auto key = parsed.get<std::string>();
      FL_CHECK(keys.insert(key).second, path, ": client '", key, "' is there twice (keep one)");
    }
    return true;
  };
  json root;
  std::ifstream in(path, std::ios::binary);
  try {
    root = json::parse(in, watch);
  } catch (const json::exception& error) {
    throw Error(message(path, ": is no JSON ", kForms, ": ", error.what()));
  }
  FL_CHECK((root.is_object() || root.is_array()) && !root.empty(), path, ": holds no clients ",
           kForms);
  std::vector<std::vector<int64_t>> lists;
  for (size_t client = 0; client < root.size(); ++client) {
    if (root.is_array()) {
      lists.push_back(read_list(root[client], path, client));
      continue;
    }
    const auto found = root.find(std::to_string(client));
    FL_CHECK(found != root.end(), path, ": names ", root.size(), " clients, but not client '",
             client, "' (they must be \"0\" to \"", root.size() - 1, "\")");
    lists.push_back(read_list(*found, path, client));
  }
  return make_partition(std::move(lists));
}

SavedPartition read_hdf5(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  FL_CHECK(file.has("/partition/samples"), path,
           ": holds no saved partition (must be JSON, or HDF5 that partition.save wrote)");
  SavedPartition saved;
  saved.partition =
      Partition(file.read_integers("/partition/offsets"), file.read_integers("/partition/indices"));
  const std::vector<int64_t> samples = file.read_integers("/partition/samples");
  FL_CHECK(samples.size() == 1, path, ": /partition/samples has ", samples.size(),
           " numbers (must be 1)");
  saved.samples = samples[0];
  saved.label_checksum = file.read_text_attribute("/partition", "label_checksum");
  saved.partitioner = file.read_text_attribute("/partition", "partitioner");
  saved.options = file.read_text_attribute("/partition", "options");
  saved.seed = file.read_text_attribute("/partition", "seed");
  const std::string expected = file.read_text_attribute("/partition", "checksum");
  const std::string found = partition_checksum(saved.partition);
  FL_CHECK(found == expected, path, ": its lists have checksum ", found, ", not ", expected,
           " as it says (damaged?)");
  return saved;
}

bool same(const SavedPartition& a, const SavedPartition& b) {
  return a.samples == b.samples && a.label_checksum == b.label_checksum &&
         partition_checksum(a.partition) == partition_checksum(b.partition);
}

}  // namespace

std::string label_checksum(std::span<const int64_t> labels) {
  Checksum checksum;
  checksum.add(std::as_bytes(labels));
  return checksum.text();
}

SavedPartition read_partition(const std::string& path, EmptyClients empty) {
  SavedPartition saved;
  if (is_hdf5(path)) {
    saved = read_hdf5(path);
  } else {
    saved.partition = read_json(path);
  }
  const Partition& lists = saved.partition;
  FL_CHECK(lists.clients() >= 1, path, ": holds no clients");
  std::vector<std::vector<int64_t>> kept;
  int64_t without = 0, first = -1;
  for (int64_t client = 0; client < lists.clients(); ++client) {
    const auto list = lists.of(client);
    if (!list.empty()) {
      if (empty == EmptyClients::kDropped) kept.emplace_back(list.begin(), list.end());
      continue;
    }
    if (without++ == 0) first = client;
  }
  if (without == 0) return saved;
  FL_CHECK(empty == EmptyClients::kDropped, path, ": client ", first, " holds no sample, as ",
           without, " of ", lists.clients(),
           " do (each needs one at least; file.empty = drop leaves them out, and those behind them "
           "move up)");
  FL_CHECK(!kept.empty(), path, ": no client holds a sample");
  saved.partition = make_partition(std::move(kept));
  return saved;
}

void check_saved(const SavedPartition& saved, const std::string& path,
                 std::span<const int64_t> labels) {
  const int64_t n = std::ssize(labels);
  if (saved.samples >= 0) {
    FL_CHECK(saved.samples == n, path, ": is a partition of ", saved.samples,
             " training samples, this training set has ", n,
             " (it is the partition of another data set)");
    const std::string found = label_checksum(labels);
    FL_CHECK(saved.label_checksum == found, path,
             ": is a partition of a training set whose labels have checksum ", saved.label_checksum,
             ", here it is ", found, " (it is the partition of another data set)");
  }
  const std::span<const int64_t> indices = saved.partition.indices;
  const auto last = std::max_element(indices.begin(), indices.end());
  FL_CHECK(last == indices.end() || *last < n, path, ": lists sample ", *last,
           ", but this training set has ", n, " (is it the partition of another data set?)");
  try {
    check_partition(saved.partition, n);
  } catch (const Error& error) {
    throw Error(message(path, ": ", error.what()));
  }
}

void save_partition(const std::string& path, const SavedPartition& saved, bool overwrite) {
  std::error_code error;
  if (!overwrite && fs::exists(path, error)) {
    bool unchanged = false;
    try {
      unchanged = same(read_partition(path), saved);
    } catch (const Error&) {  // something else that stays as well
    }
    FL_CHECK(unchanged, path,
             " exists and is not this partition (choose another --partition.save, or "
             "--overwrite)");
    return;
  }
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty()) fs::create_directories(folder, error);
  // Several runs may save the same one at a time.
  replace_file(
      path,
      [&](const std::string& temporary) {
        Hdf5File file = Hdf5File::create(temporary);
        file.write("/partition/offsets", saved.partition.offsets);
        file.write("/partition/indices", saved.partition.indices);
        file.write("/partition/samples", std::vector<int64_t>{saved.samples}, {});
        file.write_attribute("/partition", "checksum", partition_checksum(saved.partition));
        file.write_attribute("/partition", "label_checksum", saved.label_checksum);
        file.write_attribute("/partition", "partitioner", saved.partitioner);
        file.write_attribute("/partition", "options", saved.options);
        file.write_attribute("/partition", "seed", saved.seed);
        file.close();
      },
      message(".tmp.", getpid()), "; choose another --partition.save");
}

}  // namespace fl_sim
