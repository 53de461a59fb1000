// The job files under jobs/: every one, and every cell that scripts/reproduce would run of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "any_job.h"
#include "engine/experiment.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

struct Cell {
  std::string file, name;
  Words options;
  bool whole = true;  // rather than a variant of another one
};

// A file's "#: cell NAME OPTIONS" lines, and each value of its "#: tune" lines in the first cell as
// scripts/reproduce tries it; the file as it stands where it has none.
std::vector<Cell> cells(const std::string& file) {
  std::vector<Cell> all;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string mark, kind, word;
    words >> mark >> kind;
    if (mark != "#:") continue;
    if (kind == "cell") {
      Cell cell{file, "", {}, true};
      words >> cell.name;
      while (words >> word) cell.options.push_back(word);
      all.push_back(cell);
    } else if (kind == "tune") {
      Cell cell = all.at(0);
      std::string option;
      words >> option;
      cell.name += " tune";
      for (const char* more : {"--partition.validation-fraction", "0.1", "--evaluate-clients", "1",
                               "--evaluate-split", "validation"})
        cell.options.push_back(more);
      while (words >> word) {
        all.push_back(cell);
        all.back().whole = false;
        all.back().options.insert(all.back().options.end(), {option, word});
      }
    }
  }
  if (all.empty()) all.push_back({file, "", {}, true});
  return all;
}

// Samples of the data set's shape and number of classes, dealt to its natural clients in turn;
// generated sets themselves.
Dataset stand_in(const Job& job) {
  struct Facts {
    std::vector<int64_t> shape;
    int64_t classes, samples, owners = 0;
    bool text = false;
  };
  static const std::map<std::string, Facts> known = {
      {"mnist", {{1, 28, 28}, 10, 2000}},
      {"fashion-mnist", {{1, 28, 28}, 10, 2000}},
      {"cifar10", {{3, 32, 32}, 10, 1000}},
      {"libsvm", {{123}, 2, 1000}},
      {"heart", {{13}, 2, 400, 4}},
      {"fed-emnist", {{1, 28, 28}, 62, 1000, 50}},
      {"fed-cifar100", {{3, 32, 32}, 100, 1000, 50}},
      {"fed-shakespeare", {{80}, 90, 1000, 50, true}},
      {"fedscale", {{3, 32, 32}, 62, 4000, 2000}}};
  const auto [name, argument] = split_name(job.get<std::string>("dataset"));
  const auto found = known.find(name);
  if (found == known.end()) return make<DatasetSource>(name, {job, argument})->read();
  const Facts& facts = found->second;
  // Personalisation's jobs give each of 100 clients 200 samples.
  const bool many = job.get<std::string>("partitioner") == "inner-dirichlet";
  // Of Fashion-MNIST a thousand clients have 60 each.
  const bool crowd =
      facts.owners == 0 && std::atoi(job.get<std::string>("clients").c_str()) >= 1000;
  const int64_t n = crowd ? 60000 : many ? 20000 : facts.samples;
  std::vector<int64_t> shape = {n};
  shape.insert(shape.end(), facts.shape.begin(), facts.shape.end());
  Dataset data;
  data.classes = facts.classes;
  const torch::Tensor labels = torch::arange(n, torch::kInt64) % facts.classes;
  data.train = {torch::zeros(shape, torch::kUInt8),
                facts.text ? labels.unsqueeze(1).expand({n, 80}).contiguous() : labels};
  data.test = {data.train.inputs.narrow(0, 0, 100), data.train.labels.narrow(0, 0, 100)};
  for (int64_t i = 0; i < n && facts.owners > 0; ++i) data.owner.push_back(i % facts.owners);
  return data;
}

// Proves that every job file, with the options of each of its cells, says what a run needs, in keys
// that are read, and that the run could start: samples are dealt, the network fits them, the
// algorithm takes the job. The samples themselves are stand-ins.
TEST(JobFiles, EveryCellIsARun) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(FL_SIM_ROOT) / "jobs")) {
    if (entry.path().extension() != ".ini") continue;
    ++files;
    for (const Cell& cell : cells(entry.path())) {
      Words words = {"--job", cell.file};
      words.insert(words.end(), cell.options.begin(), cell.options.end());
      try {
        const Job job = Job::parse(words);
        if (cell.whole) make_experiment(job, stand_in(job));
      } catch (const Error& error) {
        ADD_FAILURE() << cell.file << " " << cell.name << ": " << error.what();
      }
    }
  }
  EXPECT_GE(files, 25);
}

}  // namespace
}  // namespace fl_sim
