// The checksum that results files show for models and partitions: zlib's crc32, then adler32, as 16
// hexadecimal digits.
#pragma once

#include <zlib.h>

#include <bit>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

namespace fl_sim {

static_assert(std::endian::native == std::endian::little, "checksums are of little-endian bytes");

class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
    crc_ = crc32_z(crc_, data, bytes.size());
    adler_ = adler32_z(adler_, data, bytes.size());
  }
  std::string text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%08lx%08lx", crc_, adler_);
    return digits;
  }

 private:
  uLong crc_ = 0, adler_ = 1;  // where zlib starts
};

}  // namespace fl_sim
