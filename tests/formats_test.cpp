// Readers of data files: what is in a file is what is in the tensors, value by value, and what is
// wrong with a file is said with its name.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <map>
#include <regex>

#include "any_job.h"
#include "data/dataset.h"
#include "plugins/datasets/cifar.h"
#include "plugins/datasets/files.h"
#include "plugins/datasets/image_file.h"
#include "plugins/datasets/tabular.h"
#include "plugins/datasets/text.h"
#include "small_sets.h"

namespace fl_sim {
namespace {

int byte(int i, int p) { return (31 * i + 7 * p) % 256; }  // as pixels_of() has it

std::vector<int64_t> integers(const torch::Tensor& t) {
  const torch::Tensor flat = t.to(torch::kInt64).contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}
std::vector<float> floats(const torch::Tensor& t) {
  const torch::Tensor flat = t.to(torch::kFloat32).contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}
using Integers = std::vector<int64_t>;

class Formats : public testing::Test {
 protected:
  // Reads what the job says from this test's folder; what is read is whole.
  Dataset read(const std::string& name, const std::string& argument,
               const std::string& options = "") const {
    const std::string colon = argument.empty() ? "" : ":" + argument;
    const Job job = any_job("dataset = " + name + colon +
                            "\ndata-dir = " + folder_.path().string() + "\n" + options);
    Dataset data = make<DatasetSource>(name, {job, argument})->read();
    check_dataset(data, name);
    return data;
  }
  Dataset read(const SmallSet& set) const { return read(set.dataset, set.argument, set.options); }

  std::string write(const std::string& name, const std::string& bytes) const {
    return folder_.write(name, bytes);
  }

  TemporaryFolder folder_{"formats_test"};
};

TEST_F(Formats, EverySmallSetIsRead) {
  for (const auto& small : small_sets()) {
    const SmallSet set = small(folder_);
    SCOPED_TRACE(set.name);
    EXPECT_NO_THROW(read(set));
  }
}

// EMNIST's files hold each image column by column: element (r, c) of the upright image is the byte
// at 28 c + r. The letters' labels start at 1.
TEST_F(Formats, EmnistStandsUpright) {
  const Dataset data = read(small_emnist(folder_));
  EXPECT_EQ(data.classes, 26);
  EXPECT_EQ(data.class_names[25], "Z");
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{12, 1, 28, 28}));
  for (const auto& [i, r, c] : {std::array{0, 3, 5}, std::array{11, 27, 0}, std::array{7, 0, 27}})
    EXPECT_EQ(data.train.inputs[i][0][r][c].item<int64_t>(), byte(i, 28 * c + r));
  EXPECT_EQ(integers(data.test.labels), (Integers{0, 1, 2, 3, 4}));

  const auto [images, labels] = idx_pair(3, 0);  // labels 0, 1, 2: 0 is no letter
  write("emnist/gzip/emnist-letters-test-images-idx3-ubyte.gz", images);
  const std::string path = write("emnist/gzip/emnist-letters-test-labels-idx1-ubyte.gz", labels);
  EXPECT_ERROR(read("emnist", "", "emnist.split = letters\n"),
               path + ": label 0 at position 0 (must be 1 to 26)");
  EXPECT_ERROR(read("emnist", "", "emnist.split = digits\n"), "scripts/get_data emnist");
}

TEST_F(Formats, EmnistSplitsHaveTheirClasses) {
  for (const auto& [split, classes] :
       {std::pair{"byclass", 62}, std::pair{"bymerge", 47}, std::pair{"balanced", 47},
        std::pair{"digits", 10}, std::pair{"mnist", 10}}) {
    for (const std::string part : {"-train", "-test"}) {
      const auto [images, labels] = idx_pair(10, 0);
      write(std::string("emnist/emnist-") + split + part + "-images-idx3-ubyte", images);
      write(std::string("emnist/emnist-") + split + part + "-labels-idx1-ubyte", labels);
    }
    const Dataset data = read("emnist", "", std::string("emnist.split = ") + split + "\n");
    EXPECT_EQ(data.classes, classes) << split;
    EXPECT_EQ(std::ssize(data.class_names), classes) << split;
  }
}

// Records of CIFAR-10 (one label) and CIFAR-100 (coarse, then fine).
TEST_F(Formats, CifarRecordsAreLabelsAndPlanes) {
  std::string ten, hundred;
  for (int i = 0; i < 3; ++i) {
    ten += std::string{static_cast<char>(9 - i)} + pixels_of(i, 3072);
    hundred +=
        std::string{static_cast<char>(i % 2), static_cast<char>(99 - i)} + pixels_of(i, 3072);
  }
  const CifarRecords a =
      read_cifar({write("a.bin", ten), write("b.bin.gz", gzipped(ten))}, {3, 10, 0});
  EXPECT_EQ(a.samples.inputs.sizes(), (Integers{6, 3, 32, 32}));
  EXPECT_EQ(integers(a.samples.labels), (Integers{9, 8, 7, 9, 8, 7}));
  EXPECT_TRUE(a.coarse.empty());
  for (int i = 0; i < 6; ++i) {
    const std::vector<int64_t> image = integers(a.samples.inputs[i]);
    for (int p = 0; p < 3072; ++p) ASSERT_EQ(image[static_cast<size_t>(p)], byte(i % 3, p));
  }
  const CifarRecords b = read_cifar({write("c.bin", hundred)}, {3, 100, 20});
  EXPECT_EQ(integers(b.samples.labels), (Integers{99, 98, 97}));
  EXPECT_EQ(b.coarse, (Integers{0, 1, 0}));

  const std::string d = write("d.bin", ten.substr(0, 5000));
  EXPECT_ERROR(read_cifar({d}, {3, 10, 0}),
               d + ": 9219 bytes were expected (3 records of 3073), 5000 were found");
  EXPECT_ERROR(read_cifar({write("e.bin", ten + "x")}, {3, 10, 0}), "more were found");
  EXPECT_ERROR(read_cifar({write("c.bin", hundred)}, {3, 90, 20}), "record 0 has label 99");
  EXPECT_ERROR(read_cifar({write("c.bin", hundred)}, {3, 100, 1}), "record 1 has coarse label 1");
}

