#include "plugins/datasets/bmp_file.h"

#include <cstdlib>

#include "base/check.h"

namespace fl_sim {
namespace {

// The numbers of a BMP file's two headers, little end first.
class BmpHeader {
 public:
  BmpHeader(const std::string& path, const std::vector<uint8_t>& file) : path_(path), file_(file) {
    FL_CHECK(file.size() >= kFileHeader + 4, path, ": is a damaged BMP file (its header is cut)");
    size_ = number(kFileHeader, 4);
    const bool old = size_ == kOldHeader;  // OS/2's, of which Windows still reads files
    FL_CHECK(old || (size_ >= 40 && size_ <= 1024), path, ": is a damaged BMP file (its header ",
             "claims ", size_, " bytes)");
    FL_CHECK(std::ssize(file) >= static_cast<int64_t>(kFileHeader) + size_, path,
             ": is a damaged BMP file (its header is cut)");
    pixels = number(10, 4);
    width = old ? number(18, 2) : int32_t(number(18, 4));
    height = old ? number(20, 2) : int32_t(number(22, 4));
    bits = number(old ? 24 : 28, 2);
    compression = old ? 0 : number(30, 4);
    colours = old ? 0 : number(46, 4);
    entry = old ? 3 : 4;
    // Masks stand in the header, or behind the shortest one.
    if (compression == kMasks) {
      for (size_t i = 0; i < 4; ++i)
        masks[i] = i < 3 || size_ >= 56 ? static_cast<uint32_t>(number(54 + 4 * i, 4)) : 0;
    }
  }

  static constexpr int64_t kMasks = 3;  // colours are where masks say
  int64_t pixels = 0;                   // where they begin
  int64_t width = 0, height = 0;        // height below 0: the first row is the top one
  int64_t bits = 0, compression = 0;
  int64_t colours = 0, entry = 4;  // of the palette; 0: as many as there can be
  uint32_t masks[4] = {};          // red, green, blue, opacity

  int64_t palette() const { return static_cast<int64_t>(kFileHeader) + size_; }

 private:
  static constexpr size_t kFileHeader = 14;
  static constexpr int64_t kOldHeader = 12;

  int64_t number(size_t at, size_t bytes) const {
    FL_CHECK(at + bytes <= file_.size(), path_, ": is a damaged BMP file (its header is cut)");
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= uint32_t{file_[at + i]} << (8 * i);
    return value;
  }

  const std::string& path_;
  const std::vector<uint8_t>& file_;
  int64_t size_ = 0;
};

}  // namespace

BmpPixels read_bmp(const std::string& path, const std::vector<uint8_t>& file) {
  const BmpHeader header(path, file);
  const int64_t bits = header.bits, bytes = std::ssize(file);
  constexpr uint32_t kBlue = 0xff, kGreen = 0xff00, kRed = 0xff0000, kOpacity = 0xff000000;
  const uint32_t* masks = header.masks;
  const bool usual = bits == 32 && header.compression == BmpHeader::kMasks && masks[0] == kRed &&
                     masks[1] == kGreen && masks[2] == kBlue &&
                     (masks[3] == 0 || masks[3] == kOpacity);
  FL_CHECK(usual || (header.compression == 0 &&
                     (bits == 1 || bits == 4 || bits == 8 || bits == 24 || bits == 32)),
           path, ": is a BMP file of ", bits, " bits a pixel",
           header.compression == 0 ? "" : message(" and form ", header.compression),
           ", which is not read (1, 4, 8, 24 and 32 bits without compression are; save it as PNG)");
  const int64_t width = header.width, height = std::abs(header.height);
  FL_CHECK(width > 0 && height > 0, path, ": claims to be ", width, " x ", height, " pixels");
  const int64_t stride = (width * bits + 31) / 32 * 4;  // rows fill up to 4 bytes
  FL_CHECK(header.pixels <= bytes && height <= (bytes - header.pixels) / stride, path,
           ": is a damaged BMP file (", width, " x ", height, " pixels of ", bits,
           " bits do not fit its ", bytes, " bytes)");
  int64_t colours = 0;
  if (bits <= 8) {
    colours = header.colours == 0 ? int64_t{1} << bits : header.colours;
    FL_CHECK(header.palette() + colours * header.entry <= header.pixels, path,
             ": is a damaged BMP file (its palette of ", colours, " colours is cut)");
  }
  BmpPixels out{height, width, {}};
  out.bytes.reserve(static_cast<size_t>(4 * width * height));
  for (int64_t y = 0; y < height; ++y) {
    const int64_t row = header.height < 0 ? y : height - 1 - y;
    const uint8_t* const line = file.data() + header.pixels + row * stride;
    for (int64_t x = 0; x < width; ++x) {
      const uint8_t* colour = line + x * bits / 8;
      if (bits <= 8) {
        const int64_t place = x * bits;
        const int64_t index =
            line[place / 8] >> (8 - bits - place % 8) & ((int64_t{1} << bits) - 1);
        FL_CHECK(index < colours, path, ": is a damaged BMP file (a pixel has colour ", index,
                 " of a palette of ", colours, ")");
        colour = file.data() + header.palette() + index * header.entry;
      }
      const uint8_t opacity = usual && masks[3] != 0 ? colour[3] : 255;
      for (const uint8_t part : {colour[2], colour[1], colour[0], opacity})
        out.bytes.push_back(part);
    }
  }
  return out;
}

}  // namespace fl_sim
