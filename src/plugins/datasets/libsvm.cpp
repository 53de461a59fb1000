// The sparse text format of LIBSVM and SVMlight: "label index:value index:value ...", indices from
// 1 and ascending. Chang, Lin, "LIBSVM: a library for support vector machines", ACM TIST 2011.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

struct SparseRows {
  std::string path;
  std::vector<double> labels;
  std::vector<int64_t> offsets = {0};  // of each row in the two below, and their end
  std::vector<int64_t> indices;        // from 0
  std::vector<float> values;
  int64_t largest = 0;       // index, from 1
  int64_t largest_line = 0;  // where it stands

  int64_t rows() const { return std::ssize(labels); }
};

// `numbers`: labels may be any, otherwise they are whole.
SparseRows read_sparse(const std::string& path, bool numbers) {
  SparseRows out;
  out.path = path;
  LineReader in(path);
  std::string line;
  while (in.next(line)) {
    std::string_view rest = trimmed(std::string_view(line).substr(0, line.find('#')));
    if (rest.empty()) continue;
    const auto take = [&] {
      const size_t end = std::min(rest.find_first_of(" \t"), rest.size());
      const std::string_view word = rest.substr(0, end);
      rest = trimmed(rest.substr(end));
      return word;
    };
    const std::string_view label = take();
    double number = 0;
    const bool parsed = parse_number(label, number);
    FL_CHECK(parsed && (numbers || (number == std::floor(number) && std::abs(number) < 1e9)),
             in.where(), ": the label is ", shown(label),
             numbers  ? " (must be a number)"
             : parsed ? " (must be a whole number; libsvm.regression = true predicts others)"
                      : " (must be a whole number)");
    int64_t last = 0;
    while (!rest.empty()) {
      const std::string_view word = take();
      const size_t colon = word.find(':');
      int64_t index = 0;
      double value = 0;
      FL_CHECK(colon != std::string_view::npos && parse_number(word.substr(0, colon), index) &&
                   parse_number(word.substr(colon + 1), value) &&
                   std::isfinite(static_cast<float>(value)),
               in.where(), ": ", shown(word), " was found (expected index:value, such as 3:0.5)");
      FL_CHECK(index > last && index <= INT32_MAX, in.where(), ": index ", index,
               last == 0 ? " is the first (they start at 1)"
                         : message(" follows ", last, " (they must ascend)"));
      last = index;
      if (value == 0) continue;
      out.indices.push_back(index - 1);
      out.values.push_back(static_cast<float>(value));
    }
    if (last > out.largest) {
      out.largest = last;
      out.largest_line = in.number();
    }
    out.labels.push_back(number + 0.0);  // no -0
    out.offsets.push_back(std::ssize(out.indices));
  }
  FL_CHECK(out.rows() > 0, path, ": no rows were found (expected lines 'label index:value ...')");
  return out;
}

class Libsvm final : public DatasetSource {
 public:
  explicit Libsvm(const Setup& setup) : job_(setup.job), file_(setup.argument) {
    FL_CHECK(!file_.empty(), "dataset libsvm needs a file (dataset = libsvm:FILE)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "sparse rows in LIBSVM's text format, such as Adult's a9a: libsvm:FILE",
        .source =
            "Chang, Lin, LIBSVM: a library for support vector machines, ACM Transactions on "
            "Intelligent Systems and Technology, 2011",
        .rule =
            "FILE is a path, or a path within data-dir, plain or .gz, with lines 'label "
            "index:value ...', indices from 1. Inputs are dense. Labels are whole numbers, such as "
            "-1 and +1, 0 to C-1, 1 to C, or 2 and 4; those that occur become 0, 1, ... in order, "
            "and the test file has no others. There are as many inputs as the largest index of "
            "both files says, or as many as features says.",
        .options = {{.name = "test",
                     .default_value = "none",
                     .meaning = "file of test rows",
                     .path = true},
                    {"test-fraction",
                     Type::kNumber,
                     "0.2",
                     "share of the rows that is the test set, drawn by seed",
                     {.low = 0, .high = 1, .open_low = true, .open_high = true},
                     {},
                     {"libsvm.test", {"none"}}},
                    {"regression", Type::kFlag, "false",
                     "the label is a number to be predicted, not a class"},
                    {"features", Type::kInteger, "0", "inputs; 0: the largest index", at_least(0)}},
        .takes_argument = true};
  }

