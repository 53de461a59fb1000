#include "plugins/datasets/image_file.h"

#include <png.h>
#include <turbojpeg.h>
#ifdef FL_SIM_WEBP
#include <webp/decode.h>
#endif
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "plugins/datasets/bmp_file.h"
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

uint32_t big_endian_at(const std::vector<uint8_t>& bytes, size_t at) {
  return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 | uint32_t{bytes[at + 2]} << 8 |
         bytes[at + 3];
}

// The file without what does not say what its pixels are: colour profiles, gamma, texts. libpng
// takes them for reasons to change the numbers, or warns of them. What is damaged stays, for libpng
// to find.
std::vector<uint8_t> without_extras(const std::vector<uint8_t>& bytes) {
  constexpr size_t kSignature = 8, kFrame = 12;  // of a chunk: length, type, checksum
  constexpr uint8_t kAncillary = 0x20;           // bit of the type's first letter
  if (bytes.size() < kSignature) return bytes;
  std::vector<uint8_t> out(bytes.begin(), bytes.begin() + kSignature);
  size_t at = kSignature;
  while (at + kFrame <= bytes.size()) {
    const size_t length = big_endian_at(bytes, at);
    if (length > bytes.size() - at - kFrame) break;
    const size_t end = at + kFrame + length;
    const uint8_t* type = bytes.data() + at + 4;
    const uint32_t checksum = static_cast<uint32_t>(crc32_z(0, type, length + 4));
    const bool extra = (type[0] & kAncillary) != 0 && std::memcmp(type, "tRNS", 4) != 0 &&
                       checksum == big_endian_at(bytes, end - 4);
    if (!extra)
      out.insert(out.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                 bytes.begin() + static_cast<std::ptrdiff_t>(end));
    at = end;
  }
  out.insert(out.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.end());
  return out;
}

// Grey as JPEG files hold it and other readers make it (ITU-R BT.601), in the numbers of the file.
uint8_t grey_of(const uint8_t* colour) {
  return static_cast<uint8_t>(
      (19595u * colour[0] + 38470u * colour[1] + 7471u * colour[2] + 32768u) >> 16);
}

// Pixels [n, 3] as [n].
std::vector<uint8_t> greys(const std::vector<uint8_t>& colours) {
  std::vector<uint8_t> out(colours.size() / 3);
  for (size_t i = 0; i < out.size(); ++i) out[i] = grey_of(colours.data() + 3 * i);
  return out;
}

Image read_png(const std::string& path, const std::vector<uint8_t>& file, int64_t channels) {
  const std::vector<uint8_t> bytes = without_extras(file);
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
  const int64_t read = (png.format & PNG_FORMAT_FLAG_COLOR) != 0 ? 3 : channels;
  png.format = read == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png.flags |=
      PNG_IMAGE_FLAG_16BIT_sRGB;  // 16 bits mean what 8 bits do; libpng takes them as light
  Image image{png.height, png.width, channels, {}};
  check_size(path, image.width, image.height, read, bytes.size());
  image.bytes.resize(static_cast<size_t>(image.height * image.width * read));
  const png_color black{0, 0, 0};
  check(png_image_finish_read(&png, &black, image.bytes.data(), 0, nullptr));
  if (read > channels) image.bytes = greys(image.bytes);
  return image;
}

// Whether a JPEG file has Adobe's marker: its CMYK is then stored inverted.
bool has_adobe_marker(const std::vector<uint8_t>& bytes) {
  constexpr uint8_t kAdobe = 0xee, kScan = 0xda;
  for (size_t at = 2; at + 9 <= bytes.size() && bytes[at] == 0xff && bytes[at + 1] != kScan;) {
    if (bytes[at + 1] == 0xff) {  // filling
      ++at;
      continue;
    }
    if (bytes[at + 1] == kAdobe && std::memcmp(bytes.data() + at + 4, "Adobe", 5) == 0) return true;
    at += 2 + (size_t{bytes[at + 2]} << 8 | bytes[at + 3]);
  }
  return false;
}

