// The federated data sets of TensorFlow Federated and FedML, as HDF5 files with a group
// /examples/CLIENT for each client.
// Caldas et al., "LEAF: a benchmark for federated settings", 2018 (EMNIST by writer, Shakespeare);
// Reddi et al., "Adaptive federated optimization", ICLR 2021, appendix C (CIFAR-100 by a Pachinko
// allocation, 100 images a client; 80-character windows of Shakespeare).
//
// HDF5 1.10 crashes over some damaged files, so each is read by a child process first: twice the
// time, and a message instead of a crash.
#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "plugins/datasets/files.h"
#include "plugins/datasets/pixels.h"
#include "plugins/datasets/text.h"

namespace fl_sim {
namespace {

namespace fs = std::filesystem;

// The files of the two parts: PREFIX_train.h5 and PREFIX_test.h5.
std::pair<std::string, std::string> find_files(const Job& job, const std::string& name,
                                               const std::string& prefix,
                                               const std::string& source = {}) {
  const std::string train = prefix + "_train.h5", test = prefix + "_test.h5";
  const fs::path folder =
      find_set(job, {name, prefix}, {train, test},
               message(source.empty() ? message("fetch it with scripts/get_data ", name) : source,
                       ", or give its folder with --data-dir"));
  for (const std::string& file : {train, test}) {
    std::error_code none;
    FL_CHECK(fs::exists(folder / file, none), (folder / file).string(),
             " is missing beside the other file of its set (both are needed)");
  }
  return {folder / train, folder / test};
}

// One file's clients, in the order of their names.
class Clients {
 public:
  explicit Clients(const std::string& path) : path_(path), file_(Hdf5File::open(path)) {
    FL_CHECK(file_.has("/examples"), path,
             ": has no group /examples (expected "
             "/examples/CLIENT/..., as TensorFlow Federated writes it)");
    names_ = file_.names("/examples");
    FL_CHECK(!names_.empty(), path, ": there are no clients in /examples");
  }

  const std::vector<std::string>& names() const { return names_; }
  const Hdf5File& file() const { return file_; }
  std::string at(const std::string& client, const std::string& data) const {
    return "/examples/" + client + "/" + data;
  }
  std::string where(const std::string& inside) const { return message(path_, ", ", inside); }

  // A client's labels: [n] or [n, 1], in [0, classes).
  std::vector<int64_t> labels(const std::string& client, const std::string& data, int64_t classes,
                              int64_t n) const {
    const std::string inside = at(client, data);
    std::vector<int64_t> labels = file_.read_integers(inside);
    FL_CHECK(std::ssize(labels) == n, where(inside), ": holds ", labels.size(), " labels for ", n,
             " samples (must be as many)");
    for (const int64_t label : labels) {
      FL_CHECK(label >= 0 && label < classes, where(inside), ": label ", label, " (must be 0 to ",
               classes - 1, ")");
    }
    return labels;
  }

  // The number of samples in a client's array of `shape` each; 0 is allowed.
  int64_t samples(const std::string& inside, const std::vector<int64_t>& shape) const {
    std::vector<int64_t> expected = shape, found = file_.shape(inside);
    FL_CHECK(!found.empty(), where(inside), ": is a single number (expected an array)");
    const int64_t n = found.front();
    expected.insert(expected.begin(), n);
    FL_CHECK(found == expected, where(inside), ": is ", shape_text(found), " (expected n x ",
             shape_text(shape), ")");
    return n;
  }

