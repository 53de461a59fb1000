#include "plugins/datasets/idx.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "any_job.h"
#include "data_files.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

class IdxTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) const {
    return temporary_.write(name, bytes);
  }

  // The four files of a set of n training and n test images of 28 x 28, pixel p of image i being
  // (i + p) mod 256 and its label i mod 10.
  void write_set(const std::string& subfolder, uint32_t n) const {
    std::string pixels, labels;
    for (uint32_t i = 0; i < n; ++i) {
      for (uint32_t p = 0; p < 28 * 28; ++p) pixels += static_cast<char>(i + p);
      labels += static_cast<char>(i % 10);
    }
    for (const std::string part : {"train", "t10k"}) {
      write(subfolder + part + "-images-idx3-ubyte", idx_header(8, {n, 28, 28}) + pixels);
      write(subfolder + part + "-labels-idx1-ubyte.gz", gzipped(idx_header(8, {n}) + labels));
    }
  }

  static Dataset read(const std::string& name, const std::string& lines) {
    const Job job = any_job("dataset = " + name + "\n" + lines);
    return make<DatasetSource>(name, {job, ""})->read();
  }

  TemporaryFolder temporary_{"idx_test"};
  fs::path folder_ = temporary_.path();
};

// The example is written byte by byte from the format's definition, not by a writer of ours.
TEST_F(IdxTest, ReadsBytesPlainAndCompressed) {
  const std::string bytes("\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x03\x00\x01\x7f\x80\xfe\xff", 22);
  const auto expected = torch::tensor({0, 1, 127, 128, 254, 255}, torch::kUInt8).reshape({2, 1, 3});
  for (const std::string& path : {write("a", bytes), write("a.gz", gzipped(bytes))}) {
    const torch::Tensor array = read_idx(path);
    EXPECT_EQ(array.scalar_type(), torch::kUInt8);
    EXPECT_TRUE(torch::equal(array, expected)) << path;
  }
}

// gzip members that follow one another are one file (RFC 1952, section 2.2).
TEST_F(IdxTest, ReadsGzipOfSeveralMembers) {
  const std::string path = write("a.gz", gzipped(idx_header(8, {4}) + "\1\2") + gzipped("\3\4"));
  EXPECT_TRUE(torch::equal(read_idx(path), torch::tensor({1, 2, 3, 4}, torch::kUInt8)));
}

TEST_F(IdxTest, ReadsEveryTypeBigEndian) {
  const auto equals = [&](char type, const std::string& bytes, const torch::Tensor& expected) {
    const uint32_t n = static_cast<uint32_t>(expected.numel());
    const torch::Tensor array = read_idx(write("a", idx_header(type, {n}) + bytes));
    return array.scalar_type() == expected.scalar_type() && torch::equal(array, expected);
  };
  using std::string;
  EXPECT_TRUE(equals(0x09, string("\xff\x02", 2), torch::tensor({-1, 2}, torch::kInt8)));
  EXPECT_TRUE(equals(0x0B, string("\x01\x02\xff\xfe", 4), torch::tensor({258, -2}, torch::kInt16)));
  EXPECT_TRUE(equals(0x0C, string("\x00\x01\x00\x00", 4), torch::tensor({65536}, torch::kInt32)));
  EXPECT_TRUE(equals(0x0D, string("\xc0\x20\0\0", 4), torch::tensor({-2.5}, torch::kFloat32)));
  EXPECT_TRUE(
      equals(0x0E, string("\x3f\xf8\0\0\0\0\0\0", 8), torch::tensor({1.5}, torch::kFloat64)));
}

// Larger than the reader's buffers, and a size that is no multiple of them.
TEST_F(IdxTest, ReadsAcrossItsBuffers) {
  constexpr uint32_t n = (3 << 20) + 12345;
  std::string values(n, '\0');
  uint32_t state = 1;
  for (char& c : values) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  for (const std::string& path : {write("a", idx_header(8, {n}) + values),
                                  write("a.gz", gzipped(idx_header(8, {n}) + values))}) {
    const torch::Tensor array = read_idx(path);
    ASSERT_EQ(array.numel(), n);
    EXPECT_EQ(std::memcmp(array.data_ptr(), values.data(), n), 0);
  }
}

TEST_F(IdxTest, RefusesWhatIsNotIdx) {
  EXPECT_ERROR(read_idx((folder_ / "none").string()), "none: cannot be opened");
  EXPECT_ERROR(read_idx(folder_.string()), "cannot be opened");
  EXPECT_ERROR(read_idx(write("a", "")), "a: is empty");
  EXPECT_ERROR(read_idx(write("a.gz", gzipped(""))), "a.gz: is empty");
  EXPECT_ERROR(read_idx(write("a", "\x89PNG\r\n")), "found 89 50 4e 47");
  EXPECT_ERROR(read_idx(write("a", std::string("\0\0\x08", 3))), "a: is not an IDX file");
  EXPECT_ERROR(read_idx(write("a", idx_header(0x0A, {1}) + "x")), "found 00 00 0a 01");
  EXPECT_ERROR(read_idx(write("a", idx_header(8, {}) + "x")), "found 00 00 08 00");
  EXPECT_ERROR(read_idx(write("a.gz", "no gzip at all")), "a.gz: is not an IDX file");
}

