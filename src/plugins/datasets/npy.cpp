#include "plugins/datasets/npy.h"

#include <zip.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>

#include "base/check.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

// Reads up to n bytes; fewer only at the end.
using Source = std::function<size_t(uint8_t* to, size_t n)>;

// NumPy's type codes without the byte order.
struct NumpyType {
  const char* code;
  torch::ScalarType type;
  size_t width;        // bytes in the file
  bool widen = false;  // unsigned, and LibTorch has no such type: becomes int64
};
constexpr NumpyType kNumpyTypes[] = {
    {"b1", torch::kUInt8, 1},       {"u1", torch::kUInt8, 1},       {"i1", torch::kInt8, 1},
    {"i2", torch::kInt16, 2},       {"i4", torch::kInt32, 4},       {"i8", torch::kInt64, 8},
    {"u2", torch::kInt64, 2, true}, {"u4", torch::kInt64, 4, true}, {"f2", torch::kHalf, 2},
    {"f4", torch::kFloat32, 4},     {"f8", torch::kFloat64, 8}};

struct Header {
  NumpyType type;
  bool big_endian;
  bool fortran_order;
  std::vector<int64_t> shape;
};

// A parser of the header's Python dictionary:
// {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(const std::string& text, const std::string& where) : text_(text), where_(where) {}

  Header parse() {
    Header header{};
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && !std::exchange(descr, true)) {
        parse_type(header);
      } else if (key == "fortran_order" && !std::exchange(order, true)) {
        header.fortran_order = boolean();
      } else if (key == "shape" && !std::exchange(shape, true)) {
        parse_shape(header);
      } else {
        fail();
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (!descr || !order || !shape || at_ != text_.size()) fail();
    return header;
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(message(where_, ": its header is ", shown(text_),
                        " (expected {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), })"));
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail();
  }
  std::string string() {
    const char quote = accept('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const size_t end = text_.find(quote, at_);
    if (end == std::string::npos) fail();
    const std::string out = text_.substr(at_, end - at_);
    at_ = end + 1;
    return out;
  }
  bool boolean() {
    skip();
    for (const char* word : {"False", "True"}) {
      if (text_.compare(at_, std::strlen(word), word) == 0) {
        at_ += std::strlen(word);
        return *word == 'T';
      }
    }
    fail();
  }
  void parse_type(Header& header) {
    skip();
    FL_CHECK(at_ < text_.size() && text_[at_] != '[', where_,
             ": is an array of records (must be of numbers)");
    const std::string descr = string();
    FL_CHECK(descr.size() >= 2 && descr[1] != 'O', where_,
             ": is an array of Python objects, which would have to be unpickled (save it as an "
             "array of numbers)");
    const auto type = std::find_if(std::begin(kNumpyTypes), std::end(kNumpyTypes),
                                   [&](const NumpyType& t) { return descr.substr(1) == t.code; });
    FL_CHECK(type != std::end(kNumpyTypes) && std::strchr("<>|=", descr[0]) != nullptr, where_,
             ": is of type ", shown(descr),
             " (must be numbers: b1, u1, i1, u2, i2, u4, i4, i8, f2, f4 or f8; "
             "numpy.unique(y, return_inverse=True)[1] makes such of names)");
    header.type = *type;
    header.big_endian = descr[0] == '>';
  }
  void parse_shape(Header& header) {
    expect('(');
    while (!accept(')')) {
      skip();
      const size_t begin = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      int64_t size = 0;
      if (!parse_number(std::string_view(text_).substr(begin, at_ - begin), size)) fail();
      accept('L');  // Python 2
      header.shape.push_back(size);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    FL_CHECK(header.shape.size() <= 8, where_, ": has ", header.shape.size(),
             " dimensions (must be at most 8)");
  }

  const std::string& text_;
  std::string where_;
  size_t at_ = 0;
};

void swap_bytes(std::vector<uint8_t>& values, size_t width) {
  for (auto at = values.begin(); at != values.end(); at += static_cast<std::ptrdiff_t>(width))
    std::reverse(at, at + static_cast<std::ptrdiff_t>(width));
}

torch::Tensor widened(const std::vector<uint8_t>& values, size_t width, int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    uint32_t value = 0;
    uint16_t half = 0;
    if (width == 2) {
      std::memcpy(&half, values.data() + 2 * i, 2);
      value = half;
    } else {
      std::memcpy(&value, values.data() + 4 * i, 4);
    }
    out[i] = value;
  }
  return to_tensor(std::move(out), {count});
}