// A whole CIFAR-10 (made up), in [0, 1] and standardised by channel: mean 0 and deviation 1 in
// each.
TEST_F(Formats, CifarIsStandardisedByChannel) {
  const std::string folder = "cifar-10-batches-bin/";
  for (int f = 0; f < 6; ++f) {
    std::string records;
    for (int i = 0; i < 10000; ++i) {
      std::string record(3073, static_cast<char>(f + i % 7));
      record[0] = static_cast<char>(i % 10);
      for (size_t p = 1; p < 3073; p += 5)
        record[p] = static_cast<char>(i + static_cast<int>(p / 1024) * 50);
      records += record;
    }
    write(folder + (f == 5 ? "test_batch" : "data_batch_" + std::to_string(f + 1)) + ".bin",
          records);
  }
  const Dataset plain = read("cifar10", "");
  EXPECT_EQ(plain.train.size(), 50000);
  EXPECT_EQ(plain.test.size(), 10000);
  EXPECT_EQ(plain.scale, 1.0 / 255);
  EXPECT_EQ(plain.class_names[9], "truck");
  const Dataset standard = read("cifar10", "", "cifar10.normalize = standard\n");
  for (int64_t c = 0; c < 3; ++c) {
    const torch::Tensor seen = standard.train.inputs.select(1, c).to(torch::kFloat64);
    EXPECT_NEAR(seen.mean().item<double>(), 0, 1e-6);
    EXPECT_NEAR(seen.square().mean().item<double>(), 1, 1e-6);
    // The test set with the training set's numbers: one straight line for both.
    const torch::Tensor x = plain.train.inputs.select(1, c).to(torch::kFloat64);
    const double mean = x.mean().item<double>();
    const double deviation = std::sqrt((x - mean).square().mean().item<double>());
    const torch::Tensor expected =
        (plain.test.inputs.select(1, c).to(torch::kFloat64) - mean) / deviation;
    EXPECT_TRUE(torch::allclose(standard.test.inputs.select(1, c).to(torch::kFloat64), expected,
                                1e-5, 1e-6));
  }
  std::filesystem::remove(folder_.path() / folder / "data_batch_3.bin");
  EXPECT_ERROR(read("cifar10", ""), "data_batch_3.bin is missing beside the other files");
}

TEST_F(Formats, FedEmnistIsByWriter) {
  const Dataset data = read(small_fed_emnist(folder_));
  EXPECT_EQ(data.classes, 62);
  EXPECT_EQ(data.owner, (Integers{0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 1, 20, 40, 41, 42}));
  EXPECT_EQ(integers(data.test.labels), (Integers{0, 20, 40}));
  // All pixels are multiples of 1/255: kept as bytes.
  EXPECT_EQ(data.train.inputs.scalar_type(), torch::kUInt8);
  const std::vector<int64_t> third = integers(data.train.inputs[4]);  // w2's image 1
  for (int p = 0; p < 784; ++p) ASSERT_EQ(third[static_cast<size_t>(p)], 255 - byte(21, p));
  EXPECT_EQ(data.class_names[36], "a");
}

// Other pixels are kept as they are, in both parts.
TEST_F(Formats, FedEmnistKeepsWhatIsNoByte) {
  const SmallSet set = small_fed_emnist(folder_);
  {
    Hdf5File file = Hdf5File::create(folder_.path() / set.files[1]);
    std::vector<float> pixels(784, 0.3f);
    file.write("/examples/w0/pixels", pixels, {1, 28, 28});
    file.write("/examples/w0/label", std::vector<int64_t>{61});
  }
  const Dataset data = read(set);
  EXPECT_EQ(data.scale, 1);
  EXPECT_EQ(floats(data.test.inputs), std::vector<float>(784, 0.3f));
  EXPECT_EQ(data.train.inputs[0][0][0][1].item<float>(), 248.0f / 255);  // 255 - 7
}

TEST_F(Formats, FedEmnistRefusesWhatDoesNotFit) {
  const SmallSet set = small_fed_emnist(folder_);
  const std::string path = (folder_.path() / set.files[0]).string();
  const auto expect = [&](const std::string& part, const std::function<void(Hdf5File&)>& fill) {
    {
      Hdf5File file = Hdf5File::create(path);
      fill(file);
    }
    EXPECT_ERROR(read(set), path);
    EXPECT_ERROR(read(set), part);
  };
  const std::vector<float> pixels(784, 0.5f);
  const std::vector<int64_t> label = {3}, two = {3, 4}, large = {62};
  expect("has no group /examples", [&](Hdf5File& f) { f.write("/other", label); });
  expect("holds 2 labels for 1 samples", [&](Hdf5File& f) {
    f.write("/examples/a/pixels", pixels, {1, 28, 28});
    f.write("/examples/a/label", two);
  });
  expect("label 62 (must be 0 to 61)", [&](Hdf5File& f) {
    f.write("/examples/a/pixels", pixels, {1, 28, 28});
    f.write("/examples/a/label", large);
  });
  expect("/examples/a/pixels: is 1 x 784 (expected n x 28 x 28)", [&](Hdf5File& f) {
    f.write("/examples/a/pixels", pixels, {1, 784});
    f.write("/examples/a/label", label);
  });
  expect("a pixel is 2 (must be 0 to 1)", [&](Hdf5File& f) {
    f.write("/examples/a/pixels", std::vector<float>(784, 2), {1, 28, 28});
    f.write("/examples/a/label", label);
  });
  expect("/examples/a/label", [&](Hdf5File& f) {
    f.write("/examples/a/pixels", pixels, {1, 28, 28});
  });
  write(set.files[0], "no HDF5");
  EXPECT_ERROR(read(set), path + ": is not a whole HDF5 file");
}

// Channels stand last in the file and first here.
TEST_F(Formats, FedCifarIsByClient) {
  const Dataset data = read(small_fed_cifar(folder_));
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{4, 3, 32, 32}));
  EXPECT_EQ(data.owner, (Integers{0, 0, 1, 1}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 1, 30, 31}));
  EXPECT_EQ(integers(data.test.labels), (Integers{10}));
  for (const auto& [c, y, x] : {std::array{0, 0, 1}, std::array{2, 31, 30}, std::array{1, 9, 0}})
    EXPECT_EQ(data.train.inputs[3][c][y][x].item<int64_t>(), byte(11, (y * 32 + x) * 3 + c));
}

// The windows by the rule: <bos>, characters, <eos>, padding up to a multiple of 81; inputs are the
// first 80 of each, labels the last 80, padding is ignored.
TEST_F(Formats, ShakespeareIsWindowsOfEightyCharacters) {
  const Dataset data = read(small_fed_shakespeare(folder_));
  const std::string alphabet =
      "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r";
  ASSERT_EQ(alphabet.size(), 86u);
  EXPECT_EQ(data.classes, 90);
  std::vector<int64_t> inputs, labels, owner;
  for (size_t s = 0; s < small_snippets().size(); ++s) {
    std::vector<int64_t> codes = {87};
    for (const char c : small_snippets()[s]) {
      const size_t at = alphabet.find(c);
      codes.push_back(at == std::string::npos ? 89 : static_cast<int64_t>(at) + 1);
    }
    codes.push_back(88);
    while (codes.size() % 81 != 0) codes.push_back(0);
    for (size_t w = 0; w < codes.size(); w += 81) {
      for (size_t t = 0; t < 80; ++t) {
        inputs.push_back(codes[w + t]);
        labels.push_back(codes[w + t + 1] == 0 ? -1 : codes[w + t + 1]);
      }
      owner.push_back(s < 3 ? 0 : 1);
    }
  }
  EXPECT_EQ(integers(data.train.inputs), inputs);
  EXPECT_EQ(integers(data.train.labels), labels);
  EXPECT_EQ(data.owner, owner);
  EXPECT_EQ(data.train.positions(), 80);
}