TEST_F(IdxTest, RefusesWrongLengths) {
  const std::string good = idx_header(8, {2, 3});
  EXPECT_ERROR(read_idx(write("a", good.substr(0, 10))), "a: ends inside its header");
  EXPECT_ERROR(read_idx(write("a", good + "12345")),
               "a: 6 bytes were expected behind its header, 5 were found");
  EXPECT_ERROR(read_idx(write("a", good + "1234567")),
               "a: 6 bytes were expected behind its header, more were found");
  EXPECT_ERROR(read_idx(write("a.gz", gzipped(good + "12345"))), "5 were found");
  EXPECT_ERROR(read_idx(write("a.gz", gzipped(good + "1234567"))), "more were found");
  EXPECT_ERROR(read_idx(write("a", idx_header(8, {0, 3}))), "dimension 0 has size 0");
  EXPECT_ERROR(read_idx(write("a", idx_header(8, {2, 0xfffffffd}))), "dimension 1 has size -3");
}

// A header may claim anything; only what is there is ever allocated (this would be 2^62 bytes).
TEST_F(IdxTest, RefusesAbsurdSizesWithoutAllocatingThem) {
  const std::string huge = idx_header(8, {0x7fffffff, 0x7fffffff}) + "12345";
  EXPECT_ERROR(read_idx(write("a", huge)), "5 were found");
  EXPECT_ERROR(read_idx(write("a.gz", gzipped(huge))), "5 were found");
  const std::string overflow = idx_header(8, {0x7fffffff, 0x7fffffff, 0x7fffffff}) + "12345";
  EXPECT_ERROR(read_idx(write("a", overflow)), "claims more than 2^63 bytes");
}

TEST_F(IdxTest, RefusesDamagedGzip) {
  std::string values;
  for (int i = 0; i < 5000; ++i) values += static_cast<char>(i * i >> 3);
  const std::string good = gzipped(idx_header(8, {5000}) + values);
  for (const size_t length : {size_t{5}, good.size() / 2, good.size() - 8, good.size() - 1}) {
    EXPECT_ERROR(read_idx(write("a.gz", good.substr(0, length))),
                 "a.gz: the gzip data end too early");
  }
  for (const size_t at : {good.size() / 2, good.size() - 6}) {  // in the data; in the checksum
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    EXPECT_THROW(read_idx(write("a.gz", bad)), Error) << at;
  }
  EXPECT_ERROR(read_idx(write("a.gz", good + "rubbish")), "a.gz: the gzip data are damaged");
}

// One flipped bit anywhere in a compressed file either is refused or leaves the values as they
// were (gzip's own header holds a time stamp and flags that no checksum covers).
TEST_F(IdxTest, NoFlippedBitReachesTheValues) {
  const std::string good =
      gzipped(idx_header(8, {41}) + "forty bytes that hardly compress, 0123456");
  const torch::Tensor expected = read_idx(write("a.gz", good));
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    try {
      EXPECT_TRUE(torch::equal(read_idx(write("a.gz", bad)), expected)) << "bit " << bit;
    } catch (const Error&) {
    }
  }
}

TEST_F(IdxTest, PairsImagesWithLabels) {
  const std::string images = write("images", idx_header(8, {2, 1, 3}) + "abcdef");
  const std::string labels = write("labels", idx_header(8, {2}) + std::string("\0\2", 2));
  const Samples samples = read_idx_samples(images, labels, 3);
  EXPECT_EQ(samples.inputs.sizes(), (std::vector<int64_t>{2, 1, 1, 3}));
  EXPECT_EQ(samples.inputs.scalar_type(), torch::kUInt8);
  EXPECT_TRUE(torch::equal(samples.labels, torch::tensor({0, 2}, torch::kInt64)));

  EXPECT_ERROR(read_idx_samples(images, labels, 2),
               "labels: label 2 at position 1 (must be 0 to 1)");
  EXPECT_ERROR(read_idx_samples(labels, images, 3), "the two files are swapped");
  EXPECT_ERROR(read_idx_samples(images, images, 3), "labels are expected");
  EXPECT_ERROR(read_idx_samples(labels, labels, 3), "images are expected");
  const std::string three = write("three", idx_header(8, {3}) + std::string("\0\1\2", 3));
  EXPECT_ERROR(read_idx_samples(images, three, 3), "three: holds 3 labels, but ");
  const std::string floats = write("floats", idx_header(0x0D, {1, 1, 1}) + std::string(4, '\0'));
  EXPECT_ERROR(read_idx_samples(floats, labels, 3), "floats: 1 x 1 x 1 of Float was found");
}

