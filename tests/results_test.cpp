#include "storage/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "any_job.h"
#include "base/check.h"
#include "base/hdf5_file.h"
#include "learning/named_model.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A directory of the test's own, empty.
std::string fresh_directory(const std::string& name) {
  const std::string path = testing::TempDir() + "fl_sim_results_" + name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

std::vector<NamedTensor> example_model() {
  return {{"fc.weight", {2, 3}, {1, 2, 3, 4, 5, 6}},
          {"fc.bias", {2}, {0.5f, -0.5f}},
          {"temperature", {}, {1}}};
}

RoundRecord example_round(int64_t number) {
  RoundRecord round;
  round.round = number;
  round.seconds = 0.25;
  round.train_loss = 1.0 / static_cast<double>(number);
  round.cohort = 2;
  round.samples = 100;
  round.bytes_up = number * 1000;
  return round;
}

ClientRecord example_client(int64_t round, int64_t client) {
  ClientRecord record;
  record.round = round;
  record.client = client;
  record.rank = 1;
  record.samples = 50;
  record.status =
      static_cast<int64_t>(client == 0 ? ClientStatus::kTrained : ClientStatus::kDiverged);
  record.weight = 0.5;
  record.loss = 0.7;
  return record;
}

void fill(Results& results) {
  results.set_job("rounds = 2\n", {{"rounds", "2"}, {"local.lr", "0.1"}});
  results.set_provenance({{"revision", "abc"}, {"start", "2024-01-01T00:00:00Z"}});
  Skew skew;
  skew.histogram = {2, 1, 0, 1};
  skew.jensen_shannon = {0.1, 0.3};
  skew.hellinger = {0.2, 0.4};
  skew.earth_mover = {0.25, 0.75};
  results.set_partition(Partition({0, 3, 4}, {0, 2, 5, 1}), skew);
  for (int64_t round = 1; round <= 2; ++round) {
    results.round(example_round(round));
    results.clients(std::vector<ClientRecord>{example_client(round, 0), example_client(round, 1)});
  }
  RankRecord rank;
  rank.rank = 1;
  std::memset(rank.host, 'h', sizeof rank.host);  // as long as can be: no terminating zero
  std::strcpy(rank.device, "cpu");
  results.set_ranks({RankRecord(), rank});
  results.set_model(example_model());
}

TEST(Results, EveryColumnOfATableIsThereAndOfOneLength) {
  const std::string path = fresh_directory("layout") + "/made/on/the/way/run.h5";
  Results results(path, false);
  fill(results);
  results.save(true);

  const Hdf5File file = Hdf5File::open(path);
  EXPECT_THAT(file.names("/"),
              ElementsAre("clients", "job", "model", "partition", "provenance", "ranks", "rounds"));
  EXPECT_THAT(file.names("/rounds"),
              testing::UnorderedElementsAre(
                  "round", "seconds", "idle_share", "train_loss", "test_loss", "test_accuracy",
                  "cohort", "failed", "diverged", "stragglers", "lost", "set_aside", "partial",
                  "absent", "samples", "bytes_down", "bytes_up", "bytes_state"));
  EXPECT_THAT(file.names("/clients"),
              testing::UnorderedElementsAre(
                  "round", "client", "rank", "samples", "steps", "samples_seen", "status", "weight",
                  "loss", "loss_before", "loss_after", "delta_norm", "seconds", "model"));
  EXPECT_THAT(file.names("/ranks"),
              testing::UnorderedElementsAre("rank", "host", "device", "compute_seconds",
                                            "wait_seconds", "comm_seconds", "evaluate_seconds"));
  for (const auto& [group, rows] :
       std::map<std::string, int64_t>{{"/rounds", 2}, {"/clients", 4}, {"/ranks", 2}}) {
    for (const std::string& column : file.names(group)) {
      EXPECT_THAT(file.shape(group + "/" + column), ElementsAre(rows)) << group << "/" << column;
    }
  }
  EXPECT_THAT(file.read_integers("/rounds/round"), ElementsAre(1, 2));
  EXPECT_THAT(file.read_doubles("/rounds/train_loss"), ElementsAre(1, 0.5));
  EXPECT_THAT(file.read_doubles("/rounds/test_accuracy"),
              ElementsAre(testing::IsNan(), testing::IsNan()));
  EXPECT_THAT(file.read_integers("/rounds/bytes_up"), ElementsAre(1000, 2000));
  EXPECT_THAT(file.read_integers("/clients/client"), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(file.read_integers("/clients/status"), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(file.read_text_attribute("/clients/status", "codes"),
              testing::StartsWith("0 trained, 1 diverged, 2 straggler"));
}

// Proves that what plug-ins measure in a round is a column of its own, NaN in rounds without it,
// and comes back with the others when the run is continued.
TEST(Results, FiguresOfPlugInsAreColumns) {
  const std::string path = fresh_directory("figures") + "/run.h5";
  {
    Results results(path, false);
    for (const auto& figures : {std::map<std::string, double>{{"clip.share", 0.25}},
                                {},
                                {{"clip.share", 0.5}, {"privacy.epsilon", 1.5}}}) {
      RoundRecord round = example_round(std::ssize(results.rounds()) + 1);
      round.figures = figures;
      results.round(round);
    }
    results.save(true);
  }
  const auto is = [](std::initializer_list<double> values) {
    return testing::Pointwise(testing::NanSensitiveDoubleEq(), std::vector<double>(values));
  };
  const auto expect_columns = [&](const std::string& what) {
    SCOPED_TRACE(what);
    const Hdf5File file = Hdf5File::open(path);
    EXPECT_THAT(file.read_doubles("/rounds/clip.share"), is({0.25, kNotMeasured, 0.5}));
    EXPECT_THAT(file.read_doubles("/rounds/privacy.epsilon"),
                is({kNotMeasured, kNotMeasured, 1.5}));
    EXPECT_EQ(file.names("/rounds").size(), 20u);
  };
  expect_columns("as written");
  {
    Results again(path, true);
    again.load(3);
    EXPECT_EQ(again.rounds()[0].figures.at("clip.share"), 0.25);
    EXPECT_TRUE(std::isnan(again.rounds()[1].figures.at("clip.share")));
    EXPECT_EQ(again.rounds()[2].figures.at("privacy.epsilon"), 1.5);
    EXPECT_EQ(again.rounds()[2].figures.size(), 2u);  // no column of ours is taken for one
    again.save(true);
  }
  expect_columns("as read and written again");
}

// Proves that a figure cannot stand where a column of ours does, be that one written or not, and
// that names which HDF5 cannot have are refused.
TEST(Results, FiguresAndScalarsHaveNamesOfTheirOwn) {
  Results results(fresh_directory("figure_names") + "/run.h5", false);
  const auto figure = [&](const std::string& name) {
    RoundRecord round = example_round(1);
    round.figures[name] = 1;
    return error_of([&] { results.round(round); });
  };
  for (const std::string name : {"bytes_up", "personal_accuracy_p10", "test_auc",
                                 "test_class_accuracy", "model_test_loss"}) {
    EXPECT_THAT(figure(name), HasSubstr("figure is named '" + name + "', but /rounds has a column"))
        << name;
  }
  for (const std::string name : {"", ".", "clip/share"})
    EXPECT_THAT(figure(name), HasSubstr("figure is named '" + name + "' (must not be"));
  EXPECT_THAT(results.rounds(), testing::IsEmpty());
  EXPECT_ERROR(results.set_scalars({"h", "loss_after"}), "is named 'loss_after', but /clients");
  EXPECT_ERROR(results.set_scalars({"h", "h"}), "is named 'h', but /clients");
}

// Proves that an algorithm may return as many numbers per client as a record holds, each a column.
TEST(Results, ClientsHaveEightNumbersOfTheAlgorithm) {
  const std::string path = fresh_directory("scalars") + "/run.h5";
  const std::vector<std::string> names = {"a", "b", "c", "d", "e", "f", "g", "h"};
  ASSERT_EQ(std::ssize(names), ClientRecord::kScalars);
  {
    Results results(path, false);
    results.set_scalars(names);
    results.round(example_round(1));
    std::vector<ClientRecord> clients = {example_client(1, 0), example_client(1, 1)};
    for (size_t i = 0; i < names.size(); ++i) clients[1].scalars[i] = 0.5 * static_cast<double>(i);
    results.clients(clients);
    results.save(true);
  }
  Results again(path, true);
  again.set_scalars(names);
  again.load(1);
  const std::vector<ClientRecord> clients = again.client_rows();
  ASSERT_EQ(clients.size(), 2u);
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_TRUE(std::isnan(clients[0].scalars[i])) << i;
    EXPECT_EQ(clients[1].scalars[i], 0.5 * static_cast<double>(i)) << i;
    EXPECT_THAT(Hdf5File::open(path).read_doubles("/clients/" + names[i]),
                ElementsAre(testing::IsNan(), 0.5 * static_cast<double>(i)));
  }
}

// Proves that rows which do not stay in memory are in the file and can be continued, be they added
// a few at a time or many: 40,000 rows are more than memory keeps and than are written at a time.
TEST(Results, ManyRowsAreAllThereAndContinued) {
  const std::string directory = fresh_directory("many"), path = directory + "/run.h5";
  std::vector<ClientRecord> expected;
  std::vector<double> scalars;
  {
    Results results(path, false);
    fill(results);
    results.set_scalars({"drift"});
    expected = results.client_rows();
    for (int64_t round = 3; std::ssize(expected) < 40'000; ++round) {
      results.round(example_round(round));
      std::vector<ClientRecord> rows;
      for (int64_t client = 0; client < (round % 2 == 0 ? 9001 : 700); ++client) {
        rows.push_back(example_client(round, client));
        rows.back().scalars[0] = static_cast<double>(round * client);
      }
      results.clients(rows);
      expected.insert(expected.end(), rows.begin(), rows.end());
    }
    for (const ClientRecord& row : expected) scalars.push_back(row.scalars[0]);
    results.save(true);
    results.save(true);  // what was kept is still there
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(directory), {}), 1);  // nothing is left beside it

  const Hdf5File file = Hdf5File::open(path);
  for (const std::string& column : file.names("/clients")) {
    EXPECT_THAT(file.shape("/clients/" + column), ElementsAre(std::ssize(expected))) << column;
  }
  EXPECT_THAT(file.read_doubles("/clients/drift"),
              testing::Pointwise(testing::NanSensitiveDoubleEq(), scalars));

  const int64_t last = expected.back().round - 1;
  Results again(path, true);
  again.set_scalars({"drift"});
  again.load(last);
  std::erase_if(expected, [&](const ClientRecord& row) { return row.round > last; });
  const std::vector<ClientRecord> found = again.client_rows();
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].round, expected[i].round) << i;
    EXPECT_EQ(found[i].client, expected[i].client) << i;
    EXPECT_EQ(found[i].loss, expected[i].loss) << i;
    if (expected[i].round > 2) {
      EXPECT_EQ(found[i].scalars[0], expected[i].scalars[0]) << i;
    }
  }

  // Rounds that are forgotten are gone from the file of rows, too, and others take their place.
  for (const int64_t round : {last - 1, int64_t{4}, int64_t{2}}) {
    again.forget_after(round);
    std::erase_if(expected, [&](const ClientRecord& row) { return row.round > round; });
    EXPECT_EQ(again.client_rows().size(), expected.size());
    EXPECT_EQ(again.client_rows().back().round, round);
    again.clients(std::vector<ClientRecord>{example_client(round + 1, 7)});
    EXPECT_EQ(again.client_rows().back().client, 7);
    EXPECT_EQ(again.client_rows()[expected.size() - 1].client, expected.back().client);
  }
}