// A window that would begin with <eos> alone has nothing to predict.
TEST_F(Formats, ShakespeareLeavesEmptyWindowsOut) {
  std::vector<uint8_t> windows;
  tff_text::append_windows(std::string(80, 'a'), windows);  // 82 codes: <eos> alone is left over
  EXPECT_EQ(windows.size(), 81u);
  EXPECT_EQ(windows[80], windows[79]);
  windows.clear();
  tff_text::append_windows(std::string(81, 'a'), windows);
  EXPECT_EQ(windows.size(), 162u);
  EXPECT_EQ(windows[82], 88);
}

// Strings of one length, as some writers store them.
TEST_F(Formats, ShakespeareReadsStringsOfFixedLength) {
  const SmallSet set = small_fed_shakespeare(folder_);
  const std::string path = (folder_.path() / set.files[0]).string();
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t examples = H5Gcreate2(file, "examples", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t role = H5Gcreate2(examples, "A", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, 4);
  const hsize_t two = 2;
  const hid_t space = H5Screate_simple(1, &two, nullptr);
  const hid_t data =
      H5Dcreate2(role, "snippets", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Dwrite(data, type, H5S_ALL, H5S_ALL, H5P_DEFAULT,
           "dhlp"
           "d\0\0\0");
  H5Dclose(data);
  H5Sclose(space);
  H5Tclose(type);
  H5Gclose(role);
  H5Gclose(examples);
  H5Fclose(file);
  const Dataset read_data = read(set);
  EXPECT_EQ(integers(read_data.train.inputs.slice(1, 0, 6)),
            (Integers{87, 1, 2, 3, 4, 88, 87, 1, 88, 0, 0, 0}));
}

// A library that crashes over a damaged file takes a child process with it, not the run; what is
// thrown there is left to the caller to meet.
TEST_F(Formats, ACrashOfALibraryIsAnError) {
  const std::string path = write("file", "bytes");
  EXPECT_ERROR(survive(path, [] { std::abort(); }),
               path + ": is damaged (the HDF5 library crashed");
  EXPECT_NO_THROW(survive(path, [] { throw Error("for the caller"); }));
  bool changed = false;
  survive(path, [&] { changed = true; });
  EXPECT_FALSE(changed);
}

TEST_F(Formats, LeafMergesFilesAndSortsUsers) {
  const Dataset data = read(small_leaf(folder_));
  EXPECT_EQ(floats(data.train.inputs), (std::vector<float>{13, 14, 15, 0, 0, 0, 7, 8, 9, 10, 11, 12,
                                                           1.5f, -2, 0.3f, 4, 5, 6}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 1, 1, 1, 2, 0}));
  EXPECT_EQ(data.owner, (Integers{0, 0, 1, 2, 3, 3}));
  EXPECT_EQ(data.classes, 3);
  EXPECT_EQ(floats(data.test.inputs), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(read("leaf", "numbers", "leaf.classes = 5\n").classes, 5);
  EXPECT_ERROR(read("leaf", "numbers", "leaf.classes = 2\n"), "label 2 occurs, but leaf.classes");
}

TEST_F(Formats, LeafReadsImagesAndTexts) {
  const Dataset images = read(small_leaf_images(folder_));
  EXPECT_EQ(images.train.inputs.sizes(), (Integers{2, 1, 28, 28}));
  EXPECT_EQ(images.train.inputs.scalar_type(), torch::kUInt8);
  EXPECT_EQ(images.classes, 62);
  for (int p = 0; p < 784; ++p)
    ASSERT_EQ(images.train.inputs[1].flatten()[p].item<int64_t>(), byte(1, p));

  const std::string alphabet =
      "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}";
  ASSERT_EQ(alphabet.size(), 80u);
  const Dataset text = read(small_leaf_text(folder_));
  EXPECT_EQ(text.classes, 80);
  const auto place = [&](char c) { return static_cast<int64_t>(alphabet.find(c)); };
  EXPECT_EQ(integers(text.train.labels), (Integers{place('!'), place('b'), place('}')}));
  EXPECT_EQ(text.train.inputs[0][0].item<int64_t>(), place(' '));
  EXPECT_EQ(text.train.inputs[2][78].item<int64_t>(), place('Z'));
  EXPECT_EQ(text.train.inputs[2][79].item<int64_t>(), 0);
  EXPECT_EQ(text.owner, (Integers{0, 1, 1}));
}

TEST_F(Formats, LeafRefusesWhatDoesNotFit) {
  const SmallSet set = small_leaf(folder_);
  const std::string path = (folder_.path() / "numbers/train/1.json").string();
  const auto expect = [&](const std::string& bytes, const std::string& part) {
    write("numbers/train/1.json", bytes);
    EXPECT_ERROR(read(set), path);
    EXPECT_ERROR(read(set), part);
  };
  const std::string good = leaf_json({{"a", "[[1, 2, 3]]", "[0]", 1}});
  expect(good.substr(0, good.size() - 3), "is not JSON");
  expect(leaf_json({{"a", "[[1, 2, 3]]", "[0]", 2}}), "user 'a' has 1 samples, but num_samples");
  expect(leaf_json({{"a", "[[1, 2, 3]]", "[0, 1]", 2}}), "user 'a' has 1 x and 2 y");
  expect(leaf_json({{"a", "[[1, 2]]", "[0]", 1}}), "user 'a', x 0 has 2 numbers (expected 3");
  expect(leaf_json({{"a", "[[1, [2], 3]]", "[0]", 1}}), "nested too deeply");
  expect(leaf_json({{"a", "[[1, null, 3]]", "[0]", 1}}), "holds null");
  expect(leaf_json({{"a", "[\"abc\"]", "[0]", 1}}), "is a text, while those before are numbers");
  expect(leaf_json({{"a", "[[1, 2, 3]]", "[-1]", 1}}), "a label is -1");
  expect(leaf_json({{"a", "[[1, 2, 3]]", "[0.5]", 1}}), "a label is 0.5");
  expect(leaf_json({{"d", "[[1, 2, 3]]", "[0]", 1}}), "user 'd' has data twice");
  expect("{\"users\": [\"a\"], \"num_samples\": [1]}", "has no 'user_data'");
  expect("{\"users\": [\"a\"], \"num_samples\": [1], \"user_data\": {}}", "has no user_data");
  expect("[1]", "is not an object");
  expect("{\"users\": 3}", "holds a number");
  EXPECT_ERROR(read("leaf", "nothing"), "no folder nothing with train/ and test/");
}

TEST_F(Formats, CsvEncodesAndStandardises) {
  const SmallSet set = small_csv(folder_);
  // Without a split by chance: the same table as a test file. Rows e and g miss a value.
  const std::string options = std::regex_replace(set.options, std::regex("csv.test-fraction.*\n"),
                                                 "csv.test = table.csv\n");
  const Dataset data = read("csv", "table.csv", options);
  EXPECT_EQ(data.classes, 2);
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(integers(data.train.labels), (Integers{1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(data.owner, (Integers{0, 0, 0, 1, 1, 1}));  // north, south
  // size, weight, then blue, green, red; each clinic by itself.
  const double rows[2][3][5] = {{{1.5, 10, 0, 0, 1}, {2.5, -20, 1, 0, 0}, {3.5, 30, 0, 0, 1}},
                                {{1, 4, 0, 1, 0}, {3, 6, 1, 0, 0}, {4, 8, 0, 0, 1}}};
  for (int clinic = 0; clinic < 2; ++clinic) {
    for (int c = 0; c < 5; ++c) {
      double mean = 0, squares = 0;
      for (const auto& row : rows[clinic]) mean += row[c] / 3;
      for (const auto& row : rows[clinic]) squares += (row[c] - mean) * (row[c] - mean);
      const double deviation = squares > 0 ? std::sqrt(squares / 2) : 1;  // green is constant
      for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(data.train.inputs[3 * clinic + i][c].item<double>(),
                    (rows[clinic][i][c] - mean) / deviation, 1e-6);
      }
    }
  }
  EXPECT_TRUE(torch::equal(data.train.inputs, data.test.inputs));

  // Columns by number, nothing standardised, the first colour dropped.
  const Dataset raw = read("csv", "table.csv",
                           "csv.label = 3\ncsv.client = -1\ncsv.onehot = 2\ncsv.drop = 0\n"
                           "csv.missing = ?,empty\ncsv.onehot-drop-first = true\n"
                           "csv.test = table.csv\n");
  EXPECT_EQ(floats(raw.train.inputs[1]), (std::vector<float>{2.5, -20, 0, 0}));
  EXPECT_EQ(floats(raw.train.inputs[3]), (std::vector<float>{1, 4, 1, 0}));
}

TEST_F(Formats, CsvPredictsNumbers) {
  const Dataset data = read(small_regression(folder_));
  EXPECT_EQ(data.values, (std::vector<double>{-6.25, 3.5, 100}));
  EXPECT_EQ(data.classes, 3);
  EXPECT_EQ(integers(data.train.labels), (Integers{1, 0, 1}));
  EXPECT_EQ(integers(data.test.labels), (Integers{2, 1}));
  EXPECT_EQ(floats(data.train.inputs), (std::vector<float>{1, 2, 4, 5, 7, 8}));
  EXPECT_TRUE(data.class_names.empty());
}

// The share of the rows, drawn by seed; each client keeps a row to train with, and every row goes
// to one part.
TEST_F(Formats, CsvSplitsEachClientBySeed) {
  std::string table = "x,y,who\n";
  for (int i = 0; i < 100; ++i)
    table += std::to_string(i) + "," + std::to_string(i % 2) + "," + (i < 99 ? "a" : "b") + "\n";
  write("t.csv", table);
  const std::string options = "csv.label = y\ncsv.client = who\ncsv.test-fraction = 0.3\n";
  const Dataset data = read("csv", "t.csv", options + "seed = 1\n");
  EXPECT_EQ(data.train.size(), 70);
  EXPECT_EQ(data.owner.back(), 1);
  const torch::Tensor all = std::get<0>(torch::cat({data.train.inputs, data.test.inputs}).sort(0));
  EXPECT_TRUE(torch::equal(all.flatten(), torch::arange(100).to(torch::kFloat32)));
  EXPECT_TRUE(
      torch::equal(read("csv", "t.csv", options + "seed = 1\n").test.inputs, data.test.inputs));
  EXPECT_FALSE(
      torch::equal(read("csv", "t.csv", options + "seed = 2\n").test.inputs, data.test.inputs));
}

// A column that is constant among the training rows is centred only, although the sum of thirty
// times 0.1 is not three; names beyond 2^53 stay apart.
TEST_F(Formats, CsvCentresConstantColumnsAndKeepsLongNamesApart) {
  std::string table = "x,z,y,who\n", test = "x,z,y,who\n0.2,0,0,100000000000000001\n";
  for (int i = 0; i < 30; ++i) {
    table += "0.1," + std::to_string(i) + "," + std::to_string(i % 2) + "," +
             (i < 15 ? "100000000000000001" : "100000000000000002") + "\n";
  }
  write("t.csv", table);
  const std::string path = write("test.csv", test);
  const Dataset data =
      read("csv", "t.csv",
           "csv.label = y\ncsv.client = who\ncsv.test = " + path + "\ncsv.standardise = pooled\n");
  EXPECT_EQ(data.train.inputs.select(1, 0).abs().max().item<float>(), 0);
  EXPECT_NEAR(data.test.inputs[0][0].item<float>(), 0.1, 1e-6);
  EXPECT_EQ(*std::max_element(data.owner.begin(), data.owner.end()), 1);
}

// Numbers in a header that count the columns are names; a nameless column may be left out; and
// clients are who they are called, not the number that their name looks like.
TEST_F(Formats, CsvNamesAreTexts) {
  write("t.csv", "0,1\n5,0\n6,1\n7,0\n8,1\n");
  EXPECT_EQ(read("csv", "t.csv", "csv.label = 1\n").class_names,
            (std::vector<std::string>{"0", "1"}));
  write("t.csv", ",x,y\n0,5,0\n1,6,1\n2,7,0\n3,8,1\n");
  EXPECT_EQ(read("csv", "t.csv", "csv.label = y\ncsv.drop = 0\n").train.inputs.size(1), 1);
  std::string table = "x,y,who\n";
  for (const std::string who : {"1e3", "1000", "007", "7"})
    table += "1,0," + who + "\n2,1," + who + "\n";
  write("t.csv", table);
  const Dataset data =
      read("csv", "t.csv", "csv.label = y\ncsv.client = who\ncsv.test-fraction = 0.5\n");
  EXPECT_EQ(*std::max_element(data.owner.begin(), data.owner.end()), 3);
}

TEST_F(Formats, CsvRefusesWhatDoesNotFit) {
  const auto expect = [&](const std::string& table, const std::string& options,
                          const std::string& part) {
    const std::string path = write("t.csv", table);
    EXPECT_ERROR(read("csv", "t.csv", options + "csv.test-fraction = 0.5\n"), path);
    EXPECT_ERROR(read("csv", "t.csv", options + "csv.test-fraction = 0.5\n"), part);
  };
  const std::string label = "csv.label = y\n";
  expect("x,y\n1,0\n2\n", label, "t.csv, line 3: 1 cells were found (2 are expected");
  expect("x,y\n1,0\nbig,1\n", label, "t.csv, line 3: column 0 ('x') is 'big' (must be a number");
  expect("x,y\n1,0\n,1\n", label, "column 0 ('x') is empty");
  expect("x,y\n1,0\nnan,1\n", label, "is 'nan'");
  expect("x,y\n\"1,0\n", label, "line 2: a quote is opened here and never closed");
  expect("x,y\n\"1\"2,0\n", label, "stands behind a closing quote");
  expect("x,y\n1,0\n2,1\n", "csv.label = z\n", "there is no column 'z' for csv.label");
  expect("x,yes\n1,0\n2,1\n", "csv.label = yse\n", "did you mean 'yes'?");
  expect("x,y\n1,0\n2,1\n", label + "csv.drop = y\n", "is named by csv.drop and by another");
  expect("x,y\n1,0\n2,1\n", label + "csv.drop = x\n", "no column is left for the inputs");
  expect("y,y\n1,0\n2,1\n", label, "two columns are called 'y'");
  expect("x,y\n", label, "no rows were found below the header");
  expect("", label, "t.csv: is empty (must have a header line and a line a sample)");
  expect("\n \n", label + "csv.header = false\n", "t.csv: is empty (must have a line a sample)");
  expect("x,y\n?,1\n", label + "csv.missing = ?\n", "no rows were found");
  expect("x,y\n1,a\n2,b\n", label + "csv.regression = true\n", "holds more than numbers");
  expect("x,y\n1e300,0\n2,1\n", label, "does not fit float32");
  expect("x,y\n1,0\n", label, "leaves none to test with");
  expect("1,0\n2,1\n3,1\n", "csv.label = -1\n", "the first line holds numbers only");
  expect(",x,y\n0,1,0\n1,2,1\n", label, "column 0 has no name");
  EXPECT_ERROR(read("csv", "none.csv", label), "csv: none.csv was not found");
  EXPECT_ERROR(read("csv", "t.csv", label + "csv.standardise = client\n"), "csv.client is none");
}

TEST_F(Formats, LibsvmRowsAreDense) {
  const Dataset data = read(small_libsvm(folder_));
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{4, 4}));  // the test file's index 4 counts
  EXPECT_EQ(floats(data.train.inputs),
            (std::vector<float>{0.5, 0, 2, 0, 0, -1.5, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 1, 0, 1}));
  EXPECT_EQ(floats(data.test.inputs), (std::vector<float>{0, 0, 0, 7, 3, 0, 0, 0}));
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"-1", "1"}));
  const std::string test = "libsvm.test = rows.t\n";
  EXPECT_EQ(read("libsvm", "rows", test + "libsvm.features = 6\n").train.inputs.size(1), 6);
  EXPECT_ERROR(read("libsvm", "rows", test + "libsvm.features = 3\n"),
               "rows.t, line 1: index 4 was found, but libsvm.features is 3");
}

