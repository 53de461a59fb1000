// CIFAR-10 and CIFAR-100: small colour images of 10 and of 100 things.
// Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
#include "plugins/datasets/cifar.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {

CifarRecords read_cifar(const std::vector<std::string>& paths, const CifarLayout& layout) {
  constexpr int64_t kPixels = 3 * 32 * 32, kPart = 512;  // records at a time
  const int64_t label_bytes = layout.coarse_classes > 0 ? 2 : 1;
  const int64_t record = label_bytes + kPixels;
  CifarRecords out;
  std::vector<uint8_t> pixels, buffer(static_cast<size_t>(kPart * record));
  std::vector<int64_t> labels;
  for (const std::string& path : paths) {
    ByteStream in(path);
    const int64_t expected = layout.records * record;
    // Grows by what is there; the vector's doubling would copy a set of this size needlessly.
    std::error_code none;
    if (static_cast<int64_t>(std::filesystem::file_size(path, none)) == expected)
      pixels.reserve(paths.size() * static_cast<size_t>(layout.records * kPixels));
    for (int64_t done = 0; done < layout.records;) {
      const int64_t part = std::min(kPart, layout.records - done);
      const auto wanted = static_cast<size_t>(part * record);
      const size_t got = in.read(buffer.data(), wanted);
      FL_CHECK(got == wanted, path, ": ", expected, " bytes were expected (", layout.records,
               " records of ", record, "), ", done * record + static_cast<int64_t>(got),
               " were found (truncated?)", kFetchAgain);
      for (int64_t i = 0; i < part; ++i) {
        const uint8_t* at = buffer.data() + i * record;
        if (label_bytes == 2) {
          FL_CHECK(at[0] < layout.coarse_classes, path, ": record ", done + i, " has coarse label ",
                   int{at[0]}, " (must be 0 to ", layout.coarse_classes - 1, ")");
          out.coarse.push_back(at[0]);
        }
        const uint8_t label = at[label_bytes - 1];
        FL_CHECK(label < layout.classes, path, ": record ", done + i, " has label ", int{label},
                 " (must be 0 to ", layout.classes - 1, ")");
        labels.push_back(label);
        pixels.insert(pixels.end(), at + label_bytes, at + record);
      }
      done += part;
    }
    uint8_t more;
    FL_CHECK(in.read(&more, 1) == 0, path, ": ", expected, " bytes were expected (", layout.records,
             " records of ", record, "), more were found (is it the binary version of the set?)");
  }
  const int64_t n = std::ssize(labels);
  out.samples = {to_tensor(std::move(pixels), {n, 3, 32, 32}), to_tensor(std::move(labels), {n})};
  return out;
}

namespace {

namespace fs = std::filesystem;

Option channel_option() {
  return {.name = "normalize",
          .default_value = "unit",
          .meaning =
              "unit: inputs in [0, 1]; standard: each channel minus the training set's "
              "mean, over its deviation (as float32, four times the memory)",
          .choices = {"unit", "standard"}};
}

// Each channel with mean and deviation of the training set, from exact integer sums.
void standardise(Dataset& data) {
  constexpr int64_t kPlane = 32 * 32;
  const int64_t n = data.train.size();
  const uint8_t* pixel = data.train.inputs.data_ptr<uint8_t>();
  double mean[3], deviation[3];
  for (int64_t channel = 0; channel < 3; ++channel) {
    int64_t sum = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* plane = pixel + (i * 3 + channel) * kPlane;
      for (int64_t p = 0; p < kPlane; ++p) {
        sum += plane[p];
        squares += int64_t{plane[p]} * plane[p];
      }
    }
    const double count = static_cast<double>(n * kPlane);
    mean[channel] = static_cast<double>(sum) / count;
    const double variance = static_cast<double>(squares) / count - mean[channel] * mean[channel];
    FL_CHECK(variance > 0, "all training pixels of channel ", channel, " are ", mean[channel],
             ", so they cannot be standardised (choose normalize = unit)");
    deviation[channel] = std::sqrt(variance);
  }
  for (Samples* samples : {&data.train, &data.test}) {
    torch::Tensor inputs = torch::empty(samples->inputs.sizes(), torch::kFloat32);
    float* to = inputs.data_ptr<float>();
    const uint8_t* from = samples->inputs.data_ptr<uint8_t>();
    for (int64_t i = 0; i < 3 * samples->size(); ++i) {
      const double m = mean[i % 3], scale = 1 / deviation[i % 3];
      for (int64_t p = i * kPlane; p < (i + 1) * kPlane; ++p)
        to[p] = static_cast<float>((from[p] - m) * scale);
    }
    samples->inputs = inputs;
  }
}

