// Arrays from NumPy: an .npz archive, or a folder of .npy files.
#include <algorithm>
#include <utility>

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
            "the natural clients, in ascending order; client_test, whose rows of x_test are. The "
            "names that Keras (x_train, y_train) and "
            "MedMNIST (train_images, train_labels) give are known, too. Bytes stay bytes, "
            "everything else becomes float32. np.savez(FILE, x=x, y=y) writes such a file.",
        .options = {{"regression", Type::kFlag, "false",
                     "y holds numbers to be predicted, not classes"},
                    {"unit", Type::kFlag, "true",
                     "bytes from 0 to 255 stand for 0 to 1, but where the model reads ids"},
                    {"scale",
                     Type::kNumber,
                     "1",
                     "what inputs are multiplied by: 0.00392157 brings pixels from 0 to 255, if "
                     "they are no bytes, to 0 to 1",
                     {.low = 0, .open_low = true}},
                    {.name = "images",
                     .default_value = "auto",
                     .meaning = "x is n x channels x height x width; channels-last: n x height x "
                                "width x channels; no-channel: n x height x width; auto: "
                                "channels-last where they are 1, 3 or 4 and the rest is a square, "
                                "or under others' names, whose n x height x width are images too",
                     .choices = {"auto", "channels-first", "channels-last", "no-channel"}},
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
    Dataset data;
    const Form& form = form_of(path, data);
    NumpyArrays arrays = read_arrays(path, form);
    const auto has = [&](const std::string& role) { return arrays.contains(role); };
    FL_CHECK(has("x_test") == has("y_test"), path, ": has ",
             has("x_test") ? form.x_test : form.y_test, ", but no ",
             has("x_test") ? form.y_test : form.x_test, " (both are needed, or neither)");
    FL_CHECK(!has("client_test") || (has("client") && has("x_test")), path,
             ": has client_test, but no ", has("client") ? form.x_test : "client",
             " (it is the client of each row of ", form.x_test, ", numbered as in client)");
    for (const std::string role : {"x", "x_test", "y", "y_test", "client", "client_test"}) {
      if (!has(role)) continue;
      const char* with = role.ends_with("_test") ? "x_test" : "x";
      FL_CHECK(arrays[role].dim() >= 1 && arrays[with].dim() >= 1 &&
                   arrays[role].size(0) == arrays[with].size(0) && arrays[role].numel() > 0,
               path, ": ", form.name(role), " is ", shape_text(arrays[role].sizes()), ", while ",
               form.name(with), " is ", shape_text(arrays[with].sizes()),
               " (must have as many rows, at least one)");
    }
    FL_CHECK(arrays["x"].dim() > 1, path, ": ", form.x, " is ", shape_text(arrays["x"].sizes()),
             " (must be n x features; x[:, None] makes that of one number a sample)");
    if (has("client")) set_owners(path, arrays, data);
    note_rounding(path, form, arrays["x"], data);
    arrange_images(path, form, arrays, data);
    if (!job_.get<bool>("npz.regression"))
      refuse_indicators(path, form.y, arrays["y"], arrays["x"]);
    if (!has("x_test")) split(path, arrays, data);
    const bool bytes = arrays["x"].scalar_type() == torch::kUInt8 &&
                       arrays["x_test"].scalar_type() == torch::kUInt8;
    FL_CHECK(bytes || (arrays["x"].scalar_type() != torch::kUInt8 &&
                       arrays["x_test"].scalar_type() != torch::kUInt8),
             path, ": only one of ", form.x, " and ", form.x_test,
             " is of bytes (their numbers would mean different "
             "things; store both in the same type)");
    const auto inputs = [&](const char* role) {
      const torch::Tensor x = bytes ? arrays[role] : arrays[role].to(torch::kFloat32);
      FL_CHECK(bytes || torch::isfinite(x).all().item<bool>(), path, ": ", form.name(role),
               " holds NaN, infinity or numbers that do not fit float32");
      return x;
    };
    data.train.inputs = inputs("x");
    data.test.inputs = inputs("x_test");
    data.scale = job_.get<double>("npz.scale");
    if (bytes && job_.get<bool>("npz.unit")) data.scale /= 255;
    data.scaled_by = "npz.scale";
    if (job_.get<bool>("npz.regression")) {
      set_values(path, form, arrays, data);
    } else {
      set_classes(path, form, arrays, data);
    }
    return data;
  }

 private:
  static constexpr const char* kRoles[] = {"x", "y", "x_test", "y_test", "client", "client_test"};

  // What arrays may be called: our names, and others' that many files have.
  struct Form {
    const char *x, *y, *x_test, *y_test;
    bool images_last = false;  // its writers put channels last, or leave out an only one
    std::string name(const std::string& role) const {
      return role == "x"        ? x
             : role == "y"      ? y
             : role == "x_test" ? x_test
             : role == "y_test" ? y_test
                                : role;
    }
  };

  // Of the file. Notes which arrays are not read.
  static const Form& form_of(const std::string& path, Dataset& data) {
    static const Form kForms[] = {
        {"x", "y", "x_test", "y_test"},
        {"x_train", "y_train", "x_test", "y_test", true},  // Keras
        {"X_train", "y_train", "X_test", "y_test", true},
        {"X", "y", "X_test", "y_test"},
        {"train_images", "train_labels", "test_images", "test_labels", true}};  // MedMNIST
    const std::vector<std::string> names = numpy_names(path);
    const auto has = [&](const std::string& name) {
      return std::binary_search(names.begin(), names.end(), name);
    };
    const auto list = [](const std::vector<std::string>& words) {
      constexpr size_t kShown = 12;
      std::string text;
      for (size_t i = 0; i < std::min(kShown, words.size()); ++i)
        text += (i == 0 ? "" : ", ") + words[i];
      return text + (words.size() > kShown ? ", ..." : "");
    };
    for (const Form& form : kForms) {
      if (!has(form.x) || !has(form.y)) continue;
      std::vector<std::string> others;
      for (const std::string& name : names) {
        bool read = false;
        for (const char* role : kRoles) read = read || name == form.name(role);
        if (!read) others.push_back(name);
      }
      if (!others.empty())
        data.notes.push_back(message(path, ": arrays that are not read: ", list(others)));
      return form;
    }
    throw Error(message(path, ": has no array ", has("x") ? "y" : "x",
                        " (x and y are needed, or x_train and y_train, or train_images and "
                        "train_labels; there ",
                        names.empty() ? "is no array at all)" : "are " + list(names) + ")"));
  }

  // By role.
  static NumpyArrays read_arrays(const std::string& path, const Form& form) {
    std::vector<std::string> names;
    for (const std::string role : kRoles) names.push_back(form.name(role));
    NumpyArrays found = read_numpy(path, names), arrays;
    for (const std::string role : kRoles) {
      const auto at = found.find(form.name(role));
      if (at != found.end()) arrays[role] = at->second;
    }
    return arrays;
  }

  // Ids beyond 2^24 would become one another.
  static void note_rounding(const std::string& path, const Form& form, const torch::Tensor& x,
                            Dataset& data) {
    if (x.is_floating_point() || x.scalar_type() == torch::kUInt8) return;
    constexpr int64_t kExact = int64_t{1} << 24;
    const torch::Tensor whole = x.to(torch::kInt64);
    if (whole.max().item<int64_t>() <= kExact && whole.min().item<int64_t>() >= -kExact) return;
    data.notes.push_back(message(path, ": ", form.x,
                                 " holds whole numbers beyond 16777216, which float32 rounds (if "
                                 "they are ids, number them anew)"));
  }

  // Makes images [n, channels, height, width].
  void arrange_images(const std::string& path, const Form& form, NumpyArrays& arrays,
                      Dataset& data) const {
    const auto layout = job_.get<std::string>("npz.images");
    const torch::Tensor& x = arrays["x"];
    const bool bytes = x.scalar_type() == torch::kUInt8;
    bool last = layout == "channels-last", none = layout == "no-channel";
    FL_CHECK(!last || x.dim() == 4, path, ": npz.images is channels-last, but ", form.x, " is ",
             shape_text(x.sizes()), " (must be n x height x width x channels)");
    FL_CHECK(!none || x.dim() == 3, path, ": npz.images is no-channel, but ", form.x, " is ",
             shape_text(x.sizes()), " (must be n x height x width)");
    if (layout == "auto" && x.dim() == 4) {
      // No image has as many channels as it is high, and is 1, 3 or 4 wide.
      const int64_t c = x.size(3);
      last = (c == 1 || c == 3 || c == 4) && x.size(1) > 4 &&
             (form.images_last || x.size(1) == x.size(2));
    }
    if (layout == "auto" && x.dim() == 3)
      none = form.images_last && (bytes || x.size(1) == x.size(2));
    if (!last && !none) return;
    if (layout == "auto") {
      data.notes.push_back(
          message(path, ": ", form.x, ", ", shape_text(x.sizes()), ", is taken as ",
                  last ? "images with their channels last" : "images of one channel",
                  " (npz.images says otherwise)"));
    }
    for (const char* role : {"x", "x_test"}) {
      if (!arrays.contains(role)) continue;
      torch::Tensor& images = arrays[role];
      FL_CHECK(images.dim() == (last ? 4 : 3), path, ": ", form.name(role), " is ",
               shape_text(images.sizes()), ", which has not as many dimensions as ", form.x);
      images = (last ? images.permute({0, 3, 1, 2}) : images.unsqueeze(1)).contiguous();
    }
  }

  // Clients are numbered in ascending order; a test sample of another one is nobody's.
  static void set_owners(const std::string& path, const NumpyArrays& arrays, Dataset& data) {
    const auto whole = [&](const char* role) {
      const auto found = arrays.find(role);
      if (found == arrays.end()) return std::vector<int64_t>{};
      const torch::Tensor& array = found->second;
      FL_CHECK(array.dim() == 1 && !array.is_floating_point(), path, ": ", role, " is ",
               shape_text(array.sizes()), " of ", array.scalar_type(),
               " (must be one whole number a row of x)");
      const torch::Tensor numbers = array.to(torch::kInt64).contiguous();
      return std::vector<int64_t>(numbers.data_ptr<int64_t>(),
                                  numbers.data_ptr<int64_t>() + numbers.numel());
    };
    data.owner = whole("client");
    data.test_owner = whole("client_test");
    std::vector<int64_t> known = data.owner;
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());
    for (std::vector<int64_t>* const owners : {&data.owner, &data.test_owner}) {
      for (int64_t& client : *owners) {
        const auto place = std::lower_bound(known.begin(), known.end(), client);
        client = place != known.end() && *place == client ? place - known.begin() : -1;
      }
    }
  }

  // Sets a part of x and y aside as x_test and y_test, and their owners.
  void split(const std::string& path, NumpyArrays& arrays, Dataset& data) const {
    const std::vector<int64_t> owner = std::exchange(data.owner, {});
    const std::vector<bool> is_test = draw_test_samples(
        job_, path, arrays["x"].size(0), job_.get<double>("npz.test-fraction"), owner);
    std::vector<int64_t> part[2];
    for (size_t i = 0; i < is_test.size(); ++i) {
      part[is_test[i] ? 1 : 0].push_back(static_cast<int64_t>(i));
      if (!owner.empty()) (is_test[i] ? data.test_owner : data.owner).push_back(owner[i]);
    }
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

  // Columns of 0 and 1 instead of labels. Labels of a sequence have as many positions as something
  // in x has.
  static void refuse_indicators(const std::string& path, const std::string& name,
                                const torch::Tensor& y, const torch::Tensor& x) {
    if (y.dim() != 2 || y.size(1) < 2) return;
    const auto sizes = x.sizes().slice(1);
    if (std::find(sizes.begin(), sizes.end(), y.size(1)) != sizes.end()) return;
    const torch::Tensor numbers = y.to(torch::kFloat64);
    if (!torch::logical_or(numbers == 0, numbers == 1).all().item<bool>()) return;
    const bool onehot = (numbers.sum(1) == 1).all().item<bool>();
    throw Error(
        message(path, ": ", name, " is ", shape_text(y.sizes()), " of 0 and 1, ",
                onehot ? "a single 1 in each row: it looks one-hot (numpy.argmax(y, 1) "
                         "makes labels of it)"
                       : "but not a single 1 in each row: it looks like several labels a sample, "
                         "which no objective here is for (keep one column of it)"));
  }

  static void set_classes(const std::string& path, const Form& form, NumpyArrays& arrays,
                          Dataset& data) {
    constexpr int64_t kMostClasses = 1000000, kFewRows = 10;
    data.train.labels = whole_labels(path, form.y, arrays["y"]);
    data.test.labels = whole_labels(path, form.y_test, arrays["y_test"]);
    for (const Samples* samples : {&data.train, &data.test}) {
      const int64_t largest = samples->labels.max().item<int64_t>();
      FL_CHECK(largest < kMostClasses, path, ": label ", largest,
               " occurs (labels must be 0, 1, ... and less than ", kMostClasses, ")");
      data.classes = std::max(data.classes, largest + 1);
      const int64_t smallest = samples->labels.min().item<int64_t>();
      FL_CHECK(
          smallest >= 0 || samples->labels.dim() == 2, path, ": label ", smallest,
          " occurs (labels are 0, 1, ...; numpy.unique(y, return_inverse=True)[1] makes such)");
    }
    // A text need not have every character.
    if (data.train.labels.dim() == 2) return;
    std::vector<bool> trained(static_cast<size_t>(data.classes)), occurs;
    const auto mark = [](const torch::Tensor& labels, std::vector<bool>& at) {
      const torch::Tensor all = labels.contiguous();
      for (int64_t i = 0; i < all.numel(); ++i) {
        const int64_t label = all.data_ptr<int64_t>()[i];
        if (label >= 0) at[static_cast<size_t>(label)] = true;  // others are refused later
      }
    };
    mark(data.train.labels, trained);
    occurs = trained;
    mark(data.test.labels, occurs);
    const auto missing = std::find(occurs.begin(), occurs.end(), false);
    FL_CHECK(missing == occurs.end(), path, ": label ", missing - occurs.begin(),
             " does not occur, while ", data.classes - 1,
             " does (labels are 0, 1, ... without gaps; numpy.unique(y, return_inverse=True)[1] "
             "makes such)");
    const auto strange = std::mismatch(occurs.begin(), occurs.end(), trained.begin()).first;
    if (strange != occurs.end()) {
      data.notes.push_back(message(path, ": label ", strange - occurs.begin(),
                                   " is in no sample to train with, only in such to test with"));
    }
    const int64_t rows = data.train.size() + data.test.size();
    if (rows >= kFewRows && 2 * data.classes > rows) {
      data.notes.push_back(message(path, ": ", form.y, " has ", data.classes,
                                   " different values in ", rows,
                                   " rows, and each is a class (if "
                                   "they are numbers to be predicted: npz.regression = true)"));
    }
  }

  static void set_values(const std::string& path, const Form& form, NumpyArrays& arrays,
                         Dataset& data) {
    for (const char* role : {"y", "y_test"}) {
      const std::string name = form.name(role);
      torch::Tensor& y = arrays[role];
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
