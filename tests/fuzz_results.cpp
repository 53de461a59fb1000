// Mutation tests of results files: as what is compared, gone on with, run again, and begun from.
#include <iostream>
#include <memory>
#include <sstream>

#include "base/check.h"
#include "commands/compare.h"
#include "fuzz.h"
#include "network/initial_weights.h"
#include "network/parameter_layout.h"
#include "storage/results.h"

namespace fl_sim::fuzz {
namespace {

constexpr int64_t kRounds = 3;

ParameterLayout small_layout() {
  ParameterLayout layout;
  layout.add("fc.weight", {2, 3}, 0);
  layout.add("fc.bias", {2}, 0);
  return layout;
}

EvaluationSummary summary_of(double value) {
  EvaluationSummary summary;
  summary.clients = 2;
  summary.loss = summary.mean_loss = value;
  summary.accuracy = summary.mean_accuracy = summary.percentile_50 = 1 - value;
  return summary;
}

// A results file with everything in it that there may be.
void write_results(const std::string& path) {
  const Job job = Job::from_text(
      "dataset = heart\nmodel = logistic\nalgorithm = fedavg\nrounds = 3\ncohort = 2\n"
      "local.lr = 0.1\nlocal.batch-size = 10\nmetrics = auc, f1\n");
  Results results(path, true);
  results.set_job(job.text(), job.values());
  results.set_provenance({{"revision", "abc"},
                          {"start", "2024-01-01T00:00:00Z"},
                          {"end", "2024-01-01T00:01:00Z"},
                          {"fl_sim", "0.2.0"},
                          {"lost_ranks", "rank 2 after round 1"}});
  Skew skew;
  skew.histogram = {2, 1, 0, 1};
  skew.jensen_shannon = skew.hellinger = skew.earth_mover = {0.1, 0.3};
  results.set_partition(Partition({0, 3, 4}, {0, 2, 5, 1}), skew);
  results.set_scalars({"control.norm"});
  const std::vector<NamedTensor> model = {{"fc.weight", {2, 3}, {1, 2, 3, 4, 5, 6}},
                                          {"fc.bias", {2}, {0.5f, -0.5f}}};
  for (int64_t number = 1; number <= kRounds; ++number) {
    RoundRecord round;
    round.round = number;
    round.seconds = 0.25;
    round.train_loss = round.test_loss = 1.0 / static_cast<double>(number);
    round.test_accuracy = 0.25 * static_cast<double>(number);
    round.cohort = 2;
    round.diverged = 1;
    round.bytes_down = round.bytes_up = 1000;
    round.clients = round.personal = summary_of(0.5);
    round.model_loss = {0.1, 0.2};
    round.metrics.area_under_curve = 0.5;
    round.metrics.class_f1 = {0.1, 0.2};
    round.metrics.confusion = {1, 2, 3, 4};
    round.figures["clip.share"] = 0.5;
    results.round(round);
    std::vector<ClientRecord> clients(2);
    std::vector<ClientEvaluation> evaluations(2);
    for (int64_t client = 0; client < 2; ++client) {
      ClientRecord& record = clients[static_cast<size_t>(client)];
      record.round = number;
      record.client = client;
      record.weight = 0.5;
      record.scalars[0] = 0.25;
      ClientEvaluation& evaluation = evaluations[static_cast<size_t>(client)];
      evaluation.round = number;
      evaluation.client = client;
      evaluation.accuracy = 0.5;
    }
    results.clients(clients);
    results.evaluations(evaluations);
    results.best(number, 0.25 * static_cast<double>(number), model);
  }
  results.set_ranks({RankRecord{}});
  results.set_model(model);
  results.save(true);
}

// What a command prints, which nobody reads here.
class Unheard {
 public:
  Unheard() : out_(std::cout.rdbuf(text_.rdbuf())), err_(std::cerr.rdbuf(text_.rdbuf())) {}
  ~Unheard() {
    std::cout.rdbuf(out_);
    std::cerr.rdbuf(err_);
  }
  Unheard(const Unheard&) = delete;
  Unheard& operator=(const Unheard&) = delete;

 private:
  std::ostringstream text_;
  std::streambuf *out_, *err_;
};

Outcome compare(const std::vector<std::string>& words, const std::string& path) {
  const Unheard unheard;
  return attempt({path}, [&]() -> std::string {
    const int code = run_compare(words);
    return code == 0 ? "" : message("compare returned ", code);
  });
}

// Rows that a run goes on with are those of its rounds.
std::string continued(const std::string& path) {
  Results results(path, true);
  results.former();
  results.set_scalars({"control.norm"});
  results.load(kRounds);
  int64_t expected = 1;
  for (const RoundRecord& round : results.rounds()) {
    if (round.round != expected++)
      return message("row ", expected - 2, " of /rounds is of round ", round.round);
  }
  for (const ClientRecord& row : results.client_rows()) {
    if (row.round < 1 || row.round > kRounds)
      return message("a row of /clients is of round ", row.round);
  }
  for (const ClientEvaluation& row : results.evaluation_rows()) {
    if (row.round < 1 || row.round > kRounds)
      return message("a row of /evaluations is of round ", row.round);
  }
  return "";
}

Outcome read_results_file(const std::string& path, const std::string& whole) {
  return compare({path}, path) +
         compare({path, whole, "--metric", "personal_accuracy", "--take", "best", "--target", "0.4",
                  "--markdown"},
                 path) +
         attempt({path},
                 [&] {
                   Job::parse({"--job", path});
                   return std::string();
                 }) +
         attempt({path}, [&] { return continued(path); }) + attempt({path}, [&]() -> std::string {
           const torch::Tensor row = initial_row_from(path, small_layout());
           return row.isfinite().all().item<bool>() ? "" : "weights that are no numbers";
         });
}

Case results_case(bool bytes) {
  const Folder folder = folder_of("results");
  const std::string path = folder->path() / "run.h5", whole = folder->path() / "other.h5";
  write_results(path);
  std::filesystem::copy_file(path, whole);
  const std::string original = bytes_of(path);
  // The same job twice would not be compared.
  const auto read = [=] {
    const std::string other = folder->path() / "seed.h5";
    return read_results_file(path, other);
  };
  {
    Hdf5File file = Hdf5File::create(folder->path() / "seed.h5");
    Job job = Job::from_text(Hdf5File::open(whole).read_text("/job/text"));
    job.set("local.lr", "0.2");
    file.write("/job/text", job.text());
    for (const std::string name :
         {"round", "personal_accuracy", "test_accuracy", "bytes_up", "bytes_down"})
      file.write("/rounds/" + name, std::vector<double>{1, 2, 3});
    file.write("/rounds/diverged", std::vector<int64_t>{0, 1, 0});
    file.write_attribute("/provenance", "end", std::string("now"));
    file.close();
  }
  if (bytes) {
    Case c = files_case(folder, {"run.h5"}, read);
    c.crashing_library = "libhdf5";
    return c;
  }
  return {[=](Rng& rng) {
            damage_hdf5(path, rng);
            return path;
          },
          [=] { folder->write("run.h5", original); }, read, ""};
}

}  // namespace

std::vector<Entry> results_cases() {
  return {{"results objects", 25, [] { return results_case(false); }},
          {"results bytes", 10, [] { return results_case(true); }}};
}

}  // namespace fl_sim::fuzz
