// What a job makes of data: clients held out, lists split again, samples shifted, initial weights.
#include "engine/experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "any_job.h"
#include "base/hdf5_file.h"
#include "data/shift.h"
#include "quadratics.h"

namespace fl_sim {
namespace {

using testing::ElementsAreArray;

Experiment experiment(const std::string& lines) {
  const Job job =
      any_job("model = logistic\ndevice = cpu\n" +
              std::string(lines.starts_with("clients") ? "" : "clients = 20\n") + lines);
  return make_experiment(job, make<DatasetSource>("fcube", {job, ""})->read());
}

// Proves that as many clients are held out as the job says, drawn by the seed, that the others are
// the rest, and that nobody is named where nobody is held out.
TEST(Experiment, HoldsOutClients) {
  const Experiment e = experiment("holdout-clients = 6");
  EXPECT_EQ(e.holdout.size(), 6u);
  std::vector<int64_t> all;
  std::merge(e.holdout.begin(), e.holdout.end(), e.trained.begin(), e.trained.end(),
             std::back_inserter(all));
  std::vector<int64_t> everybody(20);
  std::iota(everybody.begin(), everybody.end(), 0);
  EXPECT_EQ(all, everybody);
  EXPECT_EQ(experiment("holdout-clients = 6").holdout, e.holdout);
  EXPECT_NE(experiment("holdout-clients = 6\nseed = 1").holdout, e.holdout);
  EXPECT_TRUE(experiment("").trained.empty());
  EXPECT_ERROR(experiment("holdout-clients = 20"),
               "holdout-clients is 20 (must be less than 20, the number of clients");
  EXPECT_ERROR(experiment("holdout-clients = 15\ncohort = 10"),
               "cohort is 10 (must be 1 to 5, the number of clients without the 15 that are held "
               "out)");
}

// Proves that a cohort which the job does not give is the smaller of 10 and the clients that may
// train, that the resolved job says so, and that one that is given stays as it is.
TEST(Experiment, ACohortIsAtMostAllClients) {
  const auto cohort = [](const std::string& lines) {
    return experiment(lines).job.get<int64_t>("cohort");
  };
  EXPECT_EQ(cohort(""), 10);
  EXPECT_EQ(cohort("clients = 4"), 4);
  EXPECT_EQ(cohort("cohort = auto\nholdout-clients = 15"), 5);
  EXPECT_EQ(cohort("cohort = 3"), 3);
  EXPECT_ERROR(experiment("clients = 4\ncohort = 10"),
               "cohort is 10 (must be 1 to 4, the number of clients)");
  EXPECT_ERROR(experiment("cohort = all"), "cohort is 'all' (must be auto or a whole number)");
}

// Proves that training on everybody's samples at once is refused where each client sees its samples
// in its own way, and only there.
TEST(Experiment, PooledTrainingHasNoClientsViews) {
  EXPECT_ERROR(experiment("algorithm = centralized\npartitioner = feature-noise"),
               "each client sees its samples in its own way");
  EXPECT_TRUE(experiment("algorithm = centralized\naugment.noise = 0.1").algorithm->needs().pooled);
}

// Proves that in a run every other client trains and none that is held out does: with full
// participation the model is that of a federation without them.
TEST(Experiment, HeldOutClientsNeverTrain) {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1}};
  Experiment e = experiment_of(
      problem, message(Local().lines(), "algorithm = fedavg\nrounds = 2\nholdout-clients = 2"));
  e.sampler = make<Sampler>("uniform", {e.job, 2});
  ASSERT_EQ(e.trained.size(), 2u);
  Problem without = problem;
  without.clients.clear();
  for (const int64_t k : e.trained)
    without.clients.push_back(problem.clients[static_cast<size_t>(k)]);
  EXPECT_LT(
      distance(run(e).weights[std::slice(0, 3, 1)], solve(without, "fedavg", Local().lines(), 2)),
      1e-9);
}