 private:
  std::string path_;
  Hdf5File file_;
  std::vector<std::string> names_;
};

void append(std::vector<int64_t>& to, const std::vector<int64_t>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

torch::Tensor label_tensor(std::vector<int64_t> labels) {
  const int64_t n = std::ssize(labels);
  return to_tensor(std::move(labels), {n});
}

class FedEmnist final : public DatasetSource {
 public:
  explicit FedEmnist(const Setup& setup)
      : job_(setup.job), digits_(setup.job.get<bool>("fed-emnist.digits")) {}

  static PluginInfo describe() {
    return {.summary = "handwritten characters by writer: 62 classes, 3,400 clients, 28 x 28",
            .source =
                "Caldas et al., LEAF: a benchmark for federated settings, 2018; TensorFlow "
                "Federated's copy of it",
            .rule =
                "Reads fed_emnist_{train,test}.h5 (/examples/WRITER/{pixels,label}) from "
                "DIR/fed-emnist, DIR/fed_emnist or DIR, where DIR is data-dir, else $FL_SIM_DATA. "
                "Pixels as stored: 1 is the background. Labels: digits, A to Z, a to z. Natural "
                "clients: the writers, in the order of their names.",
            .options = {{"digits", Option::Type::kFlag, "false",
                         "only digits, 10 classes: fed_emnist_digitsonly_{train,test}.h5"}}};
  }

  Dataset read() const override {
    const auto [its_train, its_test] =
        digits_
            ? find_files(job_, "fed-emnist", "fed_emnist_digitsonly",
                         "write it with TensorFlow Federated's emnist.load_data(only_digits=True)")
            : find_files(job_, "fed-emnist", "fed_emnist");
    const std::string &train = its_train, &test = its_test;  // which lambdas may have
    Dataset data;
    Owners owners;
    const std::string names = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    data.classes = digits_ ? 10 : 62;
    for (int64_t c = 0; c < data.classes; ++c)
      data.class_names.emplace_back(1, names[static_cast<size_t>(c)]);
    Pixels pixels[2];
    survive(train, [&] { read_part(train, pixels[0], owners, data, true); });
    survive(test, [&] { read_part(test, pixels[1], owners, data, false); });
    data.train.labels = read_part(train, pixels[0], owners, data, true);
    data.test.labels = read_part(test, pixels[1], owners, data, false);
    set_inputs(data, pixels[0], file_order(data.train.size()), pixels[1],
               file_order(data.test.size()), {1, 28, 28});
    return data;
  }

 private:
  static torch::Tensor read_part(const std::string& path, Pixels& pixels, Owners& owners,
                                 Dataset& data, bool train) {
    const Clients clients(path);
    std::vector<int64_t> labels;
    for (const std::string& client : clients.names()) {
      const std::string inside = clients.at(client, "pixels");
      const int64_t n = clients.samples(inside, {28, 28});
      pixels.append(clients.file().read_floats(inside), clients.where(inside));
      append(labels, clients.labels(client, "label", data.classes, n));
      owners.add(client, n, data, train);
    }
    return label_tensor(std::move(labels));
  }

  Job job_;
  bool digits_;
};

class FedCifar100 final : public DatasetSource {
 public:
  explicit FedCifar100(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "CIFAR-100 dealt to 500 clients of 100 images each",
        .source =
            "Reddi et al., Adaptive federated optimization, ICLR 2021, appendix C; "
            "TensorFlow Federated's files",
        .rule =
            "Reads fed_cifar100_{train,test}.h5 (/examples/CLIENT/{image,label,coarse_label}) from "
            "DIR/fed-cifar100, DIR/fed_cifar100 or DIR, where DIR is data-dir, else $FL_SIM_DATA. "
            "Inputs are 3 x 32 x 32 in [0, 1]. Natural clients: the 500 training clients, in the "
            "order of their names; the test set is that of all 100 test clients."};
  }

  Dataset read() const override {
    const auto [its_train, its_test] = find_files(job_, "fed-cifar100", "fed_cifar100");
    const std::string &train = its_train, &test = its_test;  // which lambdas may have
    Dataset data;
    data.classes = 100;
    data.scale = 1.0 / 255;
    survive(train, [&] { read_part(train, data, true); });
    survive(test, [&] { read_part(test, data, false); });
    data.train = read_part(train, data, true);
    data.test = read_part(test, data, false);
    // Partitioners want coarse classes without gaps, which a part of the set may have.
    std::vector<bool> seen(20);
    for (const int64_t coarse : data.coarse) seen[static_cast<size_t>(coarse)] = true;
    if (!std::all_of(seen.begin(), seen.end(), [](bool s) { return s; })) data.coarse.clear();
    return data;
  }

 private:
  static Samples read_part(const std::string& path, Dataset& data, bool train) {
    constexpr int64_t kPlane = 32 * 32;
    const Clients clients(path);
    Owners owners;  // of the training set alone: the test set's clients are others
    std::vector<uint8_t> pixels;
    std::vector<int64_t> labels;
    for (const std::string& client : clients.names()) {
      const std::string inside = clients.at(client, "image");
      const int64_t n = clients.samples(inside, {32, 32, 3});
      const std::vector<int64_t> image = clients.file().read_integers(inside);
      const size_t begin = pixels.size();
      pixels.resize(begin + image.size());
      for (int64_t i = 0; i < n; ++i) {  // row, column, channel -> channel, row, column
        for (int64_t p = 0; p < kPlane; ++p) {
          for (int64_t c = 0; c < 3; ++c) {
            const int64_t value = image[static_cast<size_t>((i * kPlane + p) * 3 + c)];
            FL_CHECK(value >= 0 && value <= 255, clients.where(inside), ": a pixel is ", value,
                     " (must be 0 to 255)");
            pixels[begin + static_cast<size_t>((i * 3 + c) * kPlane + p)] =
                static_cast<uint8_t>(value);
          }
        }
      }
      append(labels, clients.labels(client, "label", data.classes, n));
      if (!train) continue;
      owners.add(client, n, data);
      if (clients.file().has(clients.at(client, "coarse_label")))
        append(data.coarse, clients.labels(client, "coarse_label", 20, n));
    }
    FL_CHECK(!train || data.coarse.empty() || data.coarse.size() == labels.size(), path,
             ": only some clients have a coarse_label (must be all or none)");
    const int64_t n = std::ssize(labels);
    return {to_tensor(std::move(pixels), {n, 3, 32, 32}), label_tensor(std::move(labels))};
  }

  Job job_;
};

class FedShakespeare final : public DatasetSource {
 public:
  explicit FedShakespeare(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "the next character in Shakespeare's plays: 715 speaking roles as clients",
        .source =
            "McMahan et al., Communication-efficient learning of deep networks from "
            "decentralized data, AISTATS 2017; Caldas et al., LEAF, 2018; TensorFlow "
            "Federated's files",
        .rule =
            "Reads shakespeare_{train,test}.h5 (/examples/ROLE/snippets) from "
            "DIR/fed-shakespeare, DIR/shakespeare or DIR, where DIR is data-dir, else "
            "$FL_SIM_DATA. A snippet becomes <bos>, its characters, <eos>, padding, cut into runs "
            "of 81: the first 80 are the inputs, the last 80 the labels, padding is not predicted. "
            "90 classes: padding, 86 characters, <bos>, <eos>, <oov>, as in FedML. Natural "
            "clients: the roles, in the order of their names."};
  }

