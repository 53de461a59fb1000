// What plug-ins say of themselves: complete, true, and enough for the page of all algorithms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "any_job.h"

namespace fl_sim {
namespace {

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// Proves that every algorithm says its rule, its family and how it is run, and that its example is
// a job of that algorithm with nothing left open.
TEST(Catalogue, EveryAlgorithmExplainsItself) {
  for (const auto& [name, info] : catalog()["algorithm"]) {
    SCOPED_TRACE(name);
    EXPECT_FALSE(info.summary.empty());
    EXPECT_FALSE(info.rule.empty());
    const auto& families = algorithm_families();
    EXPECT_TRUE(
        std::any_of(families.begin(), families.end(),
                    [&family = info.family](const auto& known) { return known.first == family; }))
        << "the family is '" << info.family << "'";
    std::vector<std::string> words = words_of(info.example);
    const std::vector<std::string> common =
        words_of("--dataset fashion-mnist --model cnn --local.batch-size 32 --local.lr 0.05");
    for (size_t i = 0; i < common.size(); i += 2) {
      if (std::find(words.begin(), words.end(), common[i]) == words.end())
        words.insert(words.end(), {common[i], common[i + 1]});
    }
    try {
      EXPECT_EQ(Job::parse(words).get<std::string>("algorithm"), name);
    } catch (const Error& error) {
      ADD_FAILURE() << "its example is no job: " << error.what();
    }
  }
}

// Proves that no two plug-ins, and no plug-in and the engine, claim the same key of a job.
TEST(Catalogue, EveryKeyHasOneMeaning) {
  std::set<std::string> seen;
  for (const Option& option : all_options()) {
    EXPECT_TRUE(seen.insert(option.name).second) << option.name;
  }
}

// Proves that what plug-ins say they read are keys of the engine that their kind may read, and that
// each such key has a reader.
TEST(Catalogue, WhatPlugInsReadAreKeysOfTheEngine) {
  std::set<std::pair<std::string, std::string>> by_plugins, by_engine;
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      for (const std::string& key : info.reads) by_plugins.emplace(kind, key);
    }
  }
  for (const Option& option : engine_options()) {
    if (!option.read_by.empty()) by_engine.emplace(option.read_by, option.name);
  }
  EXPECT_EQ(by_plugins, by_engine);
  EXPECT_THAT(readers("partitioner", "partition.retries"),
              testing::ElementsAre("dirichlet", "quantity-dirichlet", "semantic"));
}

// Proves that what a plug-in sets for the engine are keys of the engine, with values that it takes.
TEST(Catalogue, DefaultsForTheEngineAreValid) {
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      for (const auto& [key, value] : info.defaults) {
        const auto& options = engine_options();
        const auto option = std::find_if(options.begin(), options.end(),
                                         [&name = key](const Option& o) { return o.name == name; });
        ASSERT_NE(option, options.end()) << name << " sets " << key;
        std::string lines = key + " = " + value;
        const auto& [condition, values] = option->only_with;
        if (!condition.empty()) lines += "\n" + condition + " = " + values.front();
        if (!option->read_by.empty()) lines += "\n" + kind + " = " + name;
        EXPECT_NO_THROW(any_job(lines)) << name << " sets " << key << " to " << value;
      }
    }
  }
}

}  // namespace
}  // namespace fl_sim