TEST_F(Formats, LibsvmLabelsAreNumbered) {
  for (const std::string labels : {"01", "12", "123"}) {
    std::string rows;
    for (const char c : labels) rows += std::string(1, c) + " 1:1\n";
    write("a", rows);
    write("a.t", rows);
    const Dataset data = read("libsvm", "a", "libsvm.test = a.t\n");
    EXPECT_EQ(data.classes, std::ssize(labels));
    for (int64_t i = 0; i < std::ssize(labels); ++i)
      EXPECT_EQ(data.train.labels[i].item<int64_t>(), i) << labels;
  }
  // With gaps, which may be a class that these rows lack: that is told.
  write("a", "2 1:1\n9 1:1\n4 1:1\n");
  const Dataset data = read("libsvm", "a", "libsvm.test = a\n");
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 2, 1}));
  ASSERT_EQ(data.notes.size(), 1u);
  EXPECT_NE(data.notes[0].find("labels 2, 4, 9 become classes 0 to 2"), std::string::npos);
  write("a", "0.5 1:1\n-2 1:1\n");
  const Dataset numbers = read("libsvm", "a", "libsvm.test = a\nlibsvm.regression = true\n");
  EXPECT_EQ(numbers.values, (std::vector<double>{-2, 0.5}));
  EXPECT_EQ(integers(numbers.train.labels), (Integers{1, 0}));
}

