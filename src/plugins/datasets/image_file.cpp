#include "plugins/datasets/image_file.h"

#include <png.h>
#include <turbojpeg.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

// A header may claim any size; what no file of this length could hold is refused before memory is
// asked for.
void check_size(const std::string& path, int64_t width, int64_t height, int64_t channels,
                size_t file_bytes) {
  constexpr double kSmall = 1 << 24;         // bytes
  constexpr double kBestCompression = 1100;  // deflate reaches 1032
  FL_CHECK(width > 0 && height > 0, path, ": claims to be ", width, " x ", height, " pixels");
  const double bytes =
      static_cast<double>(width) * static_cast<double>(height) * static_cast<double>(channels);
  FL_CHECK(bytes <= std::max(kSmall, kBestCompression * static_cast<double>(file_bytes)), path,
           ": claims to be ", width, " x ", height, " pixels, more than its ", file_bytes,
           " bytes can hold (damaged?)");
}

Image read_png(const std::string& path, const std::vector<uint8_t>& bytes, int64_t channels) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  const auto free_png = [](png_image* image) { png_image_free(image); };
  const std::unique_ptr<png_image, decltype(free_png)> owner(&png, free_png);
  // Warnings too: a file of which libpng skips a damaged part is not whole.
  const auto check = [&](int ok) {
    FL_CHECK(ok != 0 && png.warning_or_error == 0, path, ": is a damaged PNG file (",
             png.message[0] != '\0' ? png.message : "no reason given", ")");
  };
  check(png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()));
  png.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  Image image{png.height, png.width, channels, {}};
  check_size(path, image.width, image.height, channels, bytes.size());
  image.bytes.resize(static_cast<size_t>(image.height * image.width * channels));
  const png_color black{0, 0, 0};
  check(png_image_finish_read(&png, &black, image.bytes.data(), 0, nullptr));
  return image;
}

Image read_jpeg(const std::string& path, const std::vector<uint8_t>& bytes, int64_t channels) {
  const std::unique_ptr<void, int (*)(tjhandle)> jpeg(tjInitDecompress(), tjDestroy);
  FL_CHECK(jpeg != nullptr, "libjpeg-turbo cannot start (out of memory?)");
  const auto check = [&](int status) {
    FL_CHECK(status == 0, path, ": is a damaged JPEG file (", tjGetErrorStr2(jpeg.get()), ")");
  };
  int width = 0, height = 0, subsampling = 0, colours = 0;
  check(tjDecompressHeader3(jpeg.get(), bytes.data(), bytes.size(), &width, &height, &subsampling,
                            &colours));
  Image image{height, width, channels, {}};
  check_size(path, width, height, channels, bytes.size());
  image.bytes.resize(static_cast<size_t>(image.height * image.width * channels));
  check(tjDecompress2(jpeg.get(), bytes.data(), bytes.size(), image.bytes.data(), width, 0, height,
                      channels == 1 ? TJPF_GRAY : TJPF_RGB,
                      TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS));
  return image;
}

// Of each new position: where its old ones begin, and their weights.
struct Weights {
  std::vector<int64_t> first;
  std::vector<std::vector<double>> weights;
};

Weights triangle(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double radius = std::max(1.0, scale);  // old pixels
  Weights out;
  for (int64_t i = 0; i < to; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - radius)));
    const auto last = std::min<int64_t>(from - 1, static_cast<int64_t>(std::ceil(centre + radius)));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      const double distance = std::abs(static_cast<double>(j) + 0.5 - centre) / radius;
      weights.push_back(std::max(0.0, 1 - distance));
      sum += weights.back();
    }
    for (double& weight : weights) weight /= sum;
    out.first.push_back(first);
    out.weights.push_back(std::move(weights));
  }
  return out;
}

}  // namespace

Image read_image(const std::string& path, int64_t channels) {
  const std::vector<uint8_t> bytes = read_bytes(path);
  constexpr uint8_t kPng[] = {0x89, 'P', 'N', 'G'}, kJpeg[] = {0xff, 0xd8, 0xff};
  const auto starts_with = [&](const auto& magic) {
    return bytes.size() >= sizeof magic && std::memcmp(bytes.data(), magic, sizeof magic) == 0;
  };
  if (starts_with(kPng)) return read_png(path, bytes, channels);
  if (starts_with(kJpeg)) return read_jpeg(path, bytes, channels);
  throw Error(message(path, ": is neither a PNG nor a JPEG file (",
                      bytes.empty() ? "it is empty" : "its first bytes are those of neither", ")"));
}

Image resize(const Image& image, int64_t height, int64_t width) {
  const Weights rows = triangle(image.height, height), columns = triangle(image.width, width);
  const int64_t channels = image.channels;
  std::vector<double> narrow(static_cast<size_t>(image.height * width * channels));
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const auto at = static_cast<size_t>(x);
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (size_t k = 0; k < columns.weights[at].size(); ++k) {
          const int64_t from = columns.first[at] + static_cast<int64_t>(k);
          sum += columns.weights[at][k] *
                 image.bytes[static_cast<size_t>((y * image.width + from) * channels + c)];
        }
        narrow[static_cast<size_t>((y * width + x) * channels + c)] = sum;
      }
    }
  }
  Image out{height, width, channels, {}};
  out.bytes.resize(static_cast<size_t>(height * width * channels));
  for (int64_t y = 0; y < height; ++y) {
    const auto at = static_cast<size_t>(y);
    for (int64_t i = 0; i < width * channels; ++i) {
      double sum = 0;
      for (size_t k = 0; k < rows.weights[at].size(); ++k) {
        const int64_t from = rows.first[at] + static_cast<int64_t>(k);
        sum += rows.weights[at][k] * narrow[static_cast<size_t>(from * width * channels + i)];
      }
      out.bytes[static_cast<size_t>(y * width * channels + i)] =
          static_cast<uint8_t>(std::clamp(std::lround(sum), 0L, 255L));
    }
  }
  return out;
}

}  // namespace fl_sim
