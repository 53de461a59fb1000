// MNIST and Fashion-MNIST from their IDX files.
// LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc.
// IEEE 1998; Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
// learning algorithms", 2017.
#include "datasets/idx.h"

#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iomanip>

#include "check.h"

namespace fl_sim {
namespace {

constexpr const char* kFetchAgain = "; fetch the file again";

// The bytes of a file, decompressed if they are gzip. Not gzread: it stops silently at what follows
// the gzip data.
class ByteStream {
 public:
  explicit ByteStream(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    FL_CHECK(file_ && !std::filesystem::is_directory(path), path,
             ": cannot be opened (is it a readable file?)");
    refill();
    gzip_ = stream_.avail_in >= 2 && buffer_[0] == 0x1f && buffer_[1] == 0x8b;
    if (gzip_)
      FL_CHECK(inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK,
               "zlib cannot start (out of memory?)");
  }
  ~ByteStream() {
    if (gzip_) inflateEnd(&stream_);
  }
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  // Up to n bytes; fewer only where the data end, and then all checksums are right.
  size_t read(uint8_t* to, size_t n) {
    size_t done = 0;
    while (done < n && (stream_.avail_in > 0 || refill())) {
      if (!gzip_) {
        const size_t part = std::min<size_t>(n - done, stream_.avail_in);
        std::memcpy(to + done, stream_.next_in, part);
        stream_.next_in += part;
        stream_.avail_in -= static_cast<uInt>(part);
        done += part;
        continue;
      }
      if (ended_)
        inflateReset(&stream_);  // another member follows, or rubbish, which inflate refuses
      const size_t room = std::min<size_t>(n - done, kChunk);
      stream_.next_out = to + done;
      stream_.avail_out = static_cast<uInt>(room);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      FL_CHECK(status == Z_OK || status == Z_STREAM_END, path_, ": the gzip data are damaged (",
               stream_.msg ? stream_.msg : "unknown error", ")", kFetchAgain);
      ended_ = status == Z_STREAM_END;
      done += room - stream_.avail_out;
    }
    FL_CHECK(!gzip_ || done == n || ended_, path_, ": the gzip data end too early (truncated?)",
             kFetchAgain);
    return done;
  }

 private:
  static constexpr size_t kChunk = size_t{1} << 16;  // bytes

  bool refill() {
    file_.read(reinterpret_cast<char*>(buffer_.data()),
               static_cast<std::streamsize>(buffer_.size()));
    FL_CHECK(!file_.bad(), path_, ": reading failed (a damaged disk or a lost network drive?)");
    stream_.next_in = buffer_.data();
    stream_.avail_in = static_cast<uInt>(file_.gcount());
    return stream_.avail_in > 0;
  }

  std::string path_;
  std::ifstream file_;
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(kChunk);
  z_stream stream_{};
  bool gzip_ = false;
  bool ended_ = false;  // a gzip member is complete
};

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
  std::string out;
  for (const int64_t size : array.sizes()) out += (out.empty() ? "" : " x ") + std::to_string(size);
  return message(out, " of ", array.scalar_type());
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
  torch::Tensor array = torch::empty(sizes, type->type);
  std::memcpy(array.data_ptr(), values.data(), values.size());
  return array;
}

Samples read_idx_samples(const std::string& images, const std::string& labels, int64_t classes) {
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
  const uint8_t* bad =
      std::find_if(begin, begin + marks.numel(), [&](uint8_t m) { return m >= classes; });
  FL_CHECK(bad == begin + marks.numel(), labels, ": label ", int{*bad}, " at position ",
           bad - begin, " (must be 0 to ", classes - 1, ")");
  return {pixels.unsqueeze(1), marks.to(torch::kInt64)};
}

namespace {

namespace fs = std::filesystem;

// Ten classes of 28 x 28 images in the four files that MNIST came in.
class IdxImages : public DatasetSource {
 public:
  IdxImages(const Setup& setup, std::string name, std::string advice)
      : name_(std::move(name)),
        advice_(std::move(advice)),
        data_dir_(setup.job.get<std::string>("data-dir")),
        standard_(setup.job.get<std::string>(name_ + ".normalize") == "standard") {}