TEST_F(IdxTest, FindsASetUnderItsNameOrDirectly) {
  write_set("", 20);
  write_set("mnist/", 30);
  const std::string dir = "data-dir = " + folder_.string() + "\n";
  EXPECT_EQ(read("mnist", dir).train.size(), 30);
  EXPECT_EQ(read("fashion-mnist", dir).train.size(), 20);

  const Dataset data = read("mnist", dir);
  EXPECT_NO_THROW(check_dataset(data, "mnist"));
  EXPECT_EQ(data.classes, 10);
  EXPECT_EQ(data.train.sample_shape(), (std::vector<int64_t>{1, 28, 28}));
  EXPECT_EQ(data.test.size(), 30);
  EXPECT_EQ(data.train.labels[17].item<int64_t>(), 7);
  EXPECT_EQ(data.train.inputs[17][0][1][2].item<int64_t>(), 17 + 28 + 2);
  EXPECT_EQ(data.scale, 1.0 / 255);
  EXPECT_EQ(data.shift, 0);
}

// "standard" makes the training set's mean 0 and its standard deviation 1, by definition.
TEST_F(IdxTest, StandardisesWithTheTrainingSet) {
  write_set("", 20);
  const Dataset data =
      read("mnist", "data-dir = " + folder_.string() + "\nmnist.normalize = standard\n");
  const torch::Tensor seen = data.train.inputs.to(torch::kFloat64) * data.scale + data.shift;
  EXPECT_NEAR(seen.mean().item<double>(), 0, 1e-12);
  EXPECT_NEAR(seen.square().mean().item<double>(), 1, 1e-12);
}

TEST_F(IdxTest, SaysWhatIsMissing) {
  const std::string dir = "data-dir = " + folder_.string() + "\n";
  EXPECT_ERROR(read("fashion-mnist", dir), "apt install dataset-fashion-mnist");
  EXPECT_ERROR(read("mnist", dir), "--data-dir");
  EXPECT_ERROR(read("mnist", dir), (folder_ / "mnist").string() + ", " + folder_.string() + ")");
  write_set("", 10);
  fs::remove(folder_ / "t10k-labels-idx1-ubyte.gz");
  EXPECT_ERROR(read("mnist", dir), "t10k-labels-idx1-ubyte[.gz] is missing");
  write("t10k-labels-idx1-ubyte", idx_header(8, {9}) + "123456789");
  EXPECT_ERROR(read("mnist", dir), "holds 9 labels, but ");
  write("train-images-idx3-ubyte", idx_header(8, {10, 2, 2}) + std::string(40, 'x'));
  EXPECT_ERROR(read("mnist", dir), "images are 2 x 2 (expected 28 x 28)");
}

bool missing(const std::string& error) { return error.find("was not found") != std::string::npos; }

// The real files. Their sizes, class counts, mean and deviation are published: 6,000 + 1,000 images
// a class; torchvision's users normalise with (0.2860, 0.3530).
TEST(RealData, FashionMnistIsWhatWasPublished) {
  const Job job = any_job("dataset = fashion-mnist\nfashion-mnist.normalize = standard\n");
  Dataset data;
  try {
    data = make<DatasetSource>("fashion-mnist", {job, ""})->read();
  } catch (const Error& error) {
    if (!missing(error.what())) throw;
    GTEST_SKIP()
        << "Fashion-MNIST is not here: apt install dataset-fashion-mnist, or set FL_SIM_DATA";
  }
  check_dataset(data, "fashion-mnist");
  EXPECT_EQ(data.train.size(), 60000);
  EXPECT_EQ(data.test.size(), 10000);
  EXPECT_TRUE(torch::equal(data.train.labels.bincount(), torch::full({10}, 6000, torch::kInt64)));
  EXPECT_TRUE(torch::equal(data.test.labels.bincount(), torch::full({10}, 1000, torch::kInt64)));
  EXPECT_NEAR(-data.shift / data.scale / 255, 0.2860, 5e-5);
  EXPECT_NEAR(1 / data.scale / 255, 0.3530, 5e-5);
}

// As above with MNIST's (0.1307, 0.3081); its classes differ in size, 5,421 fives being the fewest.
TEST(RealData, MnistIsWhatWasPublished) {
  const Job job = any_job("dataset = mnist\nmnist.normalize = standard\n");
  Dataset data;
  try {
    data = make<DatasetSource>("mnist", {job, ""})->read();
  } catch (const Error& error) {
    if (!missing(error.what())) throw;
    GTEST_SKIP() << "MNIST is not here: set FL_SIM_DATA to the folder that holds mnist/";
  }
  check_dataset(data, "mnist");
  EXPECT_EQ(data.train.size(), 60000);
  EXPECT_EQ(data.test.size(), 10000);
  const std::vector<int64_t> counts = {5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949};
  EXPECT_TRUE(torch::equal(data.train.labels.bincount(), torch::tensor(counts)));
  EXPECT_NEAR(-data.shift / data.scale / 255, 0.1307, 5e-5);
  EXPECT_NEAR(1 / data.scale / 255, 0.3081, 5e-5);
}

}  // namespace
}  // namespace fl_sim
