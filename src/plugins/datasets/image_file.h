// PNG, JPEG, BMP and, where libwebp was there to build with, WebP files. Only image_file.cpp
// includes <png.h>, <turbojpeg.h> and <webp/decode.h>.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

// Rows of pixels, each of `channels` bytes.
struct Image {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> bytes;  // [height, width, channels]
  std::string flaw = {};       // what is wrong with the file beside its pixels; empty: nothing
};

// What kinds of files read_image() reads, by their endings.
const std::vector<std::string>& image_endings();
std::string image_endings_text();  // ".png, .jpg, .jpeg and .bmp"

// An image file (the content decides, not the ending), in grey (1 channel) or red, green and blue
// (3), as its numbers are: colour profiles and gamma are not looked at, 16 bits are rounded to 8,
// CMYK becomes red, green and blue by multiplying, and those grey as in JPEG. Transparent pixels
// stand on black. Throws Error, naming the file, unless all its pixels are there.
Image read_image(const std::string& path, int64_t channels);

// The image at another size. Each new pixel is the mean of the old ones around it, with weights
// that fall linearly (a triangle as wide as a new pixel, or as an old one if those are wider).
Image resize(const Image& image, int64_t height, int64_t width);

}  // namespace fl_sim
