// MNIST, Fashion-MNIST and EMNIST from their IDX files.
// LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc.
// IEEE 1998; Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
// learning algorithms", 2017; Cohen, Afshar, Tapson, van Schaik, "EMNIST: an extension of MNIST to
// handwritten letters", 2017.
#include "plugins/datasets/idx.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iomanip>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

// Type codes of the format.
struct IdxType {
  uint8_t code;
  torch::ScalarType type;
  size_t width;  // bytes
};
constexpr IdxType kTypes[] = {{0x08, torch::kUInt8, 1},   {0x09, torch::kInt8, 1},
                              {0x0B, torch::kInt16, 2},   {0x0C, torch::kInt32, 4},
                              {0x0D, torch::kFloat32, 4}, {0x0E, torch::kFloat64, 8}};

std::string hex(const uint8_t* bytes, size_t n) {
  std::ostringstream out;
  out << std::hex << std::setfill('0');
  for (size_t i = 0; i < n; ++i)
    out << (i ? " " : "") << std::setw(2) << static_cast<int>(bytes[i]);
  return out.str();
}

std::string shape_of(const torch::Tensor& array) {
  return message(shape_text(array.sizes()), " of ", array.scalar_type());
}

}  // namespace

torch::Tensor read_idx(const std::string& path) {
  ByteStream in(path);
  uint8_t head[4];
  const size_t found = in.read(head, 4);
  FL_CHECK(found > 0, path, ": is empty (expected an IDX file)", kFetchAgain);
  const auto type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                 [&](const IdxType& t) { return t.code == head[2]; });
  FL_CHECK(found == 4 && head[0] == 0 && head[1] == 0 && type != std::end(kTypes) && head[3] >= 1 &&
               head[3] <= 8,
           path,
           ": is not an IDX file (expected the bytes 00 00, a type 08, 09 or 0b to 0e and 1 to 8 "
           "dimensions; found ",
           hex(head, found), ")", kFetchAgain);

  std::vector<int64_t> sizes;
  int64_t expected = static_cast<int64_t>(type->width);  // bytes of values
  for (int d = 0; d < head[3]; ++d) {
    uint8_t b[4];
    FL_CHECK(in.read(b, 4) == 4, path, ": ends inside its header (expected ", int{head[3]},
             " sizes of 4 bytes)", kFetchAgain);
    const uint32_t size = uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
    FL_CHECK(size >= 1 && size <= INT32_MAX, path, ": dimension ", d, " has size ",
             static_cast<int32_t>(size), " (must be 1 to 2147483647)", kFetchAgain);
    FL_CHECK(expected <= INT64_MAX / size, path, ": its header claims more than 2^63 bytes",
             kFetchAgain);
    sizes.push_back(size);
    expected *= size;
  }

  std::vector<uint8_t> values;
  while (static_cast<int64_t>(values.size()) < expected) {
    const size_t begin = values.size();
    const size_t part =
        static_cast<size_t>(std::min<int64_t>(expected - static_cast<int64_t>(begin), 1 << 20));
    values.resize(begin + part);
    const size_t got = in.read(values.data() + begin, part);
    FL_CHECK(got == part, path, ": ", expected, " bytes were expected behind its header, ",
             begin + got, " were found (truncated?)", kFetchAgain);
  }
  uint8_t more;
  FL_CHECK(in.read(&more, 1) == 0, path, ": ", expected,
           " bytes were expected behind its header, more were found", kFetchAgain);

  if (std::endian::native == std::endian::little && type->width > 1) {
    for (auto at = values.begin(); at != values.end();
         at += static_cast<std::ptrdiff_t>(type->width)) {
      std::reverse(at, at + static_cast<std::ptrdiff_t>(type->width));
    }
  }
  if (type->type == torch::kUInt8) return to_tensor(std::move(values), sizes);
  torch::Tensor array = torch::empty(sizes, type->type);
  std::memcpy(array.data_ptr(), values.data(), values.size());
  return array;
}

