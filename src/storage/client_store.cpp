#include "storage/client_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "base/check.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

// A file is this and then the numbers.
struct Header {
  char magic[8];
  int64_t client;
  int64_t size;             // numbers
  uint32_t bytes_a_number;  // 4: float32, 8: float64
  uint32_t checksum;        // CRC-32 of the numbers
};
static_assert(sizeof(Header) == 32);

constexpr char kMagic[] = "FLSTATE1";

std::string reason() { return errno == 0 ? "input or output failed" : std::strerror(errno); }

Header header_of(int64_t client, const torch::Tensor& state) {
  Header header{.magic = {},
                .client = client,
                .size = state.numel(),
                .bytes_a_number = static_cast<uint32_t>(state.element_size()),
                .checksum = static_cast<uint32_t>(
                    crc32_z(0, static_cast<const Bytef*>(state.data_ptr()), state.nbytes()))};
  std::copy_n(kMagic, sizeof header.magic, header.magic);
  return header;
}

bool is_ours(const std::string& file) {
  return file.starts_with("client-") && (file.ends_with(".state") || file.ends_with(".state.tmp") ||
                                         file.ends_with(".state.kept"));
}

void remove_states(const std::string& directory) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& file : fs::directory_iterator(directory, error)) {
    if (is_ours(file.path().filename().string())) leftovers.push_back(file.path());
  }
  for (const fs::path& file : leftovers) fs::remove(file, error);
}

// Memory for a state, unset. LibTorch's own is aligned, and glibc's malloc finds no place for an
// aligned block where one of the same size was freed: states that are replaced round after round
// would take half as much again.
torch::Tensor make_state(int64_t size, torch::ScalarType type) {
  const size_t bytes = static_cast<size_t>(size) * c10::elementSize(type);
  void* memory = std::malloc(std::max<size_t>(bytes, 1));
  if (memory == nullptr) throw std::bad_alloc();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes,
                       c10::DataPtr(memory, memory, &std::free, c10::Device(c10::kCPU)),
                       /*allocator=*/nullptr, /*resizable=*/false);
  return torch::empty({0}, type).set_(std::move(storage), 0, {size}, {1});
}

// Whether the memory is from make_state() and nothing but the tensor refers to it.
bool owns_its_memory(const torch::Tensor& state) {
  const c10::Storage& storage = state.storage();
  return state.is_cpu() && state.is_contiguous() && !state.requires_grad() &&
         state.use_count() == 1 && storage.use_count() == 1 &&
         storage.data_ptr().get_deleter() == &std::free && storage.nbytes() == state.nbytes();
}

torch::Tensor read_state(const std::string& name, int64_t client, torch::ScalarType type,
                         int64_t size) {
  const std::string whose =
      message("state-dir: the state of client ", client, " was put into ", name, ", but ");
  torch::Tensor state = make_state(size, type);
  const auto expected = static_cast<int64_t>(sizeof(Header) + state.nbytes());
  errno = 0;
  std::ifstream file(name, std::ios::binary | std::ios::ate);
  FL_CHECK(file, whose, "that cannot be read (", reason(), ")");
  const auto bytes = static_cast<int64_t>(file.tellg());
  file.seekg(0);
  Header header{};
  file.read(reinterpret_cast<char*>(&header),
            static_cast<std::streamsize>(std::clamp<int64_t>(bytes, 0, sizeof header)));
  FL_CHECK(file, whose, "that cannot be read (", reason(), ")");
  FL_CHECK(std::memcmp(header.magic, kMagic, sizeof header.magic) == 0, whose,
           "what is there now, ", bytes, " bytes, is no state");
  FL_CHECK(bytes == expected, whose, "what is there now has ", bytes, " bytes instead of ",
           expected);
  file.read(static_cast<char*>(state.data_ptr()), static_cast<std::streamsize>(state.nbytes()));
  FL_CHECK(file, whose, "that cannot be read (", reason(), ")");
  const Header found = header_of(client, state);
  FL_CHECK(header.client == found.client && header.size == found.size &&
               header.bytes_a_number == found.bytes_a_number,
           whose, "what is there now is that of client ", header.client, ", ", header.size,
           " numbers of ", header.bytes_a_number, " bytes");
  FL_CHECK(header.checksum == found.checksum, whose,
           "what is there now is damaged: its checksum is ", found.checksum, ", expected ",
           header.checksum);
  return state;
}

}  // namespace