TEST_F(Formats, LibsvmRefusesWhatDoesNotFit) {
  const auto expect = [&](const std::string& rows, const std::string& part) {
    const std::string path = write("bad", rows);
    EXPECT_ERROR(read("libsvm", "bad", "libsvm.test = bad\n"), path);
    EXPECT_ERROR(read("libsvm", "bad", "libsvm.test = bad\n"), part);
  };
  expect("1 1:1\n0 0:1\n", "bad, line 2: index 0 is the first (they start at 1)");
  expect("1 2:1 2:3\n", "index 2 follows 2 (they must ascend)");
  expect("1 3:1 2:3\n", "index 2 follows 3");
  expect("yes 1:1\n", "the label is 'yes'");
  expect("1.5 1:1\n", "the label is '1.5'");
  expect("1 1\n", "'1' was found (expected index:value");
  expect("1 1:x\n", "'1:x' was found");
  expect("1 1:nan\n", "'1:nan' was found");
  expect("", "no rows were found");
  expect("0 1:1\n1 2000000000:1\n", "too sparse to be stored densely");
  write("ones", "1 1:1\n2 1:1\n");
  write("zeros", "0 1:1\n1 1:1\n");
  EXPECT_ERROR(read("libsvm", "ones", "libsvm.test = zeros\n"), "zeros: holds label 0, which");
}

// Rows as the rule says, from the generator's own formulas in double.
TEST_F(Formats, HeartIsWhatFlambyDefines) {
  const Dataset data = read(small_heart(folder_));
  ASSERT_EQ(data.train.size(), 40);  // 4 hospitals of 12 rows, 2 of them test rows
  ASSERT_EQ(data.test.size(), 8);
  ASSERT_EQ(data.train.inputs.size(1), 13);
  std::vector<double> features[4][12];
  for (int h = 0; h < 4; ++h) {
    for (int i = 0; i < 12; ++i) {
      const int pain = 1 + (i + h) % 4, ecg = (i + h) % 3;
      features[h][i] = {40.0 + i,
                        double(i % 2),
                        120.0 + 3 * i,
                        200.0 + 7 * i,
                        double((i + 1) % 2),
                        150.0 - i,
                        double(i % 2),
                        0.1 * i,
                        double(pain == 2),
                        double(pain == 3),
                        double(pain == 4),
                        double(ecg == 1),
                        double(ecg == 2)};
    }
  }
  int64_t train = 0, test = 0;
  for (int h = 0; h < 4; ++h) {
    for (int i = 0; i < 12; ++i) {
      const bool is_test = i == 1 || i == 4;
      const Samples& samples = is_test ? data.test : data.train;
      int64_t& at = is_test ? test : train;
      for (size_t c = 0; c < 13; ++c) {
        double mean = 0, squares = 0;
        for (int j = 0; j < 12; ++j) mean += j == 1 || j == 4 ? 0 : features[h][j][c] / 10;
        for (int j = 0; j < 12; ++j)
          squares += j == 1 || j == 4 ? 0 : std::pow(features[h][j][c] - mean, 2);
        EXPECT_NEAR(samples.inputs[at][static_cast<int64_t>(c)].item<double>(),
                    (features[h][i][c] - mean) / std::sqrt(squares / 9), 1e-5)
            << h << " " << i << " " << c;
      }
      EXPECT_EQ(samples.labels[at].item<int64_t>(), (i + h) % 5 != 0);
      if (!is_test) {
        EXPECT_EQ(data.owner[static_cast<size_t>(at)], h);
      }
      ++at;
    }
  }
  // The test rows with all training rows' statistics: column 0 is 40 + i for everybody.
  const Dataset pooled = read("heart", "", "heart.standardise = pooled\n");
  EXPECT_TRUE(torch::equal(pooled.train.inputs, data.train.inputs));
  double mean = 0, squares = 0;
  for (int i = 0; i < 12; ++i) mean += i == 1 || i == 4 ? 0 : (40.0 + i) / 10;
  for (int i = 0; i < 12; ++i) squares += i == 1 || i == 4 ? 0 : 4 * std::pow(40 + i - mean, 2);
  EXPECT_NEAR(pooled.test.inputs[1][0].item<double>(), (44 - mean) / std::sqrt(squares / 39), 1e-5);
  const Dataset all = read("heart", "", "heart.standardise-train = pooled\n");
  EXPECT_NEAR(all.train.inputs.to(torch::kFloat64).square().sum(0)[0].item<double>(), 39, 1e-3);
}