// The files' paths; all must be there.
std::vector<std::string> paths_of(const fs::path& folder, const std::vector<std::string>& files) {
  std::vector<std::string> paths;
  for (const std::string& file : files) {
    const fs::path path = find_file(folder, file);
    FL_CHECK(!path.empty(), (folder / file).string(),
             " is missing beside the other files of its set");
    paths.push_back(path);
  }
  return paths;
}

// The lines of a file of names; none if there is no such file.
std::vector<std::string> read_names(const fs::path& path, int64_t expected) {
  std::vector<std::string> names;
  std::error_code none;
  if (!fs::exists(path, none)) return names;
  LineReader in(path);
  for (std::string line; in.next(line);) {
    if (!trimmed(line).empty()) names.emplace_back(trimmed(line));
  }
  FL_CHECK(std::ssize(names) == expected, path.string(), ": ", names.size(),
           " names were found (expected ", expected, ")");
  return names;
}

class Cifar10 final : public DatasetSource {
 public:
  explicit Cifar10(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {.summary = "colour images of 10 things, 50,000 + 10,000 of 3 x 32 x 32",
            .source = "Krizhevsky, Learning multiple layers of features from tiny images, 2009",
            .rule =
                "Reads data_batch_{1,...,5}.bin and test_batch.bin (the binary version) from "
                "DIR/cifar-10-batches-bin, DIR/cifar10 or DIR, where DIR is data-dir, else "
                "$FL_SIM_DATA.",
            .options = {channel_option()}};
  }

  Dataset read() const override {
    const fs::path folder = find_set(
        job_, {"cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"},
        {"data_batch_1.bin", "test_batch.bin"},
        "fetch it with scripts/get_data cifar10, or give its folder with --data-dir", true);
    const CifarLayout layout{10000, 10, 0};
    Dataset data;
    data.classes = 10;
    data.class_names = {"airplane", "automobile", "bird",  "cat",  "deer",
                        "dog",      "frog",       "horse", "ship", "truck"};
    data.train =
        read_cifar(paths_of(folder, {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                     "data_batch_4.bin", "data_batch_5.bin"}),
                   layout)
            .samples;
    data.test = read_cifar(paths_of(folder, {"test_batch.bin"}), layout).samples;
    data.scale = 1.0 / 255;
    if (job_.get<std::string>("cifar10.normalize") == "standard") {
      data.scale = 1;
      standardise(data);
    }
    return data;
  }

 private:
  Job job_;
};

class Cifar100 final : public DatasetSource {
 public:
  explicit Cifar100(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {.summary = "colour images of 100 things in 20 groups, 50,000 + 10,000 of 3 x 32 x 32",
            .source = "Krizhevsky, Learning multiple layers of features from tiny images, 2009",
            .rule =
                "Reads train.bin and test.bin (the binary version) and, where it is there, "
                "fine_label_names.txt from DIR/cifar-100-binary, DIR/cifar100 or DIR, where DIR is "
                "data-dir, else $FL_SIM_DATA. Labels are the fine ones; the 20 coarse ones are "
                "kept for partitioners.",
            .options = {channel_option()}};
  }

  Dataset read() const override {
    const fs::path folder = find_set(
        job_, {"cifar-100-binary", "cifar100", "cifar100/cifar-100-binary"},
        {"train.bin", "test.bin"},
        "fetch it with scripts/get_data cifar100, or give its folder with --data-dir", true);
    Dataset data;
    data.classes = 100;
    data.class_names = read_names(folder / "fine_label_names.txt", 100);
    CifarRecords train = read_cifar(paths_of(folder, {"train.bin"}), {50000, 100, 20});
    data.train = std::move(train.samples);
    data.coarse = std::move(train.coarse);
    data.test = read_cifar(paths_of(folder, {"test.bin"}), {10000, 100, 20}).samples;
    data.scale = 1.0 / 255;
    if (job_.get<std::string>("cifar100.normalize") == "standard") {
      data.scale = 1;
      standardise(data);
    }
    return data;
  }

 private:
  Job job_;
};

FL_REGISTER(DatasetSource, "cifar10", Cifar10);
FL_REGISTER(DatasetSource, "cifar100", Cifar100);

}  // namespace
}  // namespace fl_sim