ClientStore::ClientStore(const std::string& directory, int64_t memory_bytes, int rank)
    : limit_(memory_bytes), rank_(rank) {
  if (directory.empty()) return;
  directory_ = (fs::path(directory) / message("rank-", rank)).string();
  std::error_code error;
  fs::create_directories(directory_, error);
  FL_CHECK(!error, "state-dir: the folder ", directory_, " cannot be made (", error.message(), ")");
  const std::string lock = directory_ + "/lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  FL_CHECK(lock_ >= 0, "state-dir: ", lock, " cannot be written (", reason(), ")");
  // A lock ends with its process. Some file systems have none: there it is up to the user.
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(lock_);
    throw Error(message("state-dir: ", directory_,
                        " is in use by another run; give each run a folder of its own"));
  }
  remove_states(directory_);
}

void ClientStore::remove_leftovers(const std::string& directory, int ranks) {
  std::error_code error;
  std::vector<fs::path> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const std::string digits = name.starts_with("rank-") ? name.substr(5) : "";
    const bool is_rank = !digits.empty() && digits.size() < 10 &&
                         digits.find_first_not_of("0123456789") == std::string::npos;
    if (is_rank && std::stoi(digits) >= ranks) folders.push_back(entry.path());
  }
  for (const fs::path& folder : folders) {
    const std::string lock = (folder / "lock").string();
    const int descriptor = ::open(lock.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
      remove_states(folder.string());
      fs::remove(lock, error);
      fs::remove(folder, error);  // unless there is something else in it
    }
    ::close(descriptor);
  }
}

ClientStore::~ClientStore() {
  if (directory_.empty()) return;
  for (auto& [client, entry] : entries_) remove_file(client, entry);
  std::error_code ignored;
  fs::remove(directory_ + "/lock", ignored);
  ::close(lock_);
  fs::remove(directory_, ignored);  // unless there is something else in it
}

std::string ClientStore::path(int64_t client) const {
  return message(directory_, "/client-", client, ".state");
}

torch::Tensor ClientStore::get(int64_t client) {
  const auto found = entries_.find(client);
  if (found == entries_.end()) return {};
  Entry& entry = found->second;
  if (entry.state.defined()) {
    recent_.splice(recent_.begin(), recent_, entry.place);
    return entry.state;
  }
  torch::Tensor state = read_state(path(client), client, entry.type, entry.size);
  keep(client, entry, state);
  make_room();
  return state;
}

void ClientStore::put(int64_t client, torch::Tensor state) {
  assert(state.dim() == 1 &&
         (state.scalar_type() == torch::kFloat32 || state.scalar_type() == torch::kFloat64));
  if (directory_.empty() && limit_ > 0) {
    const auto former = entries_.find(client);  // in memory, as all are
    const bool is_new = former == entries_.end();
    const auto needed = bytes_ + static_cast<int64_t>(state.nbytes()) -
                        static_cast<int64_t>(is_new ? 0 : former->second.state.nbytes());
    FL_CHECK(needed <= limit_, "the states of ", entries_.size() + (is_new ? 1 : 0),
             " clients on rank ", rank_, " need ", needed, " bytes, but state-memory is ", limit_,
             " bytes: raise it, or name a folder in state-dir for the states that do not fit");
  }
  remember(client);
  Entry& entry = entries_[client];
  release(entry);  // first: `state` may be what get() gave
  remove_file(client, entry);
  if (!owns_its_memory(state)) {
    state = make_state(state.numel(), state.scalar_type()).copy_(state.detach());
  }
  keep(client, entry, std::move(state));
  make_room();
}

