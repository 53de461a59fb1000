// BMP files, as Windows writes them: without compression, of 1, 4 or 8 bits with a palette, of 24
// bits, or of 32.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

// Pixels from the top row on, each red, green, blue and how opaque it is (255: wholly).
struct BmpPixels {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> bytes;  // [height, width, 4]
};

// Takes a file's bytes. Throws Error, naming the file, if it is of another form, or if a pixel is
// missing or has a colour that its palette lacks.
BmpPixels read_bmp(const std::string& path, const std::vector<uint8_t>& file);

}  // namespace fl_sim
