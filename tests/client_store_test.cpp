// What a rank remembers of its clients is the same whether it lies in memory or in files, and what
// is missing, damaged or someone else's is refused with a reason.
#include "storage/client_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string_view>

#include "any_job.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kStateSize = 100;  // numbers of a state
constexpr int64_t kBytes = 4 * kStateSize;

torch::Tensor stored_state(int64_t client) {
  return torch::arange(kStateSize, torch::kFloat32) + static_cast<double>(1000 * client);
}

class ClientStoreTest : public testing::Test {
 protected:
  ClientStoreTest() : folder_(fs::temp_directory_path() / message("fl_sim_state_test_", getpid())) {
    fs::remove_all(folder_);
  }
  ~ClientStoreTest() override { fs::remove_all(folder_); }

  // Room in memory for so many states.
  std::unique_ptr<ClientStore> store(int64_t states, int rank = 3) const {
    return std::make_unique<ClientStore>(folder_.string(), states * kBytes, rank);
  }
  fs::path file(int64_t client) const {
    return folder_ / "rank-3" / message("client-", client, ".state");
  }
  std::vector<int64_t> in_files(int64_t clients) const {
    std::vector<int64_t> found;
    for (int64_t c = 0; c < clients; ++c) {
      if (fs::exists(file(c))) found.push_back(c);
    }
    return found;
  }
  static std::string bytes_of(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write(const fs::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }

  fs::path folder_;
};

TEST(ClientStore, RemembersInMemory) {
  ClientStore store("", 0, 0);
  EXPECT_FALSE(store.has(7));
  EXPECT_FALSE(store.get(7).defined());
  EXPECT_THAT(store.clients(), IsEmpty());
  for (const int64_t client : {7, 2, 1000000000}) store.put(client, stored_state(client));
  EXPECT_TRUE(store.has(7));
  EXPECT_THAT(store.clients(), ElementsAre(2, 7, 1000000000));
  EXPECT_EQ(store.bytes_in_memory(), 3 * kBytes);
  EXPECT_TRUE(torch::equal(store.get(2), stored_state(2)));
  store.put(2, torch::ones({8}, torch::kFloat64));
  EXPECT_TRUE(torch::equal(store.get(2), torch::ones({8}, torch::kFloat64)));
  EXPECT_EQ(store.bytes_in_memory(), 2 * kBytes + 64);
  store.erase(7);
  store.erase(7);
  EXPECT_FALSE(store.has(7));
  EXPECT_FALSE(store.get(7).defined());
  EXPECT_EQ(store.bytes_in_memory(), kBytes + 64);
}

// Proves that a state stays what it was when the caller goes on with the memory it came from, be it
// the whole tensor or a row of a matrix, and that what the store gave is not copied when it is
// given back.
TEST(ClientStore, KeepsWhatWasPut) {
  ClientStore store("", 0, 0);
  torch::Tensor whole = stored_state(0), rows = torch::stack({stored_state(1), stored_state(2)}),
                one_row = stored_state(3).unsqueeze(0);
  std::vector<float> numbers(kStateSize, 4.0F);
  store.put(0, whole);
  store.put(1, rows[0]);
  store.put(2, rows[1]);
  store.put(3, one_row[0]);
  store.put(4, torch::from_blob(numbers.data(), {kStateSize}));
  for (torch::Tensor* tensor : {&whole, &rows, &one_row}) tensor->zero_();
  numbers.assign(kStateSize, 0);
  for (int64_t client = 0; client < 4; ++client) {
    EXPECT_TRUE(torch::equal(store.get(client), stored_state(client))) << client;
  }
  EXPECT_TRUE(torch::equal(store.get(4), torch::full({kStateSize}, 4.0F)));
  EXPECT_EQ(store.bytes_in_memory(), 5 * kBytes);

  store.put(5, stored_state(5));
  torch::Tensor changed = store.get(5);
  const void* memory = changed.data_ptr();
  changed.add_(1);
  store.put(5, std::move(changed));
  EXPECT_EQ(store.get(5).data_ptr(), memory);
  EXPECT_TRUE(torch::equal(store.get(5), stored_state(5) + 1));
}

TEST(ClientStore, SaysWhatMemoryIsNeededWithoutFiles) {
  ClientStore store("", 2 * kBytes, 3);
  store.put(0, stored_state(0));
  store.put(1, stored_state(1));
  store.put(1, stored_state(2));  // in place of one
  EXPECT_EQ(error_of([&] { store.put(2, stored_state(2)); }),
            "the states of 3 clients on rank 3 need 1200 bytes, but state-memory is 800 bytes: "
            "raise it, or name a folder in state-dir for the states that do not fit");
  EXPECT_THAT(store.clients(), ElementsAre(0, 1));
  EXPECT_EQ(store.bytes_in_memory(), 2 * kBytes);
  store.erase(0);
  store.put(2, stored_state(2));
  EXPECT_TRUE(torch::equal(store.get(2), stored_state(2)));
}

// Proves that the states used least recently go to files, that both get() and put() are uses, and
// that memory never holds more than it may.
TEST_F(ClientStoreTest, TheLeastRecentlyUsedGoToFiles) {
  const auto states = store(2);
  states->put(0, stored_state(0));
  states->put(1, stored_state(1));
  EXPECT_THAT(in_files(5), IsEmpty());
  states->get(0);
  states->put(2, stored_state(2));
  EXPECT_THAT(in_files(5), ElementsAre(1));
  states->put(0, stored_state(0));
  states->put(3, stored_state(3));
  EXPECT_THAT(in_files(5), ElementsAre(1, 2));
  EXPECT_EQ(states->bytes_in_memory(), 2 * kBytes);
  EXPECT_THAT(states->clients(), ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(states->has(1));
  EXPECT_TRUE(torch::equal(states->get(1), stored_state(1)));
  EXPECT_THAT(in_files(5), ElementsAre(0, 1, 2));  // 1 stays: it is still right
  for (int64_t client = 0; client < 4; ++client) {
    EXPECT_TRUE(torch::equal(states->get(client), stored_state(client))) << client;
    EXPECT_EQ(states->bytes_in_memory(), 2 * kBytes);
  }
}

// Proves that a file is not written again for a state that was only read, and is gone once there is
// a newer state.
TEST_F(ClientStoreTest, FilesAreWrittenForNewStatesOnly) {
  const auto states = store(1);
  states->put(0, stored_state(0));
  states->put(1, stored_state(1));
  const auto written = fs::last_write_time(file(0)) - std::chrono::hours(1);
  fs::last_write_time(file(0), written);
  for (int i = 0; i < 3; ++i) {
    states->get(0);
    states->get(1);
  }
  EXPECT_EQ(fs::last_write_time(file(0)), written);
  states->put(0, stored_state(4));
  EXPECT_FALSE(fs::exists(file(0)));
  states->get(1);
  EXPECT_TRUE(torch::equal(states->get(0), stored_state(4)));
  states->erase(0);
  EXPECT_FALSE(fs::exists(file(0)));
  EXPECT_FALSE(states->has(0));
  EXPECT_FALSE(states->get(0).defined());
}

// Proves that all bits come back: signs of zeros, infinities, payloads of NaNs, numbers below the
// normal ones, in both precisions, for any length.
TEST_F(ClientStoreTest, StatesComeBackBitByBit) {
  ClientStore states(folder_.string(), 1, 3);  // no room for any
  std::vector<float> singles;
  for (uint32_t i = 0; i < 5000; ++i) singles.push_back(std::bit_cast<float>(i * 858993463U));
  std::vector<double> doubles = {-0.0, std::numeric_limits<double>::infinity(),
                                 std::numeric_limits<double>::denorm_min(), 0.1,
                                 std::bit_cast<double>(0x7ff4000000000123)};
  const std::vector<torch::Tensor> all = {torch::tensor(singles),
                                          torch::tensor(doubles, torch::kFloat64),
                                          torch::empty({0}, torch::kFloat64), torch::ones({1})};
  for (size_t i = 0; i < all.size(); ++i) states.put(static_cast<int64_t>(i), all[i]);
  EXPECT_EQ(states.bytes_in_memory(), 0);
  for (size_t i = 0; i < all.size(); ++i) {
    const torch::Tensor state = states.get(static_cast<int64_t>(i));
    ASSERT_EQ(state.scalar_type(), all[i].scalar_type());
    ASSERT_EQ(state.sizes(), all[i].sizes());
    const auto bits = [](const torch::Tensor& t) {
      return std::string_view(static_cast<const char*>(t.data_ptr()), t.nbytes());
    };
    EXPECT_EQ(bits(state), bits(all[i])) << i;
  }
}

// Proves that a folder is left as it was found, and that two ranks share one.
TEST_F(ClientStoreTest, FilesEndWithTheStore) {
  fs::create_directories(folder_);
  {
    const auto first = store(1, 0), second = store(1, 1);
    for (int64_t client = 0; client < 3; ++client) {
      first->put(client, stored_state(client));
      second->put(client, stored_state(client + 10));
    }
    EXPECT_TRUE(torch::equal(first->get(0), stored_state(0)));
    EXPECT_TRUE(torch::equal(second->get(0), stored_state(10)));
    EXPECT_TRUE(fs::exists(folder_ / "rank-0" / "client-1.state"));
    EXPECT_TRUE(fs::exists(folder_ / "rank-1" / "client-1.state"));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

// Proves that nothing is taken over from a run that ended without cleaning up, and that files of
// others are left alone.
TEST_F(ClientStoreTest, LeftoversAreNotRead) {
  fs::create_directories(folder_ / "rank-3");
  for (const int64_t client : {0, 1, 2}) write(file(client), "old");
  write(file(1).string() + ".tmp", "half");
  write(folder_ / "rank-3" / "notes", "mine");
  write(folder_ / "rank-3" / "lock", "");
  {
    const auto states = store(1);
    EXPECT_THAT(in_files(5), IsEmpty());
    EXPECT_THAT(states->clients(), IsEmpty());
    EXPECT_FALSE(states->get(0).defined());
    states->put(0, stored_state(0));
    states->put(1, stored_state(1));
    EXPECT_TRUE(torch::equal(states->get(0), stored_state(0)));
  }
  EXPECT_EQ(bytes_of(folder_ / "rank-3" / "notes"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "rank-3"), {}), 1);
}

// Proves that folders of ranks that there are no more go, but neither those of ranks that there
// are, nor of living ones, nor what is of others.
TEST_F(ClientStoreTest, LeftoversOfMoreRanksAreRemoved) {
  for (const char* name : {"rank-1", "rank-5", "rank-7"}) {
    fs::create_directories(folder_ / name);
    write(folder_ / name / "client-0.state", "old");
    write(folder_ / name / "lock", "");
  }
  write(folder_ / "rank-7" / "notes", "mine");
  fs::create_directories(folder_ / "rank-x");
  const auto living = store(1, 6);
  living->put(0, stored_state(0));
  living->put(1, stored_state(1));
  ClientStore::remove_leftovers(folder_.string(), 3);
  EXPECT_TRUE(fs::exists(folder_ / "rank-1" / "client-0.state"));
  EXPECT_FALSE(fs::exists(folder_ / "rank-5"));
  EXPECT_FALSE(fs::exists(folder_ / "rank-7" / "client-0.state"));
  EXPECT_EQ(bytes_of(folder_ / "rank-7" / "notes"), "mine");
  EXPECT_TRUE(fs::exists(folder_ / "rank-x"));
  EXPECT_TRUE(torch::equal(living->get(0), stored_state(0)));
  EXPECT_NO_THROW(ClientStore::remove_leftovers((folder_ / "none").string(), 3));
}

TEST_F(ClientStoreTest, AFolderInUseIsRefused) {
  {
    const auto states = store(1);
    EXPECT_ERROR(store(1), (folder_ / "rank-3").string() + " is in use by another run");
    states->put(0, stored_state(0));
    states->put(1, stored_state(1));
    EXPECT_TRUE(torch::equal(states->get(0), stored_state(0)));
  }
  EXPECT_NO_THROW(store(1));
}

// Below a file nobody can make a folder, not even root.
TEST_F(ClientStoreTest, AFolderThatCannotBeWrittenIsRefused) {
  write(folder_, "");
  EXPECT_ERROR(store(1), (folder_ / "rank-3").string() + " cannot be made (Not a directory)");
  fs::remove(folder_);
  fs::create_directories(folder_ / "rank-3" / "lock");
  EXPECT_ERROR(store(1), (folder_ / "rank-3" / "lock").string() + " cannot be written (Is a ");
}

TEST_F(ClientStoreTest, AFileThatCannotBeWrittenIsAnError) {
  const auto states = store(1);
  states->put(0, stored_state(0));
  fs::create_directories(file(0).string() + ".tmp");
  EXPECT_ERROR(states->put(1, stored_state(1)),
               file(0).string() + " cannot be written (Is a directory");
}

// Proves that a file which is not what was written is named, with what was found there.
TEST_F(ClientStoreTest, AFileThatIsNotWhatWasWrittenIsAnError) {
  const auto states = store(1);
  for (const int64_t client : {0, 1, 2}) states->put(client, stored_state(client));
  const std::string good = bytes_of(file(0));
  ASSERT_EQ(good.size(), 32 + kBytes);
  const auto error = [&](const std::string& bytes) {
    write(file(0), bytes);
    const std::string text = error_of([&] { states->get(0); });
    const std::string start =
        message("state-dir: the state of client 0 was put into ", file(0).string(), ", but ");
    EXPECT_TRUE(text.starts_with(start)) << text;
    return text.substr(std::min(start.size(), text.size()));
  };
  EXPECT_EQ(error(""), "what is there now, 0 bytes, is no state");
  EXPECT_EQ(error("PK" + good), "what is there now, 434 bytes, is no state");
  EXPECT_EQ(error(good.substr(0, 20)), "what is there now has 20 bytes instead of 432");
  EXPECT_EQ(error(good.substr(0, 431)), "what is there now has 431 bytes instead of 432");
  EXPECT_EQ(error(good + "x"), "what is there now has 433 bytes instead of 432");
  EXPECT_EQ(error(bytes_of(file(1))),
            "what is there now is that of client 1, 100 numbers of 4 bytes");
  std::string damaged = good;
  damaged[300] ^= 1;
  EXPECT_THAT(error(damaged),
              testing::StartsWith("what is there now is damaged: its checksum is "));
  fs::remove(file(0));
  EXPECT_ERROR(states->get(0), "that cannot be read (No such file or directory)");
  fs::create_directory(file(0));
  EXPECT_ERROR(states->get(0), "that cannot be read (Is a directory)");
  fs::remove(file(0));
  write(file(0), good);
  EXPECT_TRUE(torch::equal(states->get(0), stored_state(0)));
}

}  // namespace
}  // namespace fl_sim