TEST_F(Formats, HeartRefusesWhatDoesNotFit) {
  const SmallSet set = small_heart(folder_);
  const auto expect = [&](const std::string& lists, const std::string& part) {
    write("heart/test_rows.json", lists);
    EXPECT_ERROR(read(set), "test_rows.json: ");
    EXPECT_ERROR(read(set), part);
  };
  const std::string rest = ", \"hungarian\": [1], \"switzerland\": [1], \"va\": [1]}";
  expect("{", "is not JSON");
  expect("{\"va\": [1]}", "has no list 'cleveland'");
  expect("{\"cleveland\": [12]" + rest, "cleveland's list holds '12' (must be 0 to 11");
  expect("{\"cleveland\": [1, 1]" + rest, "a row of cleveland is listed twice");
  expect("{\"cleveland\": [\"x\"]" + rest, "cleveland's list holds");
  expect("{\"cleveland\": []" + rest, "0 of cleveland's 12 rows are test rows");
  write("heart/processed.va.data", "1,2,3\n");
  small_heart(folder_);
  write("heart/processed.va.data", "1,2,3\n");
  EXPECT_ERROR(read(set), "processed.va.data, line 1: 3 cells were found (14 are expected");
}

TEST_F(Formats, ImagesAreReadChannelsFirst) {
  const Dataset data = read(small_png(folder_));
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{3, 3, 2, 3}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 0, 1}));
  EXPECT_EQ(integers(data.test.labels), (Integers{1}));
  for (int i = 0; i < 3; ++i) {
    for (int c = 0; c < 3; ++c) {
      for (int p = 0; p < 6; ++p)
        EXPECT_EQ(data.train.inputs[i][c].flatten()[p].item<int64_t>(), byte(i, 3 * p + c));
    }
  }
  const std::string big = write("png/train/cat/3.png", png(4, 2, 3, pixels_of(9, 24)));
  EXPECT_ERROR(read("images", "png"), big + ": is 2 x 4, while ");
  EXPECT_ERROR(read("images", "png"), "images.size = 2x3 would resize them");
  EXPECT_EQ(read("images", "png", "images.size = 2x3\n").train.size(), 4);
}

// An image of one colour survives JPEG's rounding by at most 2.
TEST_F(Formats, JpegIsRead) {
  const Dataset data = read(small_jpeg(folder_));
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{2, 1, 8, 8}));
  EXPECT_EQ(integers(data.train.labels), (Integers{0, 1}));
  EXPECT_NEAR(data.train.inputs[0].to(torch::kFloat32).mean().item<double>(), 'A', 2);
  EXPECT_NEAR(data.train.inputs[1].to(torch::kFloat32).mean().item<double>(), 'z', 2);
}

TEST_F(Formats, ImagesRefuseWhatIsDamaged) {
  const std::string good = png(3, 2, 3, pixels_of(1, 18)), jpg = jpeg(16, 16, pixels_of(3, 768));
  const auto expect = [&](const std::string& bytes, const std::string& part) {
    const std::string path = write("one", bytes);
    EXPECT_ERROR(read_image(path, 3), path);
    EXPECT_ERROR(read_image(path, 3), part);
  };
  expect("", "is neither a PNG nor a JPEG nor a BMP file (it is empty)");
  expect("GIF89a", "is neither a PNG nor a JPEG nor a BMP file");
  expect(good.substr(0, 50), "is a damaged PNG file");
  std::string flipped = good;
  flipped[45] = static_cast<char>(flipped[45] ^ 1);  // within the pixels
  expect(flipped, "is a damaged PNG file");
  expect(jpg.substr(0, jpg.size() / 2), "is a damaged JPEG file");
  // A header that claims 30,000 x 30,000 pixels.
  std::string huge = good;
  huge.replace(16, 8, big_endian(30000) + big_endian(30000));
  huge.replace(29, 4, big_endian(crc_of(huge.substr(12, 17))));
  expect(huge, "more than its");
  write("classes/a/x.txt", "no image");
  EXPECT_ERROR(read("images", "classes"), "hold no .png, .jpg");
  write("classes/a/x.png", good);
  write("classes/a/y.png", good);
  EXPECT_ERROR(read("images", "classes", "images.size = 3\nimages.test-fraction = 0.5\n"),
               "images.size is '3'");
}

// Halving a side averages with the weights 1, 3, 3, 1 of a triangle of radius 2; an image of one
// colour stays as it is at any size.
TEST_F(Formats, ResizeAveragesWithATriangle) {
  Image line{1, 8, 1, {0, 0, 0, 0, 80, 80, 80, 80}};
  // The second of four new pixels, centre 4 of the old ones at 0.5, 1.5, ...: 1, 2, ..., radius 2.
  const Image half = resize(line, 1, 4);
  EXPECT_EQ(half.bytes, (std::vector<uint8_t>{0, 10, 70, 80}));
  const Image flat{3, 5, 3, std::vector<uint8_t>(45, 77)};
  EXPECT_EQ(resize(flat, 7, 2).bytes, std::vector<uint8_t>(42, 77));
}

TEST_F(Formats, FedScaleFollowsItsMapping) {
  const SmallSet set = small_fedscale(folder_);
  const Dataset data = read(set);
  EXPECT_EQ(data.owner, (Integers{0, 1, 0}));  // 9, 4, 9
  EXPECT_EQ(integers(data.train.labels), (Integers{1, 0, 0}));
  EXPECT_EQ(data.classes, 3);
  EXPECT_EQ(data.train.inputs[0][2][1][1].item<int64_t>(), byte(1, 3 * 3 + 2));
  EXPECT_EQ(data.train.inputs[1][0][0][0].item<int64_t>(), 0x40);  // grey, resized
  const std::string path = write(set.files[0], "client_id,sample_path,label_id\n9,a.png,-1\n");
  EXPECT_ERROR(read(set), path + ", line 2: the label id is '-1'");
  write(set.files[0], "client_id,sample_path,label_id\n9,none.png,1\n");
  EXPECT_ERROR(read(set), path + ", line 2: the sample ");
  write(set.files[0], "client_id,sample_path,label_id\n9,a.png\n");
  EXPECT_ERROR(read(set), path + ", line 2: 2 cells were found (3 are expected");
  write(set.files[0], "client_id,sample_path,label_id\n");
  EXPECT_ERROR(read(set), path + ": names no samples");
}

