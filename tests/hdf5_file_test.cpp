#include "base/hdf5_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "any_job.h"
#include "base/check.h"
#include "base/rng.h"

namespace fl_sim {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string fresh_path(const std::string& name) {
  const std::string path = testing::TempDir() + "fl_sim_hdf5_" + name;
  std::filesystem::remove_all(path);
  return path;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string valid_file(const std::string& name) {
  const std::string path = fresh_path(name);
  Hdf5File file = Hdf5File::create(path);
  file.write("/a/values", std::vector<double>{1, 2, 3});
  file.write_attribute("/a", "note", std::string("text"));
  file.close();
  return path;
}

TEST(Hdf5File, GivesBackWhatWasWritten) {
  const std::string path = fresh_path("round_trip.h5");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("/deep/down/doubles", std::vector<double>{0.1, -1e300, nan});
    file.write("/deep/floats", std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
    file.write("/integers", std::vector<int64_t>{std::numeric_limits<int64_t>::min(), 7});
    file.write("/scalar", std::vector<float>{2.5f}, {});
    file.write("/strings", std::vector<std::string>{"eins", "", "größer"});
    file.write("/text", "[local]\nlr = 0.1  # µ\n");
    file.write_attribute("/deep", "text", "ü");
    file.write_attribute("/deep", "empty", "");
    file.write_attribute("/made/here", "number", 0.5);
    file.write_attribute("/made/here", "count", int64_t{3});
    file.close();
  }
  const Hdf5File file = Hdf5File::open(path);
  const std::vector<double> doubles = file.read_doubles("/deep/down/doubles");
  ASSERT_EQ(doubles.size(), 3u);
  EXPECT_EQ(doubles[0], 0.1);
  EXPECT_EQ(doubles[1], -1e300);
  EXPECT_TRUE(std::isnan(doubles[2]));
  EXPECT_THAT(file.read_floats("/deep/floats"), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(file.shape("/deep/floats"), ElementsAre(2, 3));
  EXPECT_THAT(file.read_integers("/integers"), ElementsAre(std::numeric_limits<int64_t>::min(), 7));
  EXPECT_THAT(file.shape("/scalar"), ElementsAre());
  EXPECT_THAT(file.read_floats("/scalar"), ElementsAre(2.5f));
  EXPECT_THAT(file.shape("/strings"), ElementsAre(3));
  EXPECT_EQ(file.read_text("/text"), "[local]\nlr = 0.1  # µ\n");
  EXPECT_EQ(file.read_text_attribute("/deep", "text"), "ü");
  EXPECT_EQ(file.read_text_attribute("/deep", "empty"), "");
  EXPECT_THAT(file.names("/"),
              ElementsAre("deep", "integers", "made", "scalar", "strings", "text"));
  EXPECT_TRUE(file.has("/made/here"));
  EXPECT_FALSE(file.has("/made/there/nowhere"));
}

TEST(Hdf5File, EmptyDatasetsKeepTheirShape) {
  const std::string path = fresh_path("empty.h5");
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("/column", std::vector<double>{});
    file.write("/matrix", std::vector<int64_t>{}, {0, 10});
    file.write("/strings", std::vector<std::string>{});
  }
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_THAT(file.read_doubles("/column"), ElementsAre());
  EXPECT_THAT(file.shape("/matrix"), ElementsAre(0, 10));
  EXPECT_THAT(file.shape("/strings"), ElementsAre(0));
}

TEST(Hdf5File, NumbersAreConverted) {
  const std::string path = fresh_path("convert.h5");
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("/integers", std::vector<int64_t>{1, 2});
    file.write("/doubles", std::vector<double>{0.5});
  }
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_THAT(file.read_doubles("/integers"), ElementsAre(1, 2));
  EXPECT_THAT(file.read_floats("/doubles"), ElementsAre(0.5f));
}

TEST(Hdf5File, AnAttributeIsReplaced) {
  const std::string path = fresh_path("attribute.h5");
  {
    Hdf5File file = Hdf5File::create(path);
    file.write_attribute("/", "note", "first");
    file.write_attribute("/", "note", "second");
  }
  EXPECT_EQ(Hdf5File::open(path).read_text_attribute("/", "note"), "second");
}

TEST(Hdf5File, ErrorsNameTheFileAndWhatIsInIt) {
  const std::string path = valid_file("errors.h5");
  const Hdf5File file = Hdf5File::open(path);
  const auto names = [&](const std::string& inside) {
    return AllOf(HasSubstr(path), HasSubstr(inside));
  };
  EXPECT_THAT(error_of([&] { file.read_doubles("/a/missing"); }), names("/a/missing"));
  EXPECT_THAT(error_of([&] { file.read_doubles("/a"); }), names("/a"));
  EXPECT_THAT(error_of([&] { file.read_integers("/a/values"); }),
              names("/a/values does not hold integers"));
  EXPECT_THAT(error_of([&] { file.read_text("/a/values"); }), names("/a/values is not one string"));
  EXPECT_THAT(error_of([&] { file.read_text_attribute("/a", "other"); }),
              names("attribute other of /a"));
  EXPECT_THAT(error_of([&] { file.names("/a/values"); }), names("/a/values"));
  EXPECT_THAT(error_of([&] { file.shape("/b"); }), names("/b"));
}

TEST(Hdf5File, WritingRefusesWhatCannotBe) {
  const std::string path = fresh_path("refuse.h5");
  Hdf5File file = Hdf5File::create(path);
  file.write("/a", std::vector<double>{1});
  EXPECT_THAT(error_of([&] { file.write("/a", std::vector<double>{1}); }), HasSubstr("/a"));
  EXPECT_THAT(error_of([&] { file.write("/a/b", std::vector<double>{1}); }), HasSubstr("/a/b"));
  EXPECT_THAT(error_of([&] {
                file.write("/c", std::vector<double>{1, 2, 3}, {2, 2});
              }),
              HasSubstr("3 values do not fill its shape of 4"));
  EXPECT_THAT(error_of([&] {
                file.write("/c", std::vector<double>{1}, {-1, -1});
              }),
              HasSubstr("/c"));
  EXPECT_THAT(error_of([] { Hdf5File::create("/nowhere/at/all.h5"); }),
              AllOf(HasSubstr("/nowhere/at/all.h5"), HasSubstr("No such file")));
  Hdf5File reader = Hdf5File::open(valid_file("read_only.h5"));
  EXPECT_THAT(error_of([&] { reader.write("/b", std::vector<double>{1}); }), HasSubstr("/b"));
}

TEST(Hdf5File, AMissingFileOrADirectoryIsAnError) {
  const std::string path = fresh_path("missing.h5");
  EXPECT_THAT(error_of([&] { Hdf5File::open(path); }),
              AllOf(HasSubstr(path), HasSubstr("No such file")));
  EXPECT_THAT(error_of([] { Hdf5File::open(testing::TempDir()); }), HasSubstr("is a directory"));
}

TEST(Hdf5File, WhatIsNoHdf5FileIsAnError) {
  const std::string path = fresh_path("garbage.h5");
  for (const std::string& bytes : {std::string(), std::string("x"), std::string(5000, '\0'),
                                   std::string("[local]\nlr=1\n"), std::string("\211HDF\r\n\032\n"),
                                   message("\211HDF\r\n\032\n", std::string(4000, '\377'))}) {
    put_bytes(path, bytes);
    EXPECT_THAT(error_of([&] { Hdf5File::open(path); }), HasSubstr(path))
        << bytes.size() << " bytes";
  }
}

TEST(Hdf5File, ATruncatedFileIsAnErrorWhereverItEnds) {
  const std::string whole = bytes_of(valid_file("whole.h5"));
  const std::string path = fresh_path("truncated.h5");
  for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 50) {
    put_bytes(path, whole.substr(0, length));
    EXPECT_THAT(error_of([&] { Hdf5File::open(path); }), HasSubstr(path)) << length << " bytes";
  }
}

