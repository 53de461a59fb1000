// Saved partitions: what is written is what is read, and nothing else is.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/hdf5_file.h"
#include "data/partition_file.h"
#include "partition_trial.h"

namespace fl_sim {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

class PartitionFile : public testing::Test {
 protected:
  PartitionFile() : folder_(testing::TempDir() + "fl_sim_partition_file/") {
    std::filesystem::create_directories(folder_);
  }
  ~PartitionFile() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + name; }
  std::string write(const std::string& text, const std::string& name = "x.json") const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }

  SavedPartition saved() const {
    return {.partition = make_partition({{5, 1}, {0, 4, 2}}),
            .samples = 7,
            .label_checksum = label_checksum(labels_),
            .partitioner = "dirichlet",
            .options = "dirichlet.alpha = 0.5\n",
            .seed = "3"};
  }

  std::string folder_;
  std::vector<int64_t> labels_ = {0, 1, 2, 0, 1, 2, 0};
};

TEST_F(PartitionFile, Hdf5IsReadBack) {
  save_partition(path("new/x.h5"), saved(), false);
  const SavedPartition read = read_partition(path("new/x.h5"));
  EXPECT_THAT(read.partition.offsets, ElementsAre(0, 2, 5));
  EXPECT_THAT(read.partition.indices, ElementsAre(1, 5, 0, 2, 4));
  EXPECT_EQ(read.samples, 7);
  EXPECT_EQ(read.label_checksum, saved().label_checksum);
  EXPECT_EQ(read.partitioner, "dirichlet");
  EXPECT_EQ(read.options, "dirichlet.alpha = 0.5\n");
  EXPECT_EQ(read.seed, "3");
  EXPECT_NO_THROW(check_saved(read, "x.h5", labels_));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path("new")), {}),
            1);  // no leftovers
}

// The checksum that zlib gives in Python: crc32 and adler32 of the labels' bytes.
TEST_F(PartitionFile, LabelChecksumIsZlibs) {
  EXPECT_EQ(label_checksum({}), "0000000000000001");
  EXPECT_EQ(label_checksum(std::vector<int64_t>{1}), "a988dff700100002");
}

TEST_F(PartitionFile, OfOtherDataIsRefused) {
  save_partition(path("x.h5"), saved(), false);
  const SavedPartition read = read_partition(path("x.h5"));
  std::vector<int64_t> longer = labels_, other = labels_;
  longer.push_back(0);
  other[6] = 1;
  EXPECT_ERROR(check_saved(read, "x.h5", longer),
               "x.h5: is a partition of 7 training samples, this training set has 8");
  EXPECT_ERROR(check_saved(read, "x.h5", other),
               "x.h5: is a partition of a training set whose labels have checksum");
}

// The same again changes nothing; another one is not written over it unless that is asked for.
TEST_F(PartitionFile, IsNotReplacedByAnother) {
  save_partition(path("x.h5"), saved(), false);
  const auto time = std::filesystem::last_write_time(path("x.h5"));
  EXPECT_NO_THROW(save_partition(path("x.h5"), saved(), false));
  EXPECT_EQ(std::filesystem::last_write_time(path("x.h5")), time);
  SavedPartition other = saved();
  other.partition = make_partition({{5}, {0, 4, 2}});
  EXPECT_ERROR(save_partition(path("x.h5"), other, false), "exists and is not this partition");
  EXPECT_EQ(read_partition(path("x.h5")).partition.size(0), 2);
  save_partition(path("x.h5"), other, true);
  EXPECT_EQ(read_partition(path("x.h5")).partition.size(0), 1);
  write("what somebody wrote", "note.txt");
  EXPECT_ERROR(save_partition(path("note.txt"), other, false), "exists and is not this partition");
  EXPECT_ERROR(save_partition("/proc/x.h5", other, false), "/proc/x.h5");
}

// NIID-Bench's dictionary, in any order, and a list of lists.
TEST_F(PartitionFile, JsonIsRead) {
  for (const char* text : {"{\"1\": [4, 0, 2], \"0\": [5, 1]}", "[[5, 1], [0, 4, 2]]\n"}) {
    const SavedPartition read = read_partition(write(text));
    EXPECT_THAT(read.partition.offsets, ElementsAre(0, 2, 5));
    EXPECT_THAT(read.partition.indices, ElementsAre(1, 5, 0, 2, 4));
    EXPECT_EQ(read.samples, -1);
    EXPECT_NO_THROW(check_saved(read, "x.json", labels_));
  }
}

