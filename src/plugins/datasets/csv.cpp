// Any table: comma-separated values (RFC 4180) with a column of labels and perhaps one of clients.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/text.h"
#include "plugins/datasets/tabular.h"

namespace fl_sim {
namespace {

class Csv final : public DatasetSource {
 public:
  explicit Csv(const Setup& setup) : job_(setup.job), file_(setup.argument) {
    FL_CHECK(!file_.empty(), "dataset csv needs a file (dataset = csv:FILE)");
    FL_CHECK(text("standardise") != "client" || text("client") != "none",
             "csv.standardise is client, but csv.client is none (name the column of clients, or "
             "choose pooled)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "a table in a text file: csv:FILE, with a column of labels",
        .source = "Shafranovich, Common format and MIME type for CSV files, RFC 4180, 2005",
        .rule =
            "FILE is a path, or a path within data-dir, plain or .gz. Every column is an input but "
            "the label, the client and dropped ones: first the columns of numbers in file order, "
            "then a 0/1 column for each value of each one-hot column. Columns are named as in the "
            "header, or by number: 0 is the first, -1 the last. Classes are the label's values in "
            "order, and the test file has no others. Rows of a client column's value are one "
            "natural client (partitioner natural). "
            "standardise subtracts the mean and divides by the standard deviation (n - 1) of the "
            "training rows, of all or of the row's client; what is constant is only centred.",
        .options =
            {{"label", Type::kText, {}, "column of labels"},
             {"client", Type::kText, "none", "column of natural clients"},
             {"drop", Type::kText, "none", "columns to leave out: a,b,c"},
             {"onehot", Type::kText, "none", "columns to encode as a 0/1 column for each value"},
             {"onehot-drop-first", Type::kFlag, "false",
              "a one-hot column's first value gets no column"},
             {"missing", Type::kText, "none",
              "cells that stand for no value, whose rows are left out: ?,NA; 'empty' for nothing"},
             {.name = "standardise",
              .default_value = "none",
              .meaning = "with the training rows' mean and deviation: of all rows, of the client's",
              .choices = {"none", "pooled", "client"}},
             {"header", Type::kFlag, "true", "the first line names the columns"},
             {.name = "separator",
              .default_value = "comma",
              .meaning = "between the cells of a row; space: any number of blanks",
              .choices = {"comma", "semicolon", "tab", "space"}},
             {"regression", Type::kFlag, "false",
              "the label is a number to be predicted, not a class"},
             {"shape", Type::kText, "none",
              "what the inputs of a row are: 1x28x28, an image of one channel; none: a list"},
             {"scale",
              Type::kNumber,
              "1",
              "what inputs are multiplied by: 0.00392157 brings pixels from 0 to 255 to 0 to 1",
              {.low = 0, .open_low = true}},
             {.name = "test",
              .default_value = "none",
              .meaning = "file of test rows, with the same columns",
              .path = true},
             {"test-fraction",
              Type::kNumber,
              "0.2",
              "share of the rows that is the test set, drawn by seed, of each client apart",
              {.low = 0, .high = 1, .open_low = true, .open_high = true},
              {},
              {"csv.test", {"none"}}}},
        .takes_argument = true};
  }

  Dataset read() const override {
    const std::string separator = text("separator");
    Table table({.key = "csv",
                 .separator = separator == "comma"       ? ','
                              : separator == "semicolon" ? ';'
                              : separator == "tab"       ? '\t'
                                                         : ' ',
                 .header = job_.get<bool>("csv.header"),
                 .missing = split_list(text("missing")),
                 .label = text("label"),
                 .client = text("client") == "none" ? "" : text("client"),
                 .drop = split_list(text("drop")),
                 .onehot = split_list(text("onehot")),
                 .drop_first = job_.get<bool>("csv.onehot-drop-first")});
    const std::string path = find_path(job_, "csv", file_);
    const int64_t from_file = table.read(path);
    const LevelColumn::Sorted clients = client_column(table);
    std::vector<bool> is_test(static_cast<size_t>(from_file));
    if (text("test") == "none") {
      is_test = draw_test_samples(job_, path, from_file, job_.get<double>("csv.test-fraction"),
                                  clients.codes);
    } else {
      const size_t known = table.labels().size();
      const std::string test_path = find_path(job_, "csv.test", text("test"));
      table.read(test_path);
      if (!regression()) check_test_labels(path, test_path, table.labels(), known);
      is_test.resize(static_cast<size_t>(table.rows()), true);
    }
    return build(path, table, is_test);
  }

 private:
  bool regression() const { return job_.get<bool>("csv.regression"); }

  // Two files may code their classes differently; a class that only one of them has is the sign.
  static void check_test_labels(const std::string& path, const std::string& test_path,
                                const LevelColumn& labels, size_t known) {
    constexpr size_t kShown = 5;
    const std::vector<std::string> unknown = labels.new_levels(known);
    if (unknown.empty()) return;
    std::string list;
    bool dotted = true;
    for (size_t i = 0; i < unknown.size(); ++i) {
      const std::string& name = unknown[i];
      if (i < kShown) list += (i == 0 ? "" : ", ") + shown(name);
      dotted = dotted && name.ends_with('.') && labels.contains(name.substr(0, name.size() - 1));
    }
    if (unknown.size() > kShown) list += message(" and ", unknown.size() - kShown, " more");
    throw Error(message(
        test_path, ": holds ", unknown.size() == 1 ? "label " : "labels ", list, ", which ", path,
        " does not (",
        dotted ? "they end in a dot, as in UCI's adult.test: sed 's/\\.$//' FILE > NEW"
               : "are the labels of both coded alike? csv.regression is for numbers to predict",
        ")"));
  }