TEST(Hdf5File, ADatasetThatClaimsMoreThanTheFileHoldsIsAnError) {
  const std::string path = fresh_path("claims.h5");
  const int64_t size = 12345, claimed = int64_t{1} << 50;
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("/zeros", std::vector<int64_t>(static_cast<size_t>(size)));
  }
  std::string bytes = bytes_of(path);
  const std::string pattern(reinterpret_cast<const char*>(&size), sizeof size);
  size_t patched = 0;
  for (size_t at = bytes.find(pattern); at != std::string::npos;
       at = bytes.find(pattern, at + 1), ++patched) {
    std::memcpy(bytes.data() + at, &claimed, sizeof claimed);
  }
  ASSERT_GT(patched, 0u);
  put_bytes(path, bytes);
  EXPECT_THAT(error_of([&] { Hdf5File::open(path).read_integers("/zeros"); }), HasSubstr(path));
}

// HDF5 1.10 crashes over some of these, or runs in circles, which ends a program that asked for it
// with the file's name.
TEST(Hdf5File, DamagedBytesEndInAnErrorOrACrashThatIsTold) {
  const std::string path = fresh_path("damaged.h5"), said = fresh_path("said.txt");
  const std::string whole = bytes_of(valid_file("undamaged.h5"));
  constexpr int kUnnamed = 2;
  Rng rng(1, "damage");
  for (int trial = 0; trial < 200; ++trial) {
    std::string bytes = whole;
    for (int edit = 0; edit < 8; ++edit)
      bytes[static_cast<size_t>(rng.below(std::ssize(bytes)))] = static_cast<char>(rng.below(256));
    put_bytes(path, bytes);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      if (std::freopen(said.c_str(), "w", stderr) == nullptr) _exit(kUnnamed);
      tell_of_hdf5_crashes();
      try {
        const Hdf5File file = Hdf5File::open(path);
        for (const std::string& name : file.names("/a")) file.read_doubles("/a/" + name);
        file.read_text_attribute("/a", "note");
      } catch (const Error& error) {
        _exit(std::strstr(error.what(), path.c_str()) != nullptr ? 0 : kUnnamed);
      }
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "trial " << trial << ": signal " << WTERMSIG(status);
    ASSERT_NE(WEXITSTATUS(status), kUnnamed) << "trial " << trial;
    if (WEXITSTATUS(status) != 0) {
      EXPECT_THAT(bytes_of(said), HasSubstr(path + ": is damaged (the HDF5 library "));
    }
  }
}

