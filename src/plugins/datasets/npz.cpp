// Arrays from NumPy: an .npz archive, or a folder of .npy files.
#include <algorithm>
#include <span>

#include "base/check.h"
#include "plugins/datasets/files.h"
#include "plugins/datasets/npy.h"

namespace fl_sim {
namespace {

class Npz final : public DatasetSource {
 public:
  explicit Npz(const Setup& setup) : job_(setup.job), file_(setup.argument) {
    FL_CHECK(!file_.empty(), "dataset npz needs a file or a folder (dataset = npz:FILE.npz)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "arrays from NumPy, an .npz file or a folder of .npy: npz:FILE",
        .source = "NumPy enhancement proposal 1, A simple file format for NumPy arrays",
        .rule =
            "FILE is a path, or a path within data-dir. Arrays of numbers: x [n, features], or "
            "images "
            "[n, channels, height, width]; y [n] whole "
            "numbers from 0, or [n, T] for sequences, -1 where there is nothing to predict; x_test "
            "and y_test, or a part of x and y becomes the test set; client [n], any whole numbers: "
            "the natural clients, in ascending order. Bytes stay bytes, everything else becomes "
            "float32. np.savez(FILE, x=x, y=y) writes such a file.",
        .options = {{"regression", Type::kFlag, "false",
                     "y holds numbers to be predicted, not classes"},
                    {"unit", Type::kFlag, "true", "bytes from 0 to 255 stand for 0 to 1"},
                    {"test-fraction",
                     Type::kNumber,
                     "0.2",
                     "where there is no x_test: share of the samples that is the test set, drawn "
                     "by seed, of each client apart",
                     {.low = 0, .high = 1, .open_low = true, .open_high = true}}},
        .takes_argument = true};
  }

  Dataset read() const override {
    const std::string path = find_path(job_, "npz", file_);
    NumpyArrays arrays = read_numpy(path, {"x", "y", "x_test", "y_test", "client"});
    const auto has = [&](const char* name) { return arrays.contains(name); };
    FL_CHECK(has("x") && has("y"), path, ": has no array ", has("x") ? "y" : "x",
             " (x and y are needed)");
    FL_CHECK(has("x_test") == has("y_test"), path, ": has ", has("x_test") ? "x_test" : "y_test",
             ", but no ", has("x_test") ? "y_test" : "x_test", " (both are needed, or neither)");
    for (const char* name : {"x", "x_test", "y", "y_test", "client"}) {
      if (!has(name)) continue;
      const char* with = name[1] == '\0' || name[0] == 'c' ? "x" : "x_test";
      FL_CHECK(arrays[name].dim() >= 1 && arrays[with].dim() >= 1 &&
                   arrays[name].size(0) == arrays[with].size(0) && arrays[name].numel() > 0,
               path, ": ", name, " is ", shape_text(arrays[name].sizes()), ", while ", with, " is ",
               shape_text(arrays[with].sizes()), " (must have as many rows, at least one)");
    }
    FL_CHECK(arrays["x"].dim() > 1, path, ": x is ", shape_text(arrays["x"].sizes()),
             " (must be n x features; x[:, None] makes that of one number a sample)");
    const std::vector<int64_t> clients =
        has("client") ? client_codes(path, arrays["client"]) : std::vector<int64_t>{};
    Dataset data;
    data.owner = clients;
    if (!has("x_test")) split(path, arrays, data.owner);
    const bool bytes = arrays["x"].scalar_type() == torch::kUInt8 &&
                       arrays["x_test"].scalar_type() == torch::kUInt8;
    FL_CHECK(bytes || (arrays["x"].scalar_type() != torch::kUInt8 &&
                       arrays["x_test"].scalar_type() != torch::kUInt8),
             path,
             ": only one of x and x_test is of bytes (their numbers would mean different "
             "things; store both in the same type)");
    const auto inputs = [&](const std::string& name) {
      const torch::Tensor x = bytes ? arrays[name] : arrays[name].to(torch::kFloat32);
      FL_CHECK(bytes || torch::isfinite(x).all().item<bool>(), path, ": ", name,
               " holds NaN, infinity or numbers that do not fit float32");
      return x;
    };
    data.train.inputs = inputs("x");
    data.test.inputs = inputs("x_test");
    if (bytes && job_.get<bool>("npz.unit")) data.scale = 1.0 / 255;
    if (job_.get<bool>("npz.regression")) {
      set_values(path, arrays, data);
    } else {
      set_classes(path, arrays, data);
    }
    return data;
  }

 private:
  // A client's number in ascending order.
  static std::vector<int64_t> client_codes(const std::string& path, const torch::Tensor& array) {
    FL_CHECK(array.dim() == 1 && !array.is_floating_point(), path, ": client is ",
             shape_text(array.sizes()), " of ", array.scalar_type(),
             " (must be one whole number a row of x)");
    const torch::Tensor whole = array.to(torch::kInt64).contiguous();
    const std::span<const int64_t> given(whole.data_ptr<int64_t>(),
                                         static_cast<size_t>(whole.numel()));
    std::vector<int64_t> known(given.begin(), given.end());
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());
    std::vector<int64_t> codes;
    for (const int64_t client : given)
      codes.push_back(std::lower_bound(known.begin(), known.end(), client) - known.begin());
    return codes;
  }