// What clients keep from training, who never trains and who is in which group stands beside the
// partition where there is any, and nowhere else; the checksum stays that of the training lists.
TEST(Results, OtherListsOfClientsAreThereIfThereAreAny) {
  const std::string path = fresh_directory("lists") + "/run.h5";
  const Partition partition({0, 3, 4}, {0, 2, 5, 1});
  Results results(path, false);
  fill(results);
  results.save(true);
  EXPECT_THAT(Hdf5File::open(path).names("/partition"),
              ElementsAre("earth_mover", "hellinger", "histogram", "indices", "jensen_shannon",
                          "offsets", "size"));
  Skew skew;
  skew.jensen_shannon = skew.hellinger = skew.earth_mover = {0, 0};
  results.set_partition(partition, skew,
                        {.validation = Partition({0, 1, 1}, {3}),
                         .test = Partition({0, 1, 3}, {4, 6, 7}),
                         .holdout = {1},
                         .shift_group = {1, 0}});
  results.save(true);
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_THAT(file.read_integers("/partition/validation_offsets"), ElementsAre(0, 1, 1));
  EXPECT_THAT(file.read_integers("/partition/validation_indices"), ElementsAre(3));
  EXPECT_THAT(file.read_integers("/partition/test_offsets"), ElementsAre(0, 1, 3));
  EXPECT_THAT(file.read_integers("/partition/test_indices"), ElementsAre(4, 6, 7));
  EXPECT_THAT(file.read_integers("/partition/holdout"), ElementsAre(1));
  EXPECT_THAT(file.read_integers("/partition/shift_group"), ElementsAre(1, 0));
  EXPECT_EQ(file.read_text_attribute("/partition", "checksum"), partition_checksum(partition));
}