Samples read_idx_samples(const std::string& images, const std::string& labels, int64_t classes,
                         int64_t first) {
  const torch::Tensor pixels = read_idx(images);
  const torch::Tensor marks = read_idx(labels);
  FL_CHECK(!(pixels.dim() == 1 && marks.dim() == 3), images, " holds labels and ", labels,
           " holds images (the two files are swapped; rename them)");
  FL_CHECK(pixels.dim() == 3 && pixels.scalar_type() == torch::kUInt8, images, ": ",
           shape_of(pixels),
           " was found (images are expected, 3 dimensions of unsigned bytes: magic 0x00000803)");
  FL_CHECK(marks.dim() == 1 && marks.scalar_type() == torch::kUInt8, labels, ": ", shape_of(marks),
           " was found (labels are expected, 1 dimension of unsigned bytes: magic 0x00000801)");
  FL_CHECK(pixels.size(0) == marks.size(0), labels, ": holds ", marks.size(0), " labels, but ",
           images, " holds ", pixels.size(0),
           " images (they must be as many; are they of one set?)");
  const uint8_t* begin = marks.data_ptr<uint8_t>();
  const uint8_t* bad = std::find_if(begin, begin + marks.numel(), [&](uint8_t mark) {
    return mark < first || mark >= first + classes;
  });
  FL_CHECK(bad == begin + marks.numel(), labels, ": label ", int{*bad}, " at position ",
           bad - begin, " (must be ", first, " to ", first + classes - 1, ")");
  return {pixels.unsqueeze(1), marks.to(torch::kInt64) - first};
}

namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kDigits = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};

// Images of 28 x 28 in four files: PREFIXtrain-images-idx3-ubyte and its like.
struct IdxSet {
  std::string name;
  std::string train_prefix, test_prefix;  // "train", "t10k"
  std::vector<std::string> class_names;   // one a class
  int64_t first_label = 0;
  bool transposed = false;                // images are stored column by column
  std::vector<std::string> folders = {};  // beside `name`, where they are looked for
};

Samples read_part(const IdxSet& set, const fs::path& folder, const std::string& prefix) {
  const std::string images = prefix + "-images-idx3-ubyte", labels = prefix + "-labels-idx1-ubyte";
  for (const std::string& file : {images, labels}) {
    FL_CHECK(!find_file(folder, file).empty(), (folder / file).string(),
             "[.gz] is missing beside the other files of its set (all four are needed)");
  }
  const std::string path = find_file(folder, images);
  Samples samples = read_idx_samples(path, find_file(folder, labels), std::ssize(set.class_names),
                                     set.first_label);
  FL_CHECK(samples.inputs.size(2) == 28 && samples.inputs.size(3) == 28, path, ": images are ",
           samples.inputs.size(2), " x ", samples.inputs.size(3), " (expected 28 x 28)");
  if (set.transposed) samples.inputs = samples.inputs.transpose(2, 3).contiguous();
  return samples;
}

// Mean and standard deviation of all training pixels, from exact integer sums.
void standardise(Dataset& data, const fs::path& folder) {
  const uint8_t* pixel = data.train.inputs.data_ptr<uint8_t>();
  const int64_t n = data.train.inputs.numel();
  int64_t sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += pixel[i];
    squares += int64_t{pixel[i]} * pixel[i];
  }
  const double mean = static_cast<double>(sum) / static_cast<double>(n);
  const double variance = static_cast<double>(squares) / static_cast<double>(n) - mean * mean;
  FL_CHECK(variance > 0, folder.string(), ": all training pixels are ", mean,
           ", so they cannot be standardised (choose normalize = unit)");
  data.scale = 1 / std::sqrt(variance);
  data.shift = -mean / std::sqrt(variance);
}

Dataset read_set(const Job& job, const IdxSet& set, const std::string& advice) {
  std::vector<std::string> names = {set.name}, files;
  names.insert(names.end(), set.folders.begin(), set.folders.end());
  for (const char* kind : {"-images-idx3-ubyte", "-labels-idx1-ubyte"})
    files.push_back(set.train_prefix + kind);
  const fs::path folder = find_set(job, names, files, advice, true);
  Dataset data;
  data.classes = std::ssize(set.class_names);
  data.class_names = set.class_names;
  data.train = read_part(set, folder, set.train_prefix);
  data.test = read_part(set, folder, set.test_prefix);
  data.scale = 1.0 / 255;
  if (job.get<std::string>(set.name + ".normalize") == "standard") standardise(data, folder);
  return data;
}

