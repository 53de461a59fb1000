// What checkpoints stand on: states that are captured while the store goes on, rounds that are
// undone, and folders in which only what was committed counts.
#include "storage/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "any_job.h"
#include "base/check.h"
#include "base/hdf5_file.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kSize = 100;  // numbers of a state

torch::Tensor state_of(double value, torch::ScalarType type = torch::kFloat32) {
  return torch::full({kSize}, value, type);
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest()
      : folder_(
            (fs::temp_directory_path() / message("fl_sim_checkpoint_test_", getpid())).string()) {
    fs::remove_all(folder_);
  }
  ~CheckpointTest() override { fs::remove_all(folder_); }

  // A committed checkpoint of a server and of one rank's clients.
  Manifest save(int64_t round, ClientStore& clients, torch::ScalarType type = torch::kFloat32) {
    ServerState server;
    server.round = round;
    server.weights = torch::full({1, 7}, static_cast<double>(round));
    server.hidden["a/b"] = torch::arange(3, torch::kFloat64);
    Manifest manifest{.round = round, .folder = round_folder(folder_, round), .program = "test"};
    manifest.job = {{"seed", "0"}, {"output", "x.h5"}};
    manifest.files = {write_server_file(manifest.folder, server)};
    CheckpointWriter writer;
    writer.start(manifest.folder, 4, round, kSize, type, clients.capture());
    const auto done = writer.take(true);
    EXPECT_EQ(done->error, "");
    manifest.files.push_back(done->file);
    commit(manifest);
    return manifest;
  }

  std::string folder_;
};

TEST_F(CheckpointTest, RollBackRestoresWhatClientsHadAtTheRoundsBeginning) {
  for (const bool files : {false, true}) {
    // With files there is room for one state in memory.
    ClientStore store(files ? folder_ : "", files ? 4 * kSize : 0, 0);
    store.put(1, state_of(1));
    store.put(2, state_of(2));
    store.begin_round();
    store.put(1, state_of(10));
    store.put(3, state_of(30));
    store.put(1, state_of(11));
    store.roll_back();
    EXPECT_THAT(store.clients(), ElementsAre(1, 2));
    EXPECT_TRUE(store.get(1).equal(state_of(1)));
    EXPECT_TRUE(store.get(2).equal(state_of(2)));
    // A round that counts is not undone by the next one's end.
    store.begin_round();
    store.put(1, state_of(12));
    store.begin_round();
    store.put(2, state_of(22));
    store.roll_back();
    EXPECT_TRUE(store.get(1).equal(state_of(12)));
    EXPECT_TRUE(store.get(2).equal(state_of(2)));
  }
}

TEST_F(CheckpointTest, WhatIsCapturedStaysAsItWas) {
  for (const bool files : {false, true}) {
    ClientStore store(files ? folder_ : "", files ? 4 * kSize : 0, 0);
    for (const int64_t client : {5, 3, 4}) store.put(client, state_of(static_cast<double>(client)));
    const std::vector<ClientStore::Saved> saved = store.capture();
    for (const int64_t client : {5, 3, 4}) store.put(client, state_of(0));
    store.erase(4);
    ASSERT_EQ(saved.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(saved[i].client, static_cast<int64_t>(3 + i));
      EXPECT_TRUE(saved[i].load().equal(state_of(static_cast<double>(3 + i)))) << files;
    }
  }
}

TEST_F(CheckpointTest, ReadsBackWhatItWrote) {
  for (const auto type : {torch::kFloat32, torch::kFloat64}) {
    ClientStore clients("", 0, 0);
    for (int64_t client = 0; client < 7; ++client)
      clients.put(3 * client, state_of(0.1 * static_cast<double>(client), type));
    save(12, clients, type);
    const std::optional<Manifest> found = find_checkpoint(folder_);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->round, 12);
    EXPECT_EQ(found->job.at("seed"), "0");
    const ServerState server = read_server_file(*found);
    EXPECT_TRUE(server.weights.equal(torch::full({1, 7}, 12.0)));
    EXPECT_TRUE(server.hidden.at("a/b").equal(torch::arange(3, torch::kFloat64)));
    ClientStore again("", 0, 0);
    read_clients_file(*found, found->files.at(1), again);
    EXPECT_EQ(again.clients(), clients.clients());
    for (const int64_t client : clients.clients())
      EXPECT_TRUE(again.get(client).equal(clients.get(client)));
  }
}

TEST_F(CheckpointTest, OnlyACommittedOneCountsAndReplacesTheFormer) {
  ClientStore clients("", 0, 0);
  EXPECT_FALSE(find_checkpoint(folder_));
  save(2, clients);
  // Files without a manifest: the run was killed before it was through.
  ServerState server;
  server.weights = torch::zeros({1, 7});
  write_server_file(round_folder(folder_, 4), server);
  EXPECT_EQ(find_checkpoint(folder_)->round, 2);
  save(6, clients);
  EXPECT_EQ(find_checkpoint(folder_)->round, 6);
  EXPECT_FALSE(fs::exists(round_folder(folder_, 2)));
  EXPECT_FALSE(fs::exists(round_folder(folder_, 4)));
  remove_checkpoints(folder_);
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(CheckpointTest, DifferencesAreNamedUnlessTheyDoNotMatter) {
  EXPECT_THAT(
      differences({{"seed", "0"}, {"output", "a"}, {"q", "1"}},
                  {{"seed", "1"}, {"output", "b"}, {"r", "2"}}),
      ElementsAre("q: there 1, here (none)", "r: there (none), here 2", "seed: there 0, here 1"));
}

TEST_F(CheckpointTest, AWriterSaysWhatWentWrong) {
  std::ofstream(folder_) << "a file where a folder should be";
  CheckpointWriter writer;
  EXPECT_FALSE(writer.take());
  writer.start(round_folder(folder_, 1), 0, 1, kSize, torch::kFloat32, {});
  const auto done = writer.take(true);
  ASSERT_TRUE(done);
  EXPECT_THAT(done->error, HasSubstr(folder_));
  EXPECT_FALSE(writer.take(true));
  fs::remove(folder_);
}

TEST(Hdf5Table, KeepsRowsWhereTheyWerePut) {
  const std::string path = testing::TempDir() + "fl_sim_hdf5_table";
  {
    Hdf5File file = Hdf5File::create(path);
    file.make_table("/a/t", 5, 2, true);
    file.write_rows("/a/t", 3, std::span<const double>(std::vector<double>{6, 7, 8, 9}));
    file.write_rows("/a/t", 0, std::span<const double>(std::vector<double>{0, 1}));
    EXPECT_THROW(
        file.write_rows("/a/t", 4, std::span<const double>(std::vector<double>{1, 2, 3, 4})),
        Error);
    EXPECT_THROW(file.write_rows("/a/t", 0, std::span<const double>(std::vector<double>{1})),
                 Error);
    file.close();
  }
  const Hdf5File file = Hdf5File::open(path);
  std::vector<double> rows(4);
  file.read_rows("/a/t", 3, std::span(rows));
  EXPECT_THAT(rows, ElementsAre(6, 7, 8, 9));
  EXPECT_THAT(file.read_doubles("/a/t"), ElementsAre(0, 1, 0, 0, 0, 0, 6, 7, 8, 9));
  fs::remove(path);
}

}  // namespace
}  // namespace fl_sim