  Dataset read() const override {
    const auto [its_train, its_test] = find_files(job_, "fed-shakespeare", "shakespeare");
    const std::string &train = its_train, &test = its_test;  // which lambdas may have
    Dataset data;
    Owners owners;
    data.classes = tff_text::kVocabulary;
    data.class_names = tff_text::names();
    survive(train, [&] { read_part(train, owners, data, true); });
    survive(test, [&] { read_part(test, owners, data, false); });
    data.train = read_part(train, owners, data, true);
    data.test = read_part(test, owners, data, false);
    return data;
  }

 private:
  static Samples read_part(const std::string& path, Owners& owners, Dataset& data, bool train) {
    constexpr int64_t kLength = tff_text::kLength, kWindow = kLength + 1;
    const Clients clients(path);
    std::vector<uint8_t> windows;
    for (const std::string& client : clients.names()) {
      const int64_t before = std::ssize(windows);
      for (const std::string& snippet : clients.file().read_texts(clients.at(client, "snippets")))
        tff_text::append_windows(snippet, windows);
      owners.add(client, (std::ssize(windows) - before) / kWindow, data, train);
    }
    const int64_t n = std::ssize(windows) / kWindow;
    FL_CHECK(n > 0, path, ": there is no text in it");
    Samples out{torch::empty({n, kLength}, torch::kUInt8),
                torch::empty({n, kLength}, torch::kInt64)};
    uint8_t* x = out.inputs.data_ptr<uint8_t>();
    int64_t* y = out.labels.data_ptr<int64_t>();
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* window = windows.data() + i * kWindow;
      std::copy_n(window, kLength, x + i * kLength);
      for (int64_t t = 0; t < kLength; ++t) {
        const uint8_t next = window[t + 1];
        y[i * kLength + t] = next == tff_text::kPad ? Samples::kIgnored : int64_t{next};
      }
    }
    return out;
  }

  Job job_;
};

FL_REGISTER(DatasetSource, "fed-emnist", FedEmnist);
FL_REGISTER(DatasetSource, "fed-cifar100", FedCifar100);
FL_REGISTER(DatasetSource, "fed-shakespeare", FedShakespeare);

}  // namespace
}  // namespace fl_sim