TEST_F(Formats, NpzHoldsArrays) {
  for (const bool compress : {false, true}) {
    write("arrays.npz", zip(small_arrays(), compress));
    const Dataset data = read("npz", "arrays.npz");
    EXPECT_EQ(data.train.inputs.sizes(), (Integers{4, 2, 3}));
    EXPECT_EQ(data.train.inputs[2][1][1].item<int64_t>(), byte(0, 16));
    EXPECT_EQ(integers(data.train.labels), (Integers{0, 2, 1, 0}));
    EXPECT_EQ(data.owner, (Integers{2, 0, 2, 1}));  // 7, -1, 7, 1
    EXPECT_EQ(integers(data.test.labels), (Integers{2}));
    EXPECT_EQ(data.scale, 1.0 / 255);
    EXPECT_EQ(read("npz", "arrays.npz", "npz.unit = false\n").scale, 1);
  }
}

// Every type and order of bytes, and columns first.
TEST_F(Formats, NpyTypes) {
  const auto values = [&](const std::string& type, const std::string& bytes) {
    write("types/x.npy", npy(type, "(2, 1)", bytes));
    write("types/x_test.npy", npy(type, "(2, 1)", bytes));
    write("types/y.npy", npy("|b1", "(2,)", std::string("\0\1", 2)));
    write("types/y_test.npy", npy("<f8", "(2,)", raw<double>({1, 0})));
    return floats(read("npz", "types", "npz.unit = false\n").train.inputs);
  };
  using Floats = std::vector<float>;
  using std::string;
  EXPECT_EQ(values("|u1", "\x01\xff"), (Floats{1, 255}));
  EXPECT_EQ(values("|i1", "\x01\xff"), (Floats{1, -1}));
  EXPECT_EQ(values("<i2", string("\x01\x02\xff\xff", 4)), (Floats{513, -1}));
  EXPECT_EQ(values(">i2", string("\x01\x02\xff\xff", 4)), (Floats{258, -1}));
  EXPECT_EQ(values(">u2", string("\x01\x02\xff\xff", 4)), (Floats{258, 65535}));
  EXPECT_EQ(values("<u4", raw<uint32_t>({7, 4000000000u})), (Floats{7, 4e9f}));
  EXPECT_EQ(values(">i4", big_endian(9) + big_endian(0xfffffffe)), (Floats{9, -2}));
  EXPECT_EQ(values("<i8", raw<int64_t>({-5, 6})), (Floats{-5, 6}));
  EXPECT_EQ(values("<f2", string("\0\x3c\0\xc0", 4)), (Floats{1, -2}));
  EXPECT_EQ(values("<f4", raw<float>({0.1f, -2})), (Floats{0.1f, -2}));
  EXPECT_EQ(values(">f4", string("\xc0\x20\0\0\0\0\0\0", 8)), (Floats{-2.5f, 0}));
  EXPECT_EQ(values("<f8", raw<double>({1.5, 2})), (Floats{1.5f, 2}));

  write("types/x.npy", npy("<f4", "(2, 3)", raw<float>({1, 4, 2, 5, 3, 6}), true));
  write("types/x_test.npy", npy("<f4", "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6})));
  const Dataset data = read("npz", "types");
  EXPECT_TRUE(torch::equal(data.train.inputs, data.test.inputs));
}

TEST_F(Formats, NpyPredictsNumbersAndSequences) {
  const Dataset data = read(small_npy(folder_));
  EXPECT_EQ(data.values, (std::vector<double>{-1, 0.5, 1, 2, 3, 7, 8, 9, 10}));
  EXPECT_EQ(data.train.size(), 8);
  // Column by column: row i is (i / 4, (10 + i) / 4); the label's value tells which row it is.
  const std::vector<double> y = {0.5, -1, 0.5, 3, 2, 1, 7, 8, 9, 10};
  for (int64_t i = 0; i < data.test.size(); ++i) {
    const double x = data.test.inputs[i][0].item<double>();
    EXPECT_EQ(data.test.inputs[i][1].item<double>(), x + 2.5);
    EXPECT_EQ(data.values[static_cast<size_t>(data.test.labels[i].item<int64_t>())],
              y[static_cast<size_t>(4 * x)]);
  }
  write("s/x.npy", npy("|u1", "(2, 3)", std::string("\0\1\2\3\4\5", 6)));
  write("s/x_test.npy", npy("|u1", "(1, 3)", std::string("\0\1\2", 3)));
  write("s/y.npy", npy("<i4", "(2, 3)", raw<int32_t>({1, 2, -1, 0, -1, -1})));
  write("s/y_test.npy", npy("<i4", "(1, 3)", raw<int32_t>({3, 2, 1})));
  const Dataset sequences = read("npz", "s");
  EXPECT_EQ(sequences.train.positions(), 3);
  EXPECT_EQ(integers(sequences.train.labels), (Integers{1, 2, -1, 0, -1, -1}));
  EXPECT_EQ(sequences.classes, 4);
}

TEST_F(Formats, NumpyRefusesWhatDoesNotFit) {
  const auto expect = [&](const std::string& x, const std::string& part) {
    const std::string path = write("bad/x.npy", x);
    write("bad/y.npy", npy("|u1", "(2,)", std::string("\0\1", 2)));
    EXPECT_ERROR(read("npz", "bad", "npz.test-fraction = 0.5\n"),
                 (folder_.path() / "bad").string());
    EXPECT_ERROR(read("npz", "bad", "npz.test-fraction = 0.5\n"), part);
  };
  const std::string six = raw<float>({1, 2, 3, 4, 5, 6});
  expect("no array", "is not an array of NumPy's");
  expect(npy("|O", "(2,)", "abc"), "is an array of Python objects");
  expect(npy("<U3", "(2,)", std::string(24, 'x')), "is of type '<U3'");
  expect(npy("<c8", "(2,)", std::string(16, 'x')), "is of type '<c8'");
  expect(npy("<f4", "(2, 4)", six), "32 bytes were expected behind its header (2 x 4 of f4), 24");
  expect(npy("<f4", "(2, 2)", six), "more were found");
  expect(npy("<f4", "(99999999999, 99999999999)", six), "claims");
  expect(npy("<f4", "(2, 400000000000)", six), "were expected behind its header");
  expect(npy("<f4", "2", six), "its header is");
  expect(npy("<f4", "(3, 2)", six), "y is 2, while x is 3 x 2");
  expect(npy("<f4", "(2, 0)", ""), "x is 2 x 0");
  expect(npy("<f4", "(2, 1)", raw<float>({1, NAN})), "holds NaN, infinity");
  expect(npy("|b1", "(2, 1)", "\1\2"), "truth values other than 0 and 1");
  // A label that no sample has, whether it trains or tests.
  write("gap/x.npy", npy("|u1", "(4, 1)", "abcd"));
  write("gap/y.npy", npy("|u1", "(4,)", std::string("\0\1\5\1", 4)));
  EXPECT_ERROR(read("npz", "gap", "npz.test-fraction = 0.5\n"),
               "label 2 does not occur, while 5 does");
  write("gap/y.npy", npy("|u1", "(4,)", std::string("\0\1\2\1", 4)));
  EXPECT_EQ(read("npz", "gap", "npz.test-fraction = 0.5\n").classes, 3);
  write("bad.npz", "no archive");
  EXPECT_ERROR(read("npz", "bad.npz"), "bad.npz: is not a whole .npz archive");
  std::string archive = zip(small_arrays(), true);
  write("bad.npz", archive.substr(0, archive.size() - 30));
  EXPECT_ERROR(read("npz", "bad.npz"), "bad.npz: is not a whole .npz archive");
  archive[60] = static_cast<char>(archive[60] ^ 8);  // within x's deflated bytes
  write("bad.npz", archive);
  EXPECT_ERROR(read("npz", "bad.npz"), "bad.npz, x: ");
  write("bad.npz", zip({{"y.npy", npy("|u1", "(1,)", "x")}}, false));
  EXPECT_ERROR(read("npz", "bad.npz"), "has no array x");
}

// Blobs lie at the stated distance, with variance 1 around their centres.
TEST_F(Formats, GaussianBlobsHaveTheStatedMoments) {
  const Dataset data = read("gaussian", "",
                            "gaussian.classes = 3\ngaussian.features = 5\ngaussian.samples = "
                            "30000\ngaussian.separation = 7\ngaussian.owners = 4\n");
  EXPECT_EQ(data.owner[5], 1);
  for (int64_t c = 0; c < 3; ++c) {
    const torch::Tensor x =
        data.train.inputs.index_select(0, data.train.labels.eq(c).nonzero().squeeze(1));
    EXPECT_NEAR(static_cast<double>(x.size(0)), 10000, 4.5 * std::sqrt(30000 * 2.0 / 9));
    EXPECT_NEAR(x.mean(0).norm().item<double>(), 7, 4.5 / 100);
    EXPECT_NEAR(x.var(0).mean().item<double>(), 1, 4.5 * std::sqrt(2.0 / 50000));
  }
}

// Without noise each cluster's users fulfil y = <x, theta> exactly, with one theta of the stated
// norm whose coordinates are 0 or one number.
TEST_F(Formats, IfcaMixtureHasAModelACluster) {
  const Dataset data = read("ifca-mixture", "",
                            "ifca-mixture.clusters = 2\nifca-mixture.users = 6\n"
                            "ifca-mixture.samples = 40\nifca-mixture.features = 8\n"
                            "ifca-mixture.radius = 3\nifca-mixture.noise = 0\n");
  std::vector<double> y;
  for (const int64_t label : integers(data.train.labels))
    y.push_back(data.values[static_cast<size_t>(label)]);
  const torch::Tensor targets = torch::tensor(y, torch::kFloat64).reshape({6, 40, 1});
  const torch::Tensor x = data.train.inputs.to(torch::kFloat64).reshape({6, 40, 8});
  std::vector<torch::Tensor> theta;
  for (int64_t user = 0; user < 6; ++user) {  // the normal equations
    const torch::Tensor a = x[user];
    theta.push_back(torch::inverse(a.t().mm(a)).mm(a.t().mm(targets[user])).flatten());
    EXPECT_LT((a.mv(theta.back()) - targets[user].flatten()).abs().max().item<double>(), 1e-9);
    EXPECT_NEAR(theta.back().norm().item<double>(), 3, 1e-9);
    const torch::Tensor ones = theta.back() > theta.back().max() / 2;
    EXPECT_NEAR(
        (theta.back() - ones.to(torch::kFloat64) * theta.back().max()).abs().max().item<double>(),
        0, 1e-9);
    EXPECT_TRUE(torch::allclose(theta.back(), theta[static_cast<size_t>(user % 2)]));
  }
  EXPECT_FALSE(torch::allclose(theta[0], theta[1]));
  EXPECT_EQ(data.owner[40], 1);
}

// What each source says of itself: enough for --list and --explain.
TEST(DataSources, ExplainThemselves) {
  for (const auto& [name, info] : catalog()["dataset"]) {
    EXPECT_FALSE(info.summary.empty()) << name;
    EXPECT_FALSE(info.rule.empty()) << name;
    for (const Option& option : info.options) EXPECT_FALSE(option.meaning.empty()) << name;
  }
}

// The real files, where FL_SIM_DATA has them.
Dataset real(const std::string& name, const std::string& argument, const std::string& options) {
  const Job job =
      any_job("dataset = " + name + (argument.empty() ? "" : ":" + argument) + "\n" + options);
  Dataset data = make<DatasetSource>(name, {job, argument})->read();
  check_dataset(data, name);
  return data;
}

// FLamby's counts of rows a hospital; by definition each hospital's training rows have mean 0 and
// standard deviation 1 (n - 1) in every feature.
TEST(RealData, HeartIsWhatFlambyHas) {
  Dataset data;
  try {
    data = real("heart", "", "");
  } catch (const Error& error) {
    if (std::string(error.what()).find("was not found") == std::string::npos) throw;
    GTEST_SKIP() << "heart is not here: set FL_SIM_DATA to the folder that holds heart/";
  }
  EXPECT_EQ(data.train.size(), 199 + 172 + 30 + 85);
  EXPECT_EQ(data.test.size(), 104 + 89 + 16 + 45);
  int64_t begin = 0;
  for (const int64_t rows : {199, 172, 30, 85}) {
    const torch::Tensor x = data.train.inputs.slice(0, begin, begin + rows).to(torch::kFloat64);
    begin += rows;
    EXPECT_LT(x.mean(0).abs().max().item<double>(), 1e-6);
    // A feature without a second value at a hospital is 0 there.
    const torch::Tensor deviation = x.std(0);
    const torch::Tensor off = torch::min((deviation - 1).abs(), deviation);
    EXPECT_LT(off.max().item<double>(), 1e-6);
  }
  EXPECT_EQ(data.owner.front(), 0);
  EXPECT_EQ(data.owner.back(), 3);
}

// LIBSVM's page: 32,561 + 16,281 rows, 123 features; UCI: 7,841 and 3,846 earn more than 50,000.
TEST(RealData, AdultIsWhatWasPublished) {
  Dataset data;
  try {
    data = real("libsvm", "adult/a9a", "libsvm.test = adult/a9a.t\n");
  } catch (const Error& error) {
    if (std::string(error.what()).find("was not found") == std::string::npos) throw;
    GTEST_SKIP() << "a9a is not here: set FL_SIM_DATA to the folder that holds adult/";
  }
  EXPECT_EQ(data.train.inputs.sizes(), (Integers{32561, 123}));
  EXPECT_EQ(data.test.size(), 16281);
  EXPECT_EQ(data.train.labels.sum().item<int64_t>(), 7841);
  EXPECT_EQ(data.test.labels.sum().item<int64_t>(), 3846);
  // The first row of the file: 3, 11, 14, 19, ... are 1.
  EXPECT_EQ(data.train.inputs[0][2].item<float>(), 1);
  EXPECT_EQ(data.train.inputs[0][3].item<float>(), 0);
  EXPECT_EQ(data.train.inputs[0].sum().item<float>(), 14);
}

}  // namespace
}  // namespace fl_sim