TEST(Results, JobProvenancePartitionAndModelAreThere) {
  const std::string path = fresh_directory("groups") + "/run.h5";
  Results results(path, false);
  fill(results);
  results.save(true);

  const Hdf5File file = Hdf5File::open(path);
  EXPECT_EQ(file.read_text("/job/text"), "rounds = 2\n");
  EXPECT_EQ(file.read_text_attribute("/job", "local.lr"), "0.1");
  EXPECT_EQ(file.read_text_attribute("/provenance", "revision"), "abc");
  EXPECT_THAT(file.read_integers("/partition/offsets"), ElementsAre(0, 3, 4));
  EXPECT_THAT(file.read_integers("/partition/indices"), ElementsAre(0, 2, 5, 1));
  EXPECT_THAT(file.read_integers("/partition/size"), ElementsAre(3, 1));
  EXPECT_THAT(file.shape("/partition/histogram"), ElementsAre(2, 2));
  EXPECT_THAT(file.read_doubles("/partition/earth_mover"), ElementsAre(0.25, 0.75));
  EXPECT_THAT(file.names("/model"), ElementsAre("fc.bias", "fc.weight", "temperature"));
  EXPECT_THAT(file.shape("/model/fc.weight"), ElementsAre(2, 3));
  EXPECT_THAT(file.shape("/model/temperature"), ElementsAre());
  EXPECT_THAT(file.read_floats("/model/fc.weight"), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(file.read_text_attribute("/model", "checksum"), model_checksum(example_model()));
}

// The digits are those of Python's zlib on the same bytes.
TEST(Results, ChecksumsAreZlibsAndDoNotDependOnTheOrder) {
  EXPECT_EQ(model_checksum({}), "0000000000000001");
  std::vector<NamedTensor> model = example_model();
  const std::string checksum = model_checksum(model);
  EXPECT_EQ(checksum, "1015f16658cc05dd");
  std::swap(model[0], model[2]);
  EXPECT_EQ(model_checksum(model), checksum);
  model[0].values[0] = 1.0000001f;
  EXPECT_NE(model_checksum(model), checksum);
  EXPECT_EQ(partition_checksum(Partition({0, 3, 4}, {0, 2, 5, 1})), "2a53c27501f00010");
}

TEST(Results, AnExistingFileIsRefusedUnlessOverwritten) {
  const std::string path = fresh_directory("exists") + "/run.h5";
  std::ofstream(path) << "precious";
  EXPECT_EQ(error_of([&] { Results(path, false); }),
            path + " exists (choose another --output, or --overwrite)");
  Results results(path, true);
  std::string content;
  std::ifstream(path) >> content;
  EXPECT_EQ(content, "precious") << "the old file must stay until the first save";
  results.save(true);
  EXPECT_TRUE(Hdf5File::open(path).has("/rounds/round"));
}

TEST(Results, WhatCannotBeWrittenIsFoundBeforeTraining) {
  const std::string directory = fresh_directory("unwritable");
  std::ofstream(directory + "/file") << "in the way";
  EXPECT_THAT(error_of([&] { Results(directory + "/file/sub/run.h5", false); }),
              HasSubstr("/file/sub"));
  EXPECT_THAT(error_of([&] { Results(directory + "/file/run.h5", false); }), HasSubstr("/file"));
  EXPECT_THAT(error_of([&] { Results(directory, false); }), HasSubstr("is a directory"));
  EXPECT_THAT(error_of([] { Results("/proc/run.h5", false); }), HasSubstr("/proc/run.h5"));
  EXPECT_THAT(error_of([] { Results("", false); }), HasSubstr("output is empty"));
}

TEST(Results, NothingIsLeftBeside) {
  const std::string directory = fresh_directory("beside");
  Results results(directory + "/run.h5", false);
  EXPECT_TRUE(fs::is_empty(directory)) << "the constructor must leave nothing";
  results.save(true);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory), {}), 1);
}