// Proves that the split of each client's samples changes who holds what in no other way, and that
// the shift reaches all three lists.
TEST(Experiment, SplitsAndShiftsClients) {
  const Experiment plain = experiment("");
  const Experiment e = experiment(
      "partition.test-fraction = 0.2\npartition.validation-fraction = 0.1\nshift.kind = labels");
  EXPECT_TRUE(plain.shift_group.empty());
  EXPECT_EQ(plain.test.size(3), 0);
  ASSERT_EQ(e.shift_group.size(), 20u);
  for (int64_t k = 0; k < 20; ++k) {
    std::vector<int64_t> all;
    for (const Partition* list : {&e.partition, &e.validation, &e.test}) {
      EXPECT_GT(list->size(k), 0);
      for (const int64_t index : list->of(k)) {
        all.push_back(index);
        EXPECT_EQ(e.data.train.labels[index].item<int64_t>(),
                  (plain.data.train.labels[index].item<int64_t>() +
                   e.shift_group[static_cast<size_t>(k)]) %
                      2);
      }
    }
    std::sort(all.begin(), all.end());
    EXPECT_THAT(all, ElementsAreArray(plain.partition.of(k)));
  }
  EXPECT_TRUE(torch::equal(e.data.test.labels, plain.data.test.labels));
}

// Proves that model 0 starts with the weights that a single model has always had, further models
// with others, and all of them with the file's where there is one.
TEST(Experiment, InitialRows) {
  const Experiment e = experiment("seed = 3");
  Rng rng(3, "weights");
  EXPECT_TRUE(torch::equal(initial_row(e, 0), e.network->initial_row(rng)));
  EXPECT_FALSE(torch::equal(initial_row(e, 1), initial_row(e, 0)));
  EXPECT_FALSE(torch::equal(initial_row(e, 2), initial_row(e, 1)));
  EXPECT_TRUE(torch::equal(initial_row(e, 2), initial_row(e, 2)));

  const std::string path = testing::TempDir() + "fl_sim_experiment_test.h5";
  Hdf5File file = Hdf5File::create(path);
  for (const Parameter& p : e.network->layout().parameters())
    file.write("/" + p.name, std::vector<float>(static_cast<size_t>(p.size), 0.25F), p.shape);
  file.close();
  const Experiment given = experiment("init = " + path);
  const torch::Tensor row = initial_row(given, 0);
  for (size_t i = 0; i < e.network->layout().parameters().size(); ++i) {
    EXPECT_TRUE(e.network->layout()
                    .view(row.unsqueeze(0), static_cast<int64_t>(i))
                    .eq(0.25)
                    .all()
                    .item<bool>());
  }
  EXPECT_TRUE(torch::equal(initial_row(given, 1), row));
  std::filesystem::remove(path);
  EXPECT_ERROR(experiment("init = " + path), path);
}

// A model that looks ids up, as foreign ones do: what stands behind the decimal point is cut off.
class Lookup final : public Network {
 public:
  explicit Lookup(const Setup& setup)
      : table_(layout_.add("table", {256, setup.outputs}, 0, 1.0)) {}
  static PluginInfo describe() { return {.summary = "a table of ids", .rule = "the sum of rows"}; }
  torch::Tensor forward(const Weights& weights, torch::Tensor x) const override {
    return torch::embedding(weights[table_].squeeze(0), x.to(torch::kInt64)).sum(1);
  }

 private:
  int64_t table_;
};

FL_REGISTER(Network, "lookup", Lookup);

// Proves that bytes which a model takes for ids stay what they are, and that those which it takes
// for pixels are scaled.
TEST(Experiment, BytesThatAreIdsAreNotScaled) {
  const auto scale = [](const std::string& model, int64_t step, size_t notes) {
    const Samples samples{
        torch::arange(40).mul(step).remainder(251).to(torch::kUInt8).reshape({10, 4}),
        torch::arange(10).remainder(2)};
    const Experiment e = make_experiment(any_job("model = " + model + "\nclients = 2\n"),
                                         {samples, samples, 2, /*scale=*/1.0 / 255});
    EXPECT_EQ(e.notes.size(), notes) << model;
    return e.data.scale;
  };
  EXPECT_EQ(scale("lookup", 7, 1), 1);
  EXPECT_EQ(scale("char-lstm\nchar-lstm.hidden = 4\nchar-lstm.characters = 256", 7, 1), 1);
  EXPECT_EQ(scale("2nn", 7, 0), 1.0 / 255);
  EXPECT_EQ(scale("lookup", 0, 0), 1.0 / 255);  // all are 0, either way
}

}  // namespace
}  // namespace fl_sim
