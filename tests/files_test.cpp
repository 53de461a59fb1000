// Files that are there as a whole or not at all.
#include "base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>
#include <vector>

#include "any_job.h"
#include "base/text.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// Proves that a path is spelled out as a shell does it, and that what is no name stays.
TEST(Paths, AreExpanded) {
  setenv("FL_SIM_TEST_PLACE", "/scratch/me", 1);
  setenv("FL_SIM_TEST_EMPTY", "", 1);
  const char* home = std::getenv("HOME");
  const std::string before = home != nullptr ? home : "";
  setenv("HOME", "/home/me", 1);
  for (const auto& [path, expected] : std::vector<std::pair<std::string, std::string>>{
           {"~", "/home/me"},
           {"~/x.h5", "/home/me/x.h5"},
           {"$FL_SIM_TEST_PLACE/x.h5", "/scratch/me/x.h5"},
           {"a/${FL_SIM_TEST_PLACE}b", "a//scratch/meb"},
           {"~/$FL_SIM_TEST_PLACE", "/home/me//scratch/me"},
           {"a~/x", "a~/x"},
           {"x$", "x$"},
           {"$1/${}/${1}/${A/$-", "$1/${}/${1}/${A/$-"},
           {"", ""}})
    EXPECT_EQ(expanded_path("output", path), expected) << path;
  EXPECT_ERROR(
      expanded_path("output", "$FL_SIM_TEST_NOTHING/x"),
      "output is '$FL_SIM_TEST_NOTHING/x', but the environment has no FL_SIM_TEST_NOTHING");
  EXPECT_ERROR(expanded_path("output", "$FL_SIM_TEST_EMPTY/x"), "has no FL_SIM_TEST_EMPTY");
  EXPECT_ERROR(expanded_path("output", "~no-such-user/x"), "there is no user 'no-such-user'");
  setenv("HOME", before.c_str(), 1);
}

class FilesTest : public testing::Test {
 protected:
  FilesTest() : folder_(testing::TempDir() + "fl_sim_files_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name = "file") const { return folder_ + "/" + name; }

  static WriteFile words(const std::string& text) {
    return [=](const std::string& path) { std::ofstream(path) << text; };
  }
  static std::string content(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> there() const {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    return names;
  }

  std::string folder_;
};

// Proves that a file takes the place of the one before, and that nothing stays beside it.
TEST_F(FilesTest, AFileIsReplacedAsAWhole) {
  replace_file(path(), words("first"));
  EXPECT_EQ(content(path()), "first");
  replace_file(
      path(),
      [&](const std::string& temporary) {
        EXPECT_EQ(temporary, path() + ".new");
        EXPECT_EQ(content(path()), "first");
        words("second")(temporary);
      },
      ".new");
  EXPECT_EQ(content(path()), "second");
  EXPECT_THAT(there(), ElementsAre("file"));
}

// Proves that what stood there stays where writing fails half-way, and that half a file does not.
TEST_F(FilesTest, AFailureLeavesWhatWasThere) {
  replace_file(path(), words("first"));
  const auto fails = [](const std::string& path) {
    std::ofstream(path) << "half";
    throw std::runtime_error("no more room");
  };
  EXPECT_THROW(replace_file(path(), fails), std::runtime_error);
  EXPECT_THROW(make_file(path("other"), fails), std::runtime_error);
  EXPECT_EQ(content(path()), "first");
  EXPECT_THAT(there(), ElementsAre("file"));
}

// Proves that a file that cannot take its place is an error that says what next.
TEST_F(FilesTest, AFolderInTheWayIsAnError) {
  fs::create_directories(path() + "/inside");
  const std::string error =
      error_of([&] { replace_file(path(), words("first"), ".tmp", "; choose another one"); });
  EXPECT_THAT(error, HasSubstr(path() + " cannot be written ("));
  EXPECT_THAT(error, HasSubstr("); choose another one"));
}

// Proves that a trial says why no file can be made, and leaves nothing where one can.
TEST_F(FilesTest, ATrialLeavesNothing) {
  EXPECT_FALSE(try_file(path()));
  EXPECT_THAT(there(), ElementsAre());
  EXPECT_EQ(try_file(path("no/such/folder")), std::errc::no_such_file_or_directory);
}

// Proves that a list is what stands between its commas, and that "none" is none.
TEST(Text, ListsStandBetweenCommas) {
  EXPECT_THAT(split_list("a"), ElementsAre("a"));
  EXPECT_THAT(split_list(" a , b c,,\td"), ElementsAre("a", "b c", "d"));
  EXPECT_THAT(split_list("none"), ElementsAre());
  EXPECT_THAT(split_list("none, a"), ElementsAre("none", "a"));
  EXPECT_THAT(split_list(" ,"), ElementsAre());
}

}  // namespace
}  // namespace fl_sim