Option normalize_option() {
  return {.name = "normalize",
          .default_value = "unit",
          .meaning =
              "unit: inputs in [0, 1]; standard: minus the training set's mean, over its deviation",
          .choices = {"unit", "standard"}};
}

class Mnist final : public DatasetSource {
 public:
  explicit Mnist(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "handwritten digits, 60,000 + 10,000 images of 28 x 28",
        .source =
            "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document "
            "recognition, Proc. IEEE 1998",
        .rule =
            "Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, from DIR/mnist or "
            "DIR, where DIR is data-dir, else $FL_SIM_DATA; else from /usr/share/datasets/mnist.",
        .options = {normalize_option()}};
  }

  Dataset read() const override {
    return read_set(job_, {"mnist", "train", "t10k", kDigits},
                    "fetch them with scripts/get_data mnist, or give the folder that holds MNIST's "
                    "four IDX files with --data-dir");
  }

 private:
  Job job_;
};

class FashionMnist final : public DatasetSource {
 public:
  explicit FashionMnist(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {.summary = "articles of clothing, 60,000 + 10,000 images of 28 x 28",
            .source =
                "Xiao, Rasul, Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking "
                "machine learning algorithms, 2017",
            .rule =
                "Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, from "
                "DIR/fashion-mnist or DIR, where DIR is data-dir, else $FL_SIM_DATA; else from "
                "/usr/share/datasets/fashion-mnist (Debian package dataset-fashion-mnist).",
            .options = {normalize_option()}};
  }

  Dataset read() const override {
    return read_set(job_,
                    {"fashion-mnist",
                     "train",
                     "t10k",
                     {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                      "Sneaker", "Bag", "Ankle boot"}},
                    "apt install dataset-fashion-mnist, or scripts/get_data fashion-mnist, or give "
                    "their folder with --data-dir");
  }

 private:
  Job job_;
};

// A string's characters, each a name.
std::vector<std::string> letters(const std::string& text) {
  std::vector<std::string> names;
  for (const char c : text) names.emplace_back(1, c);
  return names;
}

class Emnist final : public DatasetSource {
 public:
  explicit Emnist(const Setup& setup) : job_(setup.job) {}

  static PluginInfo describe() {
    return {
        .summary = "handwritten digits and letters, 28 x 28, in six splits of 10 to 62 classes",
        .source =
            "Cohen, Afshar, Tapson, van Schaik, EMNIST: an extension of MNIST to handwritten "
            "letters, 2017",
        .rule =
            "Reads emnist-SPLIT-{train,test}-{images-idx3,labels-idx1}-ubyte, plain or .gz, from "
            "DIR/emnist, DIR/emnist/gzip or DIR, where DIR is data-dir, else $FL_SIM_DATA. The "
            "files hold images column by column; here they stand upright. The letters split's "
            "labels 1 to 26 become 0 to 25.",
        .options = {{.name = "split",
                     .default_value = "balanced",
                     .meaning = "byclass (62 classes), bymerge and balanced (47: 15 letters look "
                                "alike in both cases), letters (26), digits, mnist (10)",
                     .choices = {"byclass", "bymerge", "balanced", "letters", "digits", "mnist"}},
                    normalize_option()}};
  }

  Dataset read() const override {
    const auto split = job_.get<std::string>("emnist.split");
    const std::string digits = "0123456789", upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const std::string names = split == "byclass"   ? digits + upper + "abcdefghijklmnopqrstuvwxyz"
                              : split == "letters" ? upper
                              : split == "digits" || split == "mnist"
                                  ? digits
                                  : digits + upper + "abdefghnqrt";
    return read_set(job_,
                    {"emnist",
                     "emnist-" + split + "-train",
                     "emnist-" + split + "-test",
                     letters(names),
                     split == "letters" ? 1 : 0,
                     true,
                     {"emnist/gzip"}},
                    "fetch them with scripts/get_data emnist, or give the folder that holds the "
                    "split's four IDX files with --data-dir");
  }

 private:
  Job job_;
};

FL_REGISTER(DatasetSource, "mnist", Mnist);
FL_REGISTER(DatasetSource, "fashion-mnist", FashionMnist);
FL_REGISTER(DatasetSource, "emnist", Emnist);

}  // namespace
}  // namespace fl_sim