torch::Tensor read_array(const Source& read, const std::string& where) {
  uint8_t start[12];
  FL_CHECK(read(start, 10) == 10 && std::memcmp(start, "\x93NUMPY", 6) == 0, where,
           ": is not an array of NumPy's (expected it to start with \\x93NUMPY)");
  const int version = start[6];
  FL_CHECK(version >= 1 && version <= 3, where, ": is of version ", version,
           " of the format (1, 2 and 3 are known)");
  size_t length = start[8] | size_t{start[9]} << 8;
  if (version > 1) {
    FL_CHECK(read(start + 10, 2) == 2, where, ": ends inside its header");
    length |= size_t{start[10]} << 16 | size_t{start[11]} << 24;
  }
  FL_CHECK(length < size_t{1} << 20, where, ": claims a header of ", length, " bytes");
  std::string text(length, '\0');
  FL_CHECK(read(reinterpret_cast<uint8_t*>(text.data()), length) == length, where,
           ": ends inside its header");
  const Header header = HeaderParser(text, where).parse();

  int64_t count = 1;
  for (const int64_t size : header.shape) {
    FL_CHECK(size == 0 || count <= (INT64_MAX >> 8) / size, where, ": claims ",
             shape_text(header.shape), " values");
    count *= size;
  }
  const size_t expected = static_cast<size_t>(count) * header.type.width;
  std::vector<uint8_t> values;
  while (values.size() < expected) {
    const size_t begin = values.size(), part = std::min(expected - begin, size_t{1} << 20);
    values.resize(begin + part);
    const size_t got = read(values.data() + begin, part);
    FL_CHECK(got == part, where, ": ", expected, " bytes were expected behind its header (",
             shape_text(header.shape), " of ", header.type.code, "), ", begin + got,
             " were found (truncated?)");
  }
  uint8_t more;
  FL_CHECK(read(&more, 1) == 0, where, ": ", expected, " bytes were expected behind its header (",
           shape_text(header.shape), " of ", header.type.code, "), more were found");

  const bool big_endian_here = std::endian::native == std::endian::big;
  if (header.type.width > 1 && header.big_endian != big_endian_here)
    swap_bytes(values, header.type.width);
  torch::Tensor flat;
  if (header.type.widen) {
    flat = widened(values, header.type.width, count);
  } else if (header.type.type == torch::kUInt8) {
    FL_CHECK(std::strcmp(header.type.code, "b1") != 0 ||
                 std::all_of(values.begin(), values.end(), [](uint8_t v) { return v <= 1; }),
             where, ": holds truth values other than 0 and 1");
    flat = to_tensor(std::move(values), {count});
    if (std::strcmp(header.type.code, "b1") == 0) flat = flat.to(torch::kBool);
  } else {
    flat = torch::empty({count}, header.type.type);
    if (!values.empty()) std::memcpy(flat.data_ptr(), values.data(), values.size());
  }
  if (!header.fortran_order || header.shape.size() < 2) return flat.reshape(header.shape);
  // Column by column: the reversed shape in C order, transposed.
  std::vector<int64_t> reversed(header.shape.rbegin(), header.shape.rend());
  std::vector<int64_t> axes(header.shape.size());
  for (size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int64_t>(axes.size() - 1 - i);
  return flat.reshape(reversed).permute(axes).contiguous();
}

NumpyArrays read_folder(const std::string& path, const std::vector<std::string>& wanted) {
  NumpyArrays arrays;
  for (const std::string& name : wanted) {
    const std::filesystem::path file = std::filesystem::path(path) / (name + ".npy");
    std::error_code none;
    if (!std::filesystem::exists(file, none)) continue;
    ByteStream in(file);
    arrays[name] = read_array([&](uint8_t* to, size_t n) { return in.read(to, n); }, file);
  }
  return arrays;
}

using Archive = std::unique_ptr<zip_t, void (*)(zip_t*)>;

Archive open_archive(const std::string& path) {
  int code = 0;
  Archive archive(zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code), zip_discard);
  if (archive == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string why = zip_error_strerror(&error);
    zip_error_fini(&error);
    throw Error(message(path, ": is not a whole .npz archive (", why, ")"));
  }
  return archive;
}

NumpyArrays read_archive(const std::string& path, const std::vector<std::string>& wanted) {
  const Archive archive = open_archive(path);
  NumpyArrays arrays;
  for (const std::string& name : wanted) {
    const std::string where = message(path, ", ", name);
    const zip_int64_t index = zip_name_locate(archive.get(), (name + ".npy").c_str(), 0);
    if (index < 0) continue;
    const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> file(
        zip_fopen_index(archive.get(), static_cast<zip_uint64_t>(index), 0), zip_fclose);
    FL_CHECK(file != nullptr, where, ": cannot be read (", zip_strerror(archive.get()), ")");
    const Source read = [&](uint8_t* to, size_t n) {
      size_t done = 0;
      while (done < n) {
        const zip_int64_t got = zip_fread(file.get(), to + done, n - done);
        FL_CHECK(got >= 0, where, ": is damaged (", zip_file_strerror(file.get()), ")");
        if (got == 0) break;
        done += static_cast<size_t>(got);
      }
      return done;
    };
    arrays[name] = read_array(read, where);
  }
  return arrays;
}

}  // namespace

std::vector<std::string> numpy_names(const std::string& path) {
  const std::string ending = ".npy";
  std::vector<std::string> names;
  std::error_code none;
  if (std::filesystem::is_directory(path, none)) {
    for (const auto& file : list_files(path, {ending})) names.push_back(file.stem());
    std::sort(names.begin(), names.end());
    return names;
  }
  const Archive archive = open_archive(path);
  const zip_int64_t files = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < files; ++i) {
    const char* entry = zip_get_name(archive.get(), static_cast<zip_uint64_t>(i), 0);
    const std::string name = entry == nullptr ? "" : entry;
    if (name.ends_with(ending)) names.push_back(name.substr(0, name.size() - ending.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

NumpyArrays read_numpy(const std::string& path, const std::vector<std::string>& wanted) {
  std::error_code none;
  return std::filesystem::is_directory(path, none) ? read_folder(path, wanted)
                                                   : read_archive(path, wanted);
}

}  // namespace fl_sim