  // What labels look like that should not be classes.
  static void note_labels(const std::string& label, const LevelColumn::Sorted& labels,
                          Dataset& data) {
    constexpr int64_t kFewRows = 10, kFewClasses = 10;
    const auto rows = std::ssize(labels.codes), classes = std::ssize(labels.names);
    const bool fractions = std::any_of(labels.numbers.begin(), labels.numbers.end(),
                                       [](double number) { return number != std::floor(number); });
    const bool most = rows >= kFewRows && 2 * classes > rows;
    if (!most && !(fractions && classes > kFewClasses)) return;
    data.notes.push_back(message("csv.label ", label, " has ", classes, " different values in ",
                                 rows, " rows, and each is a class (",
                                 labels.numbers.empty()
                                     ? "is it the column of labels?"
                                     : "if it is a number to be predicted: csv.regression = true",
                                 ")"));
  }

  // The inputs [rows, columns] as csv.shape wants them.
  torch::Tensor shaped(const torch::Tensor& inputs) const {
    const std::string given = text("shape");
    if (given == "none") return inputs;
    std::vector<int64_t> sizes = {inputs.size(0)};
    int64_t product = 1;
    size_t at = 0;
    while (at <= given.size()) {
      const size_t cross = std::min(given.find('x', at), given.size());
      int64_t size = 0;
      FL_CHECK(parse_number(std::string_view(given).substr(at, cross - at), size) && size >= 1 &&
                   size <= inputs.size(1) / product && sizes.size() < 5,
               "csv.shape is '", given, "', but there are ", inputs.size(1),
               " inputs a row (must be sizes with an x between them, such as 1x28x28, whose "
               "product is that)");
      sizes.push_back(size);
      product *= size;
      at = cross + 1;
    }
    FL_CHECK(product == inputs.size(1), "csv.shape is ", given, ", which makes ", product,
             " inputs, but there are ", inputs.size(1), " a row");
    return inputs.reshape(sizes);
  }

  std::string text(const std::string& key) const { return job_.get<std::string>("csv." + key); }

  LevelColumn::Sorted client_column(const Table& table) const {
    return text("client") == "none" ? LevelColumn::Sorted{} : table.clients().sorted();
  }

  Dataset build(const std::string& path, const Table& table,
                const std::vector<bool>& is_test) const {
    std::vector<int64_t> part[2];  // rows to train with, rows to test with
    for (size_t i = 0; i < is_test.size(); ++i)
      part[is_test[i] ? 1 : 0].push_back(static_cast<int64_t>(i));
    const auto of = [](const std::vector<int64_t>& codes, const std::vector<int64_t>& rows) {
      std::vector<int64_t> out;
      for (const int64_t i : rows) out.push_back(codes[static_cast<size_t>(i)]);
      return out;
    };
    const Matrix inputs = table.inputs();
    Matrix train = inputs.select(part[0]), test = inputs.select(part[1]);
    const LevelColumn::Sorted clients = client_column(table);
    const std::string standardised = text("standardise");
    if (standardised == "pooled") {
      standardise(train, std::vector<int64_t>(part[0].size()), test,
                  std::vector<int64_t>(part[1].size()), path);
    } else if (standardised == "client") {
      standardise(train, of(clients.codes, part[0]), test, of(clients.codes, part[1]), path);
    }

    Dataset data;
    const LevelColumn::Sorted labels = table.labels().sorted();
    data.classes = std::ssize(labels.names);
    if (regression()) {
      FL_CHECK(table.labels().numeric(), path,
               ": csv.regression is on, but the label's column holds more than numbers");
      data.values = labels.numbers;
    } else {
      data.class_names = labels.names;
      note_labels(text("label"), labels, data);
    }
    data.scale = job_.get<double>("csv.scale");
    data.scaled_by = "csv.scale or csv.standardise";
    if (table.left_out() > 0)
      data.left_out =
          message(table.left_out(), table.left_out() == 1 ? " row" : " rows", " without a value");
    try {
      data.train = {shaped(train.floats()), to_tensor(of(labels.codes, part[0]), {train.rows()})};
      data.test = {shaped(test.floats()), to_tensor(of(labels.codes, part[1]), {test.rows()})};
    } catch (const Error& error) {
      throw Error(message(path, ": ", error.what()));
    }
    if (!clients.codes.empty()) {
      // Clients that only test rows name own nothing to train with.
      data.owner = of(clients.codes, part[0]);
      std::vector<int64_t> number(clients.names.size(), -1);
      for (const int64_t client : data.owner) number[static_cast<size_t>(client)] = 0;
      int64_t next = 0;
      for (int64_t& n : number) n = n < 0 ? n : next++;
      data.test_owner = of(clients.codes, part[1]);
      for (std::vector<int64_t>* const owners : {&data.owner, &data.test_owner}) {
        for (int64_t& client : *owners) client = number[static_cast<size_t>(client)];
      }
    }
    return data;
  }

  Job job_;
  std::string file_;
};

FL_REGISTER(DatasetSource, "csv", Csv);

}  // namespace
}  // namespace fl_sim