void ClientStore::erase(int64_t client) {
  const auto found = entries_.find(client);
  if (found == entries_.end()) return;
  undo_.erase(client);  // it moves away, with what it had
  release(found->second);
  remove_file(client, found->second);
  entries_.erase(found);
}

std::vector<int64_t> ClientStore::clients() const {
  std::vector<int64_t> clients;
  clients.reserve(entries_.size());
  for (const auto& [client, entry] : entries_) clients.push_back(client);
  std::sort(clients.begin(), clients.end());
  return clients;
}

void ClientStore::begin_round() {
  undo_.clear();
  remembers_ = true;
}

// Nothing is copied: the former tensor just lives on.
void ClientStore::remember(int64_t client) {
  if (!remembers_ || undo_.contains(client)) return;
  torch::Tensor former;
  if (const auto found = entries_.find(client); found != entries_.end()) {
    const Entry& entry = found->second;
    former = entry.state.defined() ? entry.state
                                   : read_state(path(client), client, entry.type, entry.size);
  }
  undo_[client] = former;
}

void ClientStore::roll_back() {
  std::unordered_map<int64_t, torch::Tensor> undo;
  undo.swap(undo_);
  remembers_ = false;
  for (auto& [client, former] : undo) {
    if (former.defined()) {
      put(client, std::move(former));
    } else {
      erase(client);
    }
  }
}

torch::Tensor ClientStore::Saved::load() const {
  return state.defined() ? state : read_state(file, client, type, size);
}

std::vector<ClientStore::Saved> ClientStore::capture() const {
  std::vector<Saved> all;
  all.reserve(entries_.size());
  for (const int64_t client : clients()) {
    const Entry& entry = entries_.at(client);
    Saved saved{client, entry.type, entry.size, entry.state};
    if (!entry.state.defined()) {
      // A second name for the same bytes, which the store never changes in place.
      saved.file = path(client) + ".kept";
      std::error_code error;
      fs::remove(saved.file, error);
      fs::create_hard_link(path(client), saved.file, error);
      if (error) fs::copy_file(path(client), saved.file, error);
      FL_CHECK(!error, "state-dir: ", saved.file, " cannot be written (", error.message(), ")");
    }
    all.push_back(std::move(saved));
  }
  return all;
}

void ClientStore::keep(int64_t client, Entry& entry, torch::Tensor state) {
  entry.type = state.scalar_type();
  entry.size = state.numel();
  entry.state = std::move(state);
  bytes_ += static_cast<int64_t>(entry.state.nbytes());
  recent_.push_front(client);
  entry.place = recent_.begin();
}

void ClientStore::release(Entry& entry) {
  if (!entry.state.defined()) return;
  bytes_ -= static_cast<int64_t>(entry.state.nbytes());
  recent_.erase(entry.place);
  entry.state = torch::Tensor();
}

// One that cannot be removed is overwritten when it is needed.
void ClientStore::remove_file(int64_t client, Entry& entry) const {
  std::error_code ignored;
  if (entry.has_file) fs::remove(path(client), ignored);
  entry.has_file = false;
}

void ClientStore::make_room() {
  while (limit_ > 0 && bytes_ > limit_) {
    const int64_t client = recent_.back();
    Entry& entry = entries_.at(client);
    if (!entry.has_file) write(client, entry);
    entry.has_file = true;
    release(entry);
  }
}

// Under a temporary name first: a file with the right one is whole.
void ClientStore::write(int64_t client, const Entry& entry) const {
  const std::string name = path(client), temporary = name + ".tmp";
  const Header header = header_of(client, entry.state);
  errno = 0;
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.write(static_cast<const char*>(entry.state.data_ptr()),
             static_cast<std::streamsize>(entry.state.nbytes()));
  file.close();
  std::string failure = file ? "" : reason();
  std::error_code error;
  if (failure.empty()) {
    fs::rename(temporary, name, error);
    if (error) failure = error.message();
  }
  if (failure.empty()) return;
  fs::remove(temporary, error);
  throw Error(message("state-dir: ", name, " cannot be written (", failure, "); a state has ",
                      sizeof header + entry.state.nbytes(), " bytes"));
}

}  // namespace fl_sim