TEST_F(PartitionFile, MalformedFilesAreRefused) {
  const auto refused = [&](const std::string& text, const std::string& part) {
    const std::string file = write(text);
    const std::string what = error_of([&] { check_saved(read_partition(file), file, labels_); });
    EXPECT_TRUE(what.starts_with(file + ": ")) << what;
    EXPECT_NE(what.find(part), std::string::npos) << text << ": " << what;
  };
  refused("", "is no JSON");
  refused("{\"0\": [1, 2}", "is no JSON");
  refused("[[1], [2]] x", "is no JSON");
  refused("7", "holds no clients");
  refused("{}", "holds no clients");
  refused("[]", "holds no clients");
  refused("[[1], 2]", "what client 1 holds is no list");
  refused("[[1], [2.5]]", "client 1 holds 2.5 (must be numbers of samples)");
  refused("[[1], [true]]", "client 1 holds true");
  refused("[[1], [\"2\"]]", "client 1 holds \"2\"");
  refused("[[1], [[2]]]", "client 1 holds [2]");
  refused("[[1], [18446744073709551615]]", "client 1 holds 18446744073709551615");
  refused("[[1], [9223372036854775807]]",
          "lists sample 9223372036854775807, but this training set has 7");
  refused("[[1], [7]]", "lists sample 7, but this training set has 7");
  refused("[[1], [-1]]", "sample -1");
  refused("[[1], []]", "client 1 holds no sample");
  refused("[{\"train\": [1], \"test\": [2]}]", "is split into train and others");
  refused("\x80\x04\x95", "is a Python pickle, such as FL-bench's partition.pkl");
  refused("[[1, 2], [2]]", "gives sample 2 to client 0 and to client 1");
  refused("{\"0\": [1], \"2\": [2]}", "names 2 clients, but not client '1'");
  refused("{\"0\": [1], \"0\": [2]}", "client '0' is there twice");
  refused("[[[[[[[1]]]]]]]", "nested too deeply");
  EXPECT_ERROR(read_partition("/nowhere.json"), "/nowhere.json: cannot be read");
  EXPECT_ERROR(read_partition(folder_), "cannot be read");
  Hdf5File::create(path("other.h5")).close();
  EXPECT_ERROR(read_partition(path("other.h5")), "other.h5: holds no saved partition");
  SavedPartition empty = saved();
  empty.partition = make_partition({{1}, {}});
  save_partition(path("empty.h5"), empty, false);
  EXPECT_ERROR(read_partition(path("empty.h5")), "empty.h5: client 1 holds no sample");
}

// Mutations of valid files end in an error that names the file, or in a partition that holds.
TEST_F(PartitionFile, MutationsNeverPassUnseen) {
  std::vector<std::string> seeds = {"{\"1\": [4, 0, 2], \"0\": [5, 1]}", "[[5, 1], [0, 4, 2]]"};
  save_partition(path("x.h5"), saved(), false);
  std::ifstream in(path("x.h5"), std::ios::binary);
  std::stringstream hdf5;
  hdf5 << in.rdbuf();
  seeds.push_back(hdf5.str());
  Rng rng(0, "mutations");
  for (int64_t trial = 0; trial < 3000; ++trial) {
    std::string text = seeds[static_cast<size_t>(trial % 3)];
    for (int64_t i = rng.below(3); i >= 0; --i) {
      const auto at = static_cast<size_t>(rng.below(std::ssize(text)));
      switch (rng.below(4)) {
        case 0:
          text[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          text.erase(at, 1 + static_cast<size_t>(rng.below(3)));
          break;
        case 2:
          text.insert(at, 1, "[]{},:-.e0123456789\""[rng.below(20)]);
          break;
        default:
          text = text.substr(0, at + 1);
      }
      if (text.empty()) text.push_back(' ');
    }
    const std::string file = write(text, "mutated");
    try {
      const SavedPartition read = read_partition(file);
      check_saved(read, file, labels_);
      check_partition(read.partition, 7);
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with(file)) << error.what();
    }
  }
}

// The partitioner `file` gives what was saved, refuses another number of clients, and knows its
// own.
TEST_F(PartitionFile, PartitionerReadsIt) {
  save_partition(path("x.h5"), saved(), false);
  const std::string lines = "file.path = " + path("x.h5");
  const Partition p = split("file", lines, {labels_, 3, 2});
  EXPECT_THAT(p.indices, ElementsAre(1, 5, 0, 2, 4));
  EXPECT_EQ(own_clients("file", lines), 2);
  EXPECT_ERROR(split("file", lines, {labels_, 3, 3}),
               "x.h5: is a partition for 2 clients, clients is 3");
  // Any partition, saved and read, is itself.
  const std::vector<int64_t> labels = even_labels(10, 50);
  const Partition made = split("dirichlet", "dirichlet.alpha = 0.5", {labels, 10, 8});
  save_partition(path("y.h5"),
                 {.partition = made, .samples = 500, .label_checksum = label_checksum(labels)},
                 false);
  const Partition read = split("file", "file.path = " + path("y.h5"), {labels, 10, 8});
  EXPECT_THAT(read.offsets, ElementsAreArray(made.offsets));
  EXPECT_THAT(read.indices, ElementsAreArray(made.indices));
}

}  // namespace
}  // namespace fl_sim