// Pixels [n, 4] of inks as [n, 3] colours: red is what cyan and black leave of it.
std::vector<uint8_t> from_inks(const std::vector<uint8_t>& inks, bool inverted) {
  std::vector<uint8_t> out;
  out.reserve(inks.size() / 4 * 3);
  for (size_t at = 0; at < inks.size(); at += 4) {
    const auto left = [&](size_t i) { return inverted ? inks[at + i] : 255 - inks[at + i]; };
    for (size_t c = 0; c < 3; ++c)
      out.push_back(static_cast<uint8_t>((left(c) * left(3) + 127) / 255));
  }
  return out;
}

// Warnings of libjpeg's that may concern no pixel: behind the last one something stands before the
// end's marker (D9), or that marker is not there.
constexpr std::string_view kStray = "extraneous bytes before marker 0xd9", kNoEnd = "Premature end";

Image read_jpeg(const std::string& path, std::vector<uint8_t> bytes, int64_t channels) {
  const std::unique_ptr<void, int (*)(tjhandle)> jpeg(tjInitDecompress(), tjDestroy);
  FL_CHECK(jpeg != nullptr, "libjpeg-turbo cannot start (out of memory?)");
  const auto check = [&](int status) {
    FL_CHECK(status == 0, path, ": is a damaged JPEG file (", tjGetErrorStr2(jpeg.get()), ")");
  };
  int width = 0, height = 0, subsampling = 0, colours = 0;
  check(tjDecompressHeader3(jpeg.get(), bytes.data(), bytes.size(), &width, &height, &subsampling,
                            &colours));
  const bool inks = colours == TJCS_CMYK || colours == TJCS_YCCK;
  const int format = inks ? TJPF_CMYK : channels == 1 ? TJPF_GRAY : TJPF_RGB;
  Image image{height, width, channels, {}};
  check_size(path, width, height, inks ? 4 : channels, bytes.size());
  image.bytes.resize(static_cast<size_t>(image.height * image.width * (inks ? 4 : channels)));
  const auto decompress = [&](int flags) {
    return tjDecompress2(jpeg.get(), bytes.data(), bytes.size(), image.bytes.data(), width, 0,
                         height, format, TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS | flags);
  };
  if (const int status = decompress(TJFLAG_STOPONWARNING); status != 0) {
    const std::string flaw = tjGetErrorStr2(jpeg.get());
    const bool warning = tjGetErrorCode(jpeg.get()) == TJERR_WARNING;
    if (warning && flaw.find(kNoEnd) != std::string::npos) {
      // With that marker nothing is wrong, if no pixel is missing.
      bytes.push_back(0xff);
      bytes.push_back(0xd9);
      check(decompress(TJFLAG_STOPONWARNING));
    } else if (warning && flaw.find(kStray) != std::string::npos) {
      decompress(0);  // to the end: it cannot be stopped by anything else
    } else {
      check(status);
    }
    image.flaw = flaw;
  }
  if (inks) image.bytes = from_inks(image.bytes, has_adobe_marker(bytes));
  if (inks && channels == 1) image.bytes = greys(image.bytes);
  return image;
}

bool is_webp(const std::vector<uint8_t>& bytes) {
  return bytes.size() >= 12 && std::memcmp(bytes.data(), "RIFF", 4) == 0 &&
         std::memcmp(bytes.data() + 8, "WEBP", 4) == 0;
}

// A pixel's number on black, mixed in light as libpng does it (IEC 61966-2-1).
uint8_t on_black(uint8_t number, uint8_t alpha) {
  if (alpha == 255) return number;
  const double encoded = number / 255.0;
  const double light =
      (encoded <= 0.04045 ? encoded / 12.92 : std::pow((encoded + 0.055) / 1.055, 2.4)) * alpha /
      255;
  const double seen = light <= 0.0031308 ? 12.92 * light : 1.055 * std::pow(light, 1 / 2.4) - 0.055;
  return static_cast<uint8_t>(std::lround(255 * seen));
}

