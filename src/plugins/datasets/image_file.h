// PNG and JPEG files. Only image_file.cpp includes <png.h> and <turbojpeg.h>.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

// Rows of pixels, each of `channels` bytes.
struct Image {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> bytes;  // [height, width, channels]
};

// A .png, .jpg or .jpeg file (the content decides), in grey (1 channel) or red, green and blue (3).
// Transparent pixels stand on black. Throws Error, naming the file, unless it is whole.
Image read_image(const std::string& path, int64_t channels);

// The image at another size. Each new pixel is the mean of the old ones around it, with weights
// that fall linearly (a triangle as wide as a new pixel, or as an old one if those are wider).
Image resize(const Image& image, int64_t height, int64_t width);

}  // namespace fl_sim