TEST(Results, AFailedWriteIsAnErrorAndKeepsTheOldFile) {
  const std::string directory = fresh_directory("failed");
  const std::string path = directory + "/run.h5";
  Results results(path, false);
  fill(results);
  results.save(true);
  fs::create_directory(path + ".tmp");  // in the way
  results.round(example_round(3));
  EXPECT_THAT(error_of([&] { results.save(true); }), HasSubstr(path));
  EXPECT_THAT(Hdf5File::open(path).read_integers("/rounds/round"), ElementsAre(1, 2));
}

// What is no table of rounds, one after the other, is not gone on with.
TEST(Results, OtherThanRoundsInTheirOrderAreNotContinued) {
  const std::string path = fresh_directory("order") + "/run.h5";
  const auto write = [&](const auto& rounds, const std::vector<int64_t>& shape) {
    Hdf5File file = Hdf5File::create(path);
    file.write("/job/text", std::string("rounds = 2\n"));
    file.write("/rounds/round", rounds, shape);
    file.close();
  };
  write(std::vector<int64_t>{1}, {});
  EXPECT_THAT(error_of([&] { Results(path, true).former(); }),
              testing::AllOf(HasSubstr(path), HasSubstr("is no column")));
  for (const std::vector<int64_t>& rounds :
       {std::vector<int64_t>{2, 1}, {1, 1}, {0, 1}, {1, 3}, {-1, 0}}) {
    write(rounds, {2});
    EXPECT_THAT(error_of([&] { Results(path, true).load(2); }),
                testing::AllOf(HasSubstr(path), HasSubstr("/rounds is of round")));
  }
  write(std::vector<int64_t>{1, 2}, {2});
  EXPECT_NO_THROW(Results(path, true).load(2));
}

