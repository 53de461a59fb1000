// Small data files for tests, written byte by byte from each format's definition: not by the
// libraries that read them.
#pragma once

#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace fl_sim {

// A folder that is removed with everything in it.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() /
              ("fl_sim_" + name + "_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code none;
    std::filesystem::remove_all(path_, none);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // Writes a file, with the folders on its way; returns its path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}

inline std::string little_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

// The numbers' bytes as this machine has them (little-endian wherever we run).
template <class Value>
std::string raw(const std::vector<Value>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)};
}

// The header of an IDX file.
inline std::string idx_header(char type, const std::vector<uint32_t>& sizes) {
  std::string bytes = {0, 0, type, static_cast<char>(sizes.size())};
  for (const uint32_t size : sizes) bytes += big_endian(size);
  return bytes;
}

// As deflate packs it: window bits 15 + 16 for gzip, 15 for zlib.
inline std::string deflated(const std::string& bytes, int window_bits) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
  std::string out(bytes.size() + 1024, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}
inline std::string gzipped(const std::string& bytes) { return deflated(bytes, 16 + MAX_WBITS); }

inline uint32_t crc_of(const std::string& bytes) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

// A PNG file (RFC 2083) of 8 bits a channel; pixels [height, width, channels], 1, 3 or 4 of them.
inline std::string png(uint32_t width, uint32_t height, int channels, const std::string& pixels) {
  const auto chunk = [](const std::string& type, const std::string& data) {
    return big_endian(static_cast<uint32_t>(data.size())) + type + data +
           big_endian(crc_of(type + data));
  };
  std::string rows;
  const size_t stride = static_cast<size_t>(width) * static_cast<size_t>(channels);
  for (uint32_t y = 0; y < height; ++y)  // each row behind its filter, 0: none
    rows += std::string(1, '\0') + pixels.substr(y * stride, stride);
  const char colour = channels == 1 ? 0 : channels == 3 ? 2 : 6;
  const std::string kind = {8, colour, 0, 0, 0};
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", big_endian(width) + big_endian(height) + kind) +
         chunk("IDAT", deflated(rows, MAX_WBITS)) + chunk("IEND", "");
}

// A .npy file of version 1; `shape` as Python writes it, "(2, 3)".
inline std::string npy(const std::string& type, const std::string& shape, const std::string& values,
                       bool fortran_order = false) {
  std::string header = "{'descr': '" + type +
                       "', 'fortran_order': " + (fortran_order ? "True" : "False") +
                       ", 'shape': " + shape + ", }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  return std::string("\x93NUMPY\x01\0", 8) + little_endian(header.size(), 2) + header + values;
}

// A zip archive (PKWARE's APPNOTE) with the files as they are, or deflated.
inline std::string zip(const std::vector<std::pair<std::string, std::string>>& files,
                       bool compress) {
  std::string out, directory;
  for (const auto& [name, bytes] : files) {
    const std::string data = compress ? deflated(bytes, -MAX_WBITS) : bytes;
    const std::string common = little_endian(20, 2) + little_endian(0, 2) +
                               little_endian(compress ? 8 : 0, 2) + little_endian(0, 2) +
                               little_endian(0x21, 2) + little_endian(crc_of(bytes), 4) +
                               little_endian(data.size(), 4) + little_endian(bytes.size(), 4) +
                               little_endian(name.size(), 2) + little_endian(0, 2);
    directory += "PK\x01\x02" + little_endian(20, 2) + common + little_endian(0, 2) +
                 little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 4) +
                 little_endian(out.size(), 4) + name;
    out += "PK\x03\x04" + common + name + data;
  }
  return out + directory + "PK\x05\x06" + little_endian(0, 4) + little_endian(files.size(), 2) +
         little_endian(files.size(), 2) + little_endian(directory.size(), 4) +
         little_endian(out.size(), 4) + little_endian(0, 2);
}

}  // namespace fl_sim