// Pixels [n, 4], red, green, blue and opacity, on black.
void set_on_black(Image& image, const std::vector<uint8_t>& pixels) {
  image.bytes.reserve(pixels.size() / 4 * 3);
  for (size_t at = 0; at < pixels.size(); at += 4) {
    for (size_t c = 0; c < 3; ++c) image.bytes.push_back(on_black(pixels[at + c], pixels[at + 3]));
  }
  if (image.channels == 1) image.bytes = greys(image.bytes);
}

#ifdef FL_SIM_WEBP
Image read_webp(const std::string& path, const std::vector<uint8_t>& bytes, int64_t channels) {
  WebPBitstreamFeatures features;
  FL_CHECK(WebPGetFeatures(bytes.data(), bytes.size(), &features) == VP8_STATUS_OK, path,
           ": is a damaged WebP file");
  FL_CHECK(features.has_animation == 0, path, ": is an animated WebP file (must be one image)");
  Image image{features.height, features.width, channels, {}};
  check_size(path, image.width, image.height, 4, bytes.size());
  std::vector<uint8_t> pixels(static_cast<size_t>(image.height * image.width * 4));
  FL_CHECK(WebPDecodeRGBAInto(bytes.data(), bytes.size(), pixels.data(), pixels.size(),
                              features.width * 4) != nullptr,
           path, ": is a damaged WebP file");
  set_on_black(image, pixels);
  return image;
}
#endif

// What a file is that is none of ours, by its first bytes.
std::string other_kind(const std::vector<uint8_t>& bytes) {
  if (bytes.empty()) return "it is empty";
  using std::string;
  const std::vector<std::pair<string, string>> kinds = {
      {"GIF8", "it is a GIF file"},
      {string("II*\0", 4), "it is a TIFF file"},
      {string("MM\0*", 4), "it is a TIFF file"},
      {string("\0\5\x16\7", 4), "it holds what macOS keeps beside a file"},
      {"%PDF", "it is a PDF file"},
      {"PK", "it is a zip archive"},
      {"<", "it is a text, such as a web page that says why there is no image"},
      {"version https://git-lfs", "it is a pointer of Git LFS; git lfs pull fetches the file"}};
  for (const auto& [magic, what] : kinds) {
    if (bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0)
      return what;
  }
  if (is_webp(bytes)) return "it is a WebP file, which this build does not read";
  if (bytes.size() >= 12 && std::memcmp(bytes.data() + 4, "ftyp", 4) == 0)
    return "it is a HEIF or AVIF file, or a film";
  return "its first bytes are those of none";
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

const std::vector<std::string>& image_endings() {
  static const std::vector<std::string> endings = {".png", ".jpg", ".jpeg", ".bmp",
#ifdef FL_SIM_WEBP
                                                   ".webp"
#endif
  };
  return endings;
}

std::string image_endings_text() {
  std::string text;
  const std::vector<std::string>& endings = image_endings();
  for (size_t i = 0; i < endings.size(); ++i)
    text += (i == 0 ? "" : i + 1 == endings.size() ? " and " : ", ") + endings[i];
  return text;
}

Image read_image(const std::string& path, int64_t channels) {
  std::vector<uint8_t> bytes = read_bytes(path);
  constexpr uint8_t kPng[] = {0x89, 'P', 'N', 'G'}, kJpeg[] = {0xff, 0xd8, 0xff},
                    kBmp[] = {'B', 'M'};
  const auto starts_with = [&](const auto& magic) {
    return bytes.size() >= sizeof magic && std::memcmp(bytes.data(), magic, sizeof magic) == 0;
  };
  if (starts_with(kPng)) return read_png(path, bytes, channels);
  if (starts_with(kJpeg)) return read_jpeg(path, std::move(bytes), channels);
  if (starts_with(kBmp)) {
    const BmpPixels pixels = read_bmp(path, bytes);
    Image image{pixels.height, pixels.width, channels, {}};
    set_on_black(image, pixels.bytes);
    return image;
  }
#ifdef FL_SIM_WEBP
  if (is_webp(bytes)) return read_webp(path, bytes, channels);
#endif
  throw Error(
      message(path, ": is neither a PNG nor a JPEG nor a BMP file (", other_kind(bytes), ")"));
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