TEST(Results, ParametersThatHdf5CannotNameAreRefused) {
  Results results(fresh_directory("names") + "/run.h5", false);
  for (const std::string name : {"", ".", "a/b"}) {
    EXPECT_THAT(error_of([&] {
                  results.set_model({{name, {1}, {0}}});
                }),
                HasSubstr("'" + name + "'"));
  }
  EXPECT_THAT(error_of([&] {
                results.set_model({{"a", {1}, {0}}, {"a", {1}, {0}}});
              }),
              HasSubstr("'a'"));
}

TEST(Results, SavingWaitsAHundredTimesAsLongAsItTook) {
  const std::string path = fresh_directory("due") + "/run.h5";
  Results results(path, false);
  EXPECT_TRUE(results.due());
  results.clients(
      std::vector<ClientRecord>(200'000));  // slow enough that the machine's load does not matter
  results.save(false);
  EXPECT_FALSE(results.due());
  results.round(example_round(1));
  results.save(false);
  EXPECT_THAT(Hdf5File::open(path).read_integers("/rounds/round"), ElementsAre());
  results.save(true);
  EXPECT_THAT(Hdf5File::open(path).read_integers("/rounds/round"), ElementsAre(1));
}

// The process is killed at any moment of its writing; the file must be whole, and never be older
// than before.
TEST(Results, AKilledRunLeavesAReadableFile) {
  const std::string path = fresh_directory("killed") + "/run.h5";
  std::mt19937 random(1);
  for (int kill_number = 0; kill_number < 20; ++kill_number) {
    fs::remove(path);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        Results results(path, true);
        fill(results);
        for (int64_t round = 3;; ++round) {
          results.save(true);
          results.round(example_round(round));
          results.clients(
              std::vector<ClientRecord>{example_client(round, 0), example_client(round, 1)});
        }
      } catch (...) {
        _exit(1);
      }
    }
    for (int wait = 0; wait < 1000 && !fs::exists(path); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";

    const Hdf5File file = Hdf5File::open(path);
    const std::vector<int64_t> rounds = file.read_integers("/rounds/round");
    ASSERT_GE(rounds.size(), 2u);
    EXPECT_EQ(rounds.back(), std::ssize(rounds));
    EXPECT_EQ(file.read_integers("/clients/round").size(), 2 * rounds.size());
    EXPECT_EQ(file.read_text_attribute("/model", "checksum"), model_checksum(example_model()));
  }
}

}  // namespace
}  // namespace fl_sim