  // Sets a part of x and y aside as x_test and y_test; `owner` keeps that of what remains.
  void split(const std::string& path, NumpyArrays& arrays, std::vector<int64_t>& owner) const {
    const std::vector<bool> is_test = draw_test_samples(
        job_, path, arrays["x"].size(0), job_.get<double>("npz.test-fraction"), owner);
    std::vector<int64_t> part[2], kept;
    for (size_t i = 0; i < is_test.size(); ++i) {
      part[is_test[i] ? 1 : 0].push_back(static_cast<int64_t>(i));
      if (!is_test[i] && !owner.empty()) kept.push_back(owner[i]);
    }
    owner = kept;
    const torch::Tensor train = torch::tensor(part[0]), test = torch::tensor(part[1]);
    for (const std::string name : {"x", "y"}) {
      arrays[name + "_test"] = arrays[name].index_select(0, test);
      arrays[name] = arrays[name].index_select(0, train);
    }
  }

  // y as whole numbers, which a float array may hold too.
  static torch::Tensor whole_labels(const std::string& path, const std::string& name,
                                    torch::Tensor y) {
    if (y.dim() == 2 && y.size(1) == 1) y = y.squeeze(1);
    FL_CHECK(y.dim() <= 2, path, ": ", name, " is ", shape_text(y.sizes()),
             " (must be n, or n x T for sequences)");
    if (y.is_floating_point()) {
      y = y.to(torch::kFloat64);
      FL_CHECK(torch::logical_and(y == y.round(), y.abs() < 1e15).all().item<bool>(), path, ": ",
               name, " holds other than whole numbers (npz.regression is for those)");
    }
    return y.to(torch::kInt64);
  }

  static void set_classes(const std::string& path, NumpyArrays& arrays, Dataset& data) {
    constexpr int64_t kMostClasses = 1000000;
    data.train.labels = whole_labels(path, "y", arrays["y"]);
    data.test.labels = whole_labels(path, "y_test", arrays["y_test"]);
    for (const Samples* samples : {&data.train, &data.test}) {
      const int64_t largest = samples->labels.max().item<int64_t>();
      FL_CHECK(largest < kMostClasses, path, ": label ", largest,
               " occurs (labels must be 0, 1, ... and less than ", kMostClasses, ")");
      data.classes = std::max(data.classes, largest + 1);
    }
    // A text need not have every character.
    if (data.train.labels.dim() == 2) return;
    std::vector<bool> occurs(static_cast<size_t>(data.classes));
    for (const torch::Tensor& labels : {data.train.labels, data.test.labels}) {
      const torch::Tensor all = labels.contiguous();
      for (int64_t i = 0; i < all.numel(); ++i) {
        const int64_t label = all.data_ptr<int64_t>()[i];
        if (label >= 0) occurs[static_cast<size_t>(label)] = true;  // others are refused later
      }
    }
    const auto missing = std::find(occurs.begin(), occurs.end(), false);
    FL_CHECK(missing == occurs.end(), path, ": label ", missing - occurs.begin(),
             " does not occur, while ", data.classes - 1,
             " does (labels are 0, 1, ... without gaps; numpy.unique(y, return_inverse=True)[1] "
             "makes such)");
  }

  static void set_values(const std::string& path, NumpyArrays& arrays, Dataset& data) {
    for (const char* name : {"y", "y_test"}) {
      torch::Tensor& y = arrays[name];
      y = y.to(torch::kFloat64).contiguous();
      FL_CHECK(y.numel() == y.size(0), path, ": ", name, " is ", shape_text(y.sizes()),
               " (must be one number a row of x)");
      FL_CHECK(torch::isfinite(y).all().item<bool>(), path, ": ", name, " holds NaN or infinity");
      const double* begin = y.data_ptr<double>();
      for (int64_t i = 0; i < y.numel(); ++i) data.values.push_back(begin[i] + 0.0);
    }
    std::sort(data.values.begin(), data.values.end());
    data.values.erase(std::unique(data.values.begin(), data.values.end()), data.values.end());
    data.classes = std::ssize(data.values);
    const auto places = [&](const torch::Tensor& y) {
      std::vector<int64_t> labels;
      for (int64_t i = 0; i < y.numel(); ++i) {
        labels.push_back(
            std::lower_bound(data.values.begin(), data.values.end(), y.data_ptr<double>()[i]) -
            data.values.begin());
      }
      return to_tensor(std::move(labels), {y.numel()});
    };
    data.train.labels = places(arrays["y"]);
    data.test.labels = places(arrays["y_test"]);
  }

  Job job_;
  std::string file_;
};

FL_REGISTER(DatasetSource, "npz", Npz);

}  // namespace
}  // namespace fl_sim
