// Fed-Heart-Disease of FLamby: four hospitals of the UCI heart disease data, 13 features.
// Ogier du Terrail et al., "FLamby: datasets and benchmarks for cross-silo federated learning in
// realistic healthcare settings", NeurIPS 2022; Janosi, Steinbrunn, Pfisterer, Detrano, "Heart
// disease", UCI Machine Learning Repository, 1988.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "plugins/datasets/tabular.h"

namespace fl_sim {
namespace {

constexpr const char* kCentres[] = {"cleveland", "hungarian", "switzerland", "va"};

class Heart final : public DatasetSource {
 public:
  explicit Heart(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "FLamby's Fed-Heart-Disease: 4 hospitals, 13 features, 2 classes",
        .source =
            "Ogier du Terrail et al., FLamby: datasets and benchmarks for cross-silo federated "
            "learning in realistic healthcare settings, NeurIPS 2022",
        .rule =
            "Reads processed.{cleveland,hungarian,switzerland,va}.data of the UCI heart disease "
            "data and test_rows.json ({\"cleveland\": [5, 13, ...], ...}: FLamby's test rows, "
            "counted from 0 among the rows that are kept) from DIR/heart or DIR, where DIR is "
            "data-dir, else $FL_SIM_DATA. Columns 10 to 12 are dropped, then rows with a '?'; the "
            "label is num != 0; columns 2 and 6 are one-hot encoded, last and without their first "
            "value. Training rows are standardised (n - 1) with the training rows of their own "
            "hospital. Natural clients: the hospitals.",
        .options = {{.name = "standardise",
                     .default_value = "client",
                     .meaning = "test rows: with their own hospital's training rows, or with all",
                     .choices = {"client", "pooled"}},
                    {.name = "standardise-train",
                     .default_value = "client",
                     .meaning = "training rows: with their own hospital's training rows, or with "
                                "all (for training on pooled data)",
                     .choices = {"client", "pooled"}}}};
  }

  Dataset read() const override {
    const std::filesystem::path folder =
        find_set(job_, {"heart"}, {"processed.cleveland.data"},
                 "fetch it with scripts/get_data heart, or give its folder with --data-dir");
    Table table({.key = "heart",
                 .header = false,
                 .missing = {"?"},
                 .label = "13",
                 .drop = {"10", "11", "12"},
                 .onehot = {"2", "6"},
                 .drop_first = true});
    const std::string rows_file = folder / "test_rows.json";
    const nlohmann::json test_rows = parse(rows_file);
    std::vector<int64_t> part[2], centre[2];  // rows to train with, rows to test with
    for (int64_t c = 0; c < std::ssize(kCentres); ++c) {
      const std::string path = folder / message("processed.", kCentres[c], ".data");
      const int64_t first = table.rows(), rows = table.read(path);
      std::vector<bool> is_test = chosen(rows_file, test_rows, kCentres[c], rows);
      for (int64_t i = 0; i < rows; ++i) {
        const int set = is_test[static_cast<size_t>(i)] ? 1 : 0;
        part[set].push_back(first + i);
        centre[set].push_back(c);
      }
    }
    const Matrix inputs = table.inputs();
    FL_CHECK(inputs.columns == 13, folder.string(), ": ", inputs.columns,
             " features were found (13 are expected: 8 numbers, 4 kinds of chest pain and 3 "
             "results of the electrocardiogram, without the first of each)");

    Dataset data;
    data.classes = 2;
    data.class_names = {"healthy", "disease"};
    data.owner = centre[0];
    data.test_owner = centre[1];
    const Matrix raw = inputs.select(part[0]);
    Matrix sets[2] = {raw, inputs.select(part[1])};
    const std::string options[2] = {"heart.standardise-train", "heart.standardise"};
    for (int set = 0; set < 2; ++set) {
      const bool pooled = job_.get<std::string>(options[set]) == "pooled";
      const auto groups = [&](int of) {
        return pooled ? std::vector<int64_t>(centre[of].size()) : centre[of];
      };
      Matrix statistics = raw;  // the training rows, whichever rows are standardised
      standardise(statistics, groups(0), sets[set], groups(set), folder.string());
    }
    const LevelColumn::Sorted labels = table.labels().sorted();
    FL_CHECK(table.labels().numeric(), folder.string(), ": a label is ", shown(labels.names.back()),
             " (must be a number, 0 for a healthy heart)");
    const auto samples = [&](int set) {
      std::vector<int64_t> disease;
      for (const int64_t i : part[set])
        disease.push_back(
            labels.numbers[static_cast<size_t>(labels.codes[static_cast<size_t>(i)])] != 0);
      const int64_t n = std::ssize(disease);
      return Samples{sets[set].floats(), to_tensor(std::move(disease), {n})};
    };
    data.train = samples(0);
    data.test = samples(1);
    return data;
  }

 private:
  static nlohmann::json parse(const std::string& path) {
    const std::vector<uint8_t> bytes = read_bytes(path);
    try {
      return nlohmann::json::parse(bytes.begin(), bytes.end());
    } catch (const nlohmann::json::exception& error) {
      throw Error(message(path, ": is not JSON (", error.what(), ")"));
    }
  }

  // Which of a centre's rows are test rows.
  static std::vector<bool> chosen(const std::string& path, const nlohmann::json& all,
                                  const std::string& centre, int64_t rows) {
    FL_CHECK(all.is_object() && all.contains(centre) && all[centre].is_array(), path,
             ": has no list ", shown(centre), " (expected {\"cleveland\": [5, 13, ...], ...})");
    std::vector<bool> is_test(static_cast<size_t>(rows));
    for (const nlohmann::json& row : all[centre]) {
      FL_CHECK(row.is_number_integer() && row.get<int64_t>() >= 0 && row.get<int64_t>() < rows,
               path, ": ", centre, "'s list holds ",
               shown(row.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)),
               " (must be 0 to ", rows - 1, ", the rows of that hospital without missing values)");
      is_test[static_cast<size_t>(row.get<int64_t>())] = true;
    }
    const int64_t tests = std::count(is_test.begin(), is_test.end(), true);
    FL_CHECK(tests == std::ssize(all[centre]), path, ": a row of ", centre, " is listed twice");
    FL_CHECK(tests > 0 && tests < rows, path, ": ", tests, " of ", centre, "'s ", rows,
             " rows are test rows (must be some, and not all)");
    return is_test;
  }

  Job job_;
};

FL_REGISTER(DatasetSource, "heart", Heart);

}  // namespace
}  // namespace fl_sim