// By HDF5's own means, as others write them: several numbers, a text, and a length without an end.
TEST(Hdf5File, WhatIsNotOneNumberOrOneTextIsAnError) {
  const std::string path = valid_file("several.h5");
  {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    const hsize_t four = 4;
    const hid_t numbers = H5Screate_simple(1, &four, nullptr), scalar = H5Screate(H5S_SCALAR);
    const hid_t several = H5Acreate_by_name(file, "/a", "several", H5T_IEEE_F64LE, numbers,
                                            H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const double values[] = {1, 2, 3, 4};
    H5Awrite(several, H5T_NATIVE_DOUBLE, values);
    const hid_t longest = H5Tcopy(H5T_C_S1);
    H5Tset_size(longest, size_t{1} << 31);
    const hid_t text =
        H5Dcreate2(file, "/text", longest, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t sizes[] = {hsize_t{1} << 40, 3}, chunk[] = {64, 3};
    const hid_t space = H5Screate_simple(2, sizes, nullptr), list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 2, chunk);
    const hid_t table =
        H5Dcreate2(file, "/table", H5T_IEEE_F64LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    EXPECT_GE(std::min({several, text, table}), 0);
    H5Aclose(several);
    H5Dclose(text);
    H5Dclose(table);
    H5Fclose(file);
  }
  const Hdf5File file = Hdf5File::open(path);
  const auto names = [&](const std::string& inside) {
    return AllOf(HasSubstr(path), HasSubstr(inside));
  };
  EXPECT_THAT(error_of([&] { file.read_number_attribute("/a", "several"); }),
              names("attribute several of /a is not one number"));
  EXPECT_THAT(error_of([&] { file.read_number_attribute("/a", "note"); }),
              names("attribute note of /a is not one number"));
  EXPECT_THAT(error_of([&] { file.read_text("/text"); }), names("/text"));
  EXPECT_THAT(error_of([&] { file.shape("/table"); }), names("/table"));
}

TEST(Hdf5File, ClosingTwiceAndMovingIsSafe) {
  const std::string path = fresh_path("move.h5");
  Hdf5File first = Hdf5File::create(path);
  Hdf5File second = std::move(first);
  second.write("/a", std::vector<double>{1});
  second.close();
  second.close();
  EXPECT_TRUE(Hdf5File::open(path).has("/a"));
}

}  // namespace
}  // namespace fl_sim