  Dataset read() const final {
    const fs::path folder = find_folder();
    Dataset data;
    data.classes = 10;
    data.train = read_part(folder, "train");
    data.test = read_part(folder, "t10k");
    data.scale = 1.0 / 255;
    if (standard_) standardise(data, folder);
    return data;
  }

 protected:
  static std::vector<Option> options() {
    return {
        {.name = "normalize",
         .default_value = "unit",
         .meaning =
             "unit: inputs in [0, 1]; standard: minus the training set's mean, over its deviation",
         .choices = {"unit", "standard"}}};
  }

 private:
  // The file or its compressed form; empty if there is neither.
  static fs::path find_file(const fs::path& folder, const std::string& file) {
    for (const char* ending : {"", ".gz"}) {
      std::error_code none;
      if (fs::exists(folder / (file + ending), none)) return folder / (file + ending);
    }
    return {};
  }

  fs::path find_folder() const {
    std::vector<fs::path> folders;
    if (data_dir_ != "auto") {
      folders = {fs::path(data_dir_) / name_, data_dir_};
    } else {
      const char* environment = std::getenv("FL_SIM_DATA");
      if (environment && *environment) folders = {fs::path(environment) / name_, environment};
      folders.push_back(fs::path("/usr/share/datasets") / name_);
    }
    std::string looked;
    for (const fs::path& folder : folders) {
      for (const char* file : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"}) {
        if (!find_file(folder, file).empty()) return folder;
      }
      looked += (looked.empty() ? "" : ", ") + folder.string();
    }
    throw Error(message(name_, ": train-images-idx3-ubyte[.gz] was not found (looked in ", looked,
                        "); ", advice_));
  }

  static Samples read_part(const fs::path& folder, const std::string& part) {
    const std::string images = part + "-images-idx3-ubyte", labels = part + "-labels-idx1-ubyte";
    for (const std::string& file : {images, labels}) {
      FL_CHECK(!find_file(folder, file).empty(), (folder / file).string(),
               "[.gz] is missing beside the other files of ", "its set (all four are needed)");
    }
    const std::string path = find_file(folder, images);
    Samples samples = read_idx_samples(path, find_file(folder, labels), 10);
    FL_CHECK(samples.inputs.size(2) == 28 && samples.inputs.size(3) == 28, path, ": images are ",
             samples.inputs.size(2), " x ", samples.inputs.size(3), " (expected 28 x 28)");
    return samples;
  }

  // Mean and standard deviation of all training pixels, from exact integer sums.
  static void standardise(Dataset& data, const fs::path& folder) {
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

  std::string name_, advice_, data_dir_;
  bool standard_;
};

class Mnist final : public IdxImages {
 public:
  explicit Mnist(const Setup& setup)
      : IdxImages(setup, "mnist",
                  "give the folder that holds MNIST's four IDX files with --data-dir") {}

  static PluginInfo describe() {
    return {
        .summary = "handwritten digits, 60,000 + 10,000 images of 28 x 28",
        .source =
            "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document "
            "recognition, Proc. IEEE 1998",
        .rule =
            "Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, from DIR/mnist or "
            "DIR, where DIR is data-dir, else $FL_SIM_DATA; else from /usr/share/datasets/mnist.",
        .options = options()};
  }
};

class FashionMnist final : public IdxImages {
 public:
  explicit FashionMnist(const Setup& setup)
      : IdxImages(setup, "fashion-mnist",
                  "apt install dataset-fashion-mnist, or give their folder with --data-dir") {}

  static PluginInfo describe() {
    return {.summary = "articles of clothing, 60,000 + 10,000 images of 28 x 28",
            .source =
                "Xiao, Rasul, Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking "
                "machine learning algorithms, 2017",
            .rule =
                "Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, from "
                "DIR/fashion-mnist or DIR, where DIR is data-dir, else $FL_SIM_DATA; else from "
                "/usr/share/datasets/fashion-mnist (Debian package dataset-fashion-mnist).",
            .options = options()};
  }
};

FL_REGISTER(DatasetSource, "mnist", Mnist);
FL_REGISTER(DatasetSource, "fashion-mnist", FashionMnist);

}  // namespace
}  // namespace fl_sim