  Dataset read() const override {
    const bool regression = job_.get<bool>("libsvm.regression");
    SparseRows train = read_sparse(find_path(job_, "libsvm", file_), regression);
    SparseRows test;
    const auto test_file = job_.get<std::string>("libsvm.test");
    if (test_file != "none") {
      test = read_sparse(find_path(job_, "libsvm.test", test_file), regression);
    } else {
      split(train, test);
    }

    int64_t features = job_.get<int64_t>("libsvm.features");
    for (const SparseRows* rows : {&train, &test}) {
      FL_CHECK(job_.get<int64_t>("libsvm.features") == 0 || rows->largest <= features, rows->path,
               ", line ", rows->largest_line, ": index ", rows->largest,
               " was found, but libsvm.features is ", features);
      features = std::max(features, rows->largest);
    }
    FL_CHECK(features > 0, train.path, ": no row has a value other than its label");

    Dataset data;
    const std::vector<double> levels = levels_of(train, test);
    data.classes = std::ssize(levels);
    if (regression) {
      data.values = levels;
    } else {
      name_classes(train, test, levels, data);
    }
    data.train = samples(train, features, levels);
    data.test = samples(test, features, levels);
    return data;
  }

 private:
  void split(SparseRows& train, SparseRows& test) const {
    const SparseRows all = std::move(train);
    const std::vector<bool> is_test =
        draw_test_samples(job_, all.path, all.rows(), job_.get<double>("libsvm.test-fraction"), {});
    train = test = {};
    for (SparseRows* part : {&train, &test}) {
      part->path = all.path;
      part->largest = all.largest;
      part->largest_line = all.largest_line;
    }
    for (size_t i = 0; i < all.labels.size(); ++i) {
      SparseRows& part = is_test[i] ? test : train;
      const int64_t begin = all.offsets[i], end = all.offsets[i + 1];
      part.labels.push_back(all.labels[i]);
      part.indices.insert(part.indices.end(), all.indices.begin() + begin,
                          all.indices.begin() + end);
      part.values.insert(part.values.end(), all.values.begin() + begin, all.values.begin() + end);
      part.offsets.push_back(std::ssize(part.indices));
    }
  }

  // The labels that occur, in order.
  static std::vector<double> levels_of(const SparseRows& train, const SparseRows& test) {
    std::vector<double> found = train.labels;
    found.insert(found.end(), test.labels.begin(), test.labels.end());
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

  static void name_classes(const SparseRows& train, const SparseRows& test,
                           const std::vector<double>& levels, Dataset& data) {
    constexpr int64_t kFewRows = 10;
    // Two files may code their classes differently; a class that only one of them has is the sign.
    std::vector<double> trained = train.labels;
    std::sort(trained.begin(), trained.end());
    for (const double label : levels) {
      FL_CHECK(test.path == train.path || std::binary_search(trained.begin(), trained.end(), label),
               test.path, ": holds label ", label, ", which ", train.path,
               " does not (are the labels of both coded alike?)");
      data.class_names.push_back(std::to_string(static_cast<int64_t>(label)));
    }
    const auto classes = std::ssize(levels), rows = train.rows() + test.rows();
    if (rows >= kFewRows && 2 * classes > rows) {
      data.notes.push_back(message(train.path, ": ", classes, " different labels stand in ", rows,
                                   " rows, and each is a class (if they are numbers to be "
                                   "predicted: libsvm.regression = true)"));
    }
    // A gap may be a class that these rows happen to lack.
    const bool signs = levels == std::vector<double>{-1, 1};
    const double span = levels.back() - levels.front() + 1;
    if (signs || span == static_cast<double>(classes) || classes < 2) return;
    std::string list;
    constexpr size_t kShown = 10;
    for (size_t c = 0; c < std::min(kShown, levels.size()); ++c)
      list += message(c == 0 ? "" : ", ", levels[c]);
    data.notes.push_back(message(train.path, ": labels ", list, classes > 10 ? ", ..." : "",
                                 " become classes 0 to ", classes - 1,
                                 "; what lies between does not occur"));
  }

  static Samples samples(const SparseRows& rows, int64_t features,
                         const std::vector<double>& levels) {
    // One absurd index must not claim all memory: real sparse sets have a value in a few hundred.
    constexpr int64_t kSmall = int64_t{1} << 24, kSparsest = 4096;
    const int64_t n = rows.rows();
    FL_CHECK(n * features <= std::max(kSmall, kSparsest * std::ssize(rows.values)), rows.path, ": ",
             n, " rows of ", features, " inputs, of which ", rows.values.size(),
             " have a value, are too sparse to be stored densely (the largest index, ",
             rows.largest, ", stands in line ", rows.largest_line, ")");
    Samples out{torch::zeros({n, features}), torch::empty({n}, torch::kInt64)};
    float* x = out.inputs.data_ptr<float>();
    int64_t* y = out.labels.data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i) {
      const size_t row = static_cast<size_t>(i);
      y[i] = std::lower_bound(levels.begin(), levels.end(), rows.labels[row]) - levels.begin();
      for (int64_t k = rows.offsets[row]; k < rows.offsets[row + 1]; ++k)
        x[i * features + rows.indices[static_cast<size_t>(k)]] =
            rows.values[static_cast<size_t>(k)];
    }
    return out;
  }

  Job job_;
  std::string file_;
};

FL_REGISTER(DatasetSource, "libsvm", Libsvm);

}  // namespace
}  // namespace fl_sim
