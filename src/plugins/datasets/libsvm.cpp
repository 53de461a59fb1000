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
  std::vector<int64_t> labels;
  std::vector<int64_t> offsets = {0};  // of each row in the two below, and their end
  std::vector<int64_t> indices;        // from 0
  std::vector<float> values;
  int64_t largest = 0;       // index, from 1
  int64_t largest_line = 0;  // where it stands

  int64_t rows() const { return std::ssize(labels); }
};

SparseRows read_sparse(const std::string& path) {
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
    FL_CHECK(parse_number(label, number) && number == std::floor(number) && std::abs(number) < 1e9,
             in.where(), ": the label is ", shown(label), " (must be a whole number)");
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
    out.labels.push_back(static_cast<int64_t>(number));
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
            "index:value ...', indices from 1. Inputs are dense. Labels are -1 and +1, 0 to C-1 or "
            "1 to C; they become 0 to C-1 in order, and each must occur. There are as many inputs "
            "as the largest index of both files says, or as many as features says.",
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
                    {"features", Type::kInteger, "0", "inputs; 0: the largest index", at_least(0)}},
        .takes_argument = true};
  }

  Dataset read() const override {
    SparseRows train = read_sparse(find_path(job_, "libsvm", file_));
    SparseRows test;
    const auto test_file = job_.get<std::string>("libsvm.test");
    if (test_file != "none") {
      test = read_sparse(find_path(job_, "libsvm.test", test_file));
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
    const auto [first, step] = numbering(train, test, data);
    data.train = samples(train, features, first, step);
    data.test = samples(test, features, first, step);
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

  // Class c is the label first + c · step. Sets the classes and their names.
  static std::pair<int64_t, int64_t> numbering(const SparseRows& train, const SparseRows& test,
                                               Dataset& data) {
    std::vector<int64_t> found = train.labels;
    found.insert(found.end(), test.labels.begin(), test.labels.end());
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    const int64_t step = found == std::vector<int64_t>{-1, 1} ? 2 : 1;
    const int64_t first = found.front();
    for (size_t c = 0; c < found.size(); ++c) {
      FL_CHECK(found[c] == first + static_cast<int64_t>(c) * step &&
                   (step == 2 || first == 0 || first == 1),
               train.path, ": ", found.size(), " different labels occur, from ", first, " to ",
               found.back(), ", among them ", found[c],
               " (must be -1 and +1, or 0 to C-1, or 1 to C, each at least once)");
      data.class_names.push_back(std::to_string(found[c]));
    }
    // Two files may code their classes differently; a class that only one of them has is the sign.
    for (const int64_t label : found) {
      const bool known =
          std::find(train.labels.begin(), train.labels.end(), label) != train.labels.end();
      FL_CHECK(known || test.path == train.path, test.path, ": holds label ", label, ", which ",
               train.path, " does not (are the labels of both coded alike?)");
    }
    data.classes = std::ssize(found);
    return {first, step};
  }

  static Samples samples(const SparseRows& rows, int64_t features, int64_t first, int64_t step) {
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
      y[i] = (rows.labels[row] - first) / step;
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
