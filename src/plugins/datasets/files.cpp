#include "plugins/datasets/files.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"

namespace fl_sim {

namespace fs = std::filesystem;

std::vector<fs::path> data_folders(const Job& job) {
  const auto given = job.get<std::string>("data-dir");
  if (given != "auto") return {given};
  std::vector<fs::path> folders;
  const char* environment = std::getenv("FL_SIM_DATA");
  if (environment != nullptr && *environment != '\0') folders.push_back(environment);
  std::error_code none;
  if (fs::is_directory("data", none))
    folders.push_back("data");  // where scripts/get_data puts them
  folders.push_back("/usr/share/datasets");
  return folders;
}

fs::path find_file(const fs::path& folder, const std::string& file) {
  for (const char* ending : {"", ".gz"}) {
    std::error_code none;
    if (fs::exists(folder / (file + ending), none)) return folder / (file + ending);
  }
  return {};
}

fs::path find_set(const Job& job, const std::vector<std::string>& names,
                  const std::vector<std::string>& files, const std::string& advice, bool gzip) {
  std::string looked;
  for (const fs::path& base : data_folders(job)) {
    std::vector<fs::path> folders;
    for (const std::string& name : names) folders.push_back(base / name);
    if (base != "/usr/share/datasets") folders.push_back(base);
    for (const fs::path& folder : folders) {
      for (const std::string& file : files) {
        std::error_code none;
        if (gzip ? !find_file(folder, file).empty() : fs::exists(folder / file, none))
          return folder;
      }
      looked += (looked.empty() ? "" : ", ") + folder.string();
    }
  }
  throw Error(message(names.front(), ": ", files.front(), gzip ? "[.gz]" : "",
                      " was not found (looked in ", looked, "); ", advice));
}

fs::path find_path(const Job& job, const std::string& key, const std::string& name) {
  std::error_code none;
  if (fs::exists(name, none)) return name;
  std::string looked = name;
  for (const fs::path& folder : data_folders(job)) {
    if (fs::path(name).is_absolute()) break;
    if (fs::exists(folder / name, none)) return folder / name;
    looked += ", " + (folder / name).string();
  }
  throw Error(message(key, ": ", name, " was not found (looked for ", looked,
                      "); give its path, or the folder that it is in with --data-dir"));
}

bool has_ending(const fs::path& path, const std::vector<std::string>& endings) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

std::vector<fs::path> list_files(const fs::path& folder, const std::vector<std::string>& endings) {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code none;
    const bool hidden = at->path().filename().string().starts_with('.');
    if (!hidden && has_ending(at->path(), endings) && at->is_regular_file(none))
      files.push_back(at->path());
  }
  FL_CHECK(!error, folder.string(), ": cannot be listed (", error.message(), ")");
  std::sort(files.begin(), files.end());
  return files;
}

namespace {

constexpr size_t kChunk = size_t{1} << 16;  // bytes

}  // namespace

// Not gzread: it stops silently at what follows the gzip data.
struct ByteStream::State {
  std::string path;
  std::ifstream file;
  std::vector<uint8_t> buffer = std::vector<uint8_t>(kChunk);
  z_stream stream{};
  bool gzip = false;
  bool ended = false;  // a gzip member is complete

  bool refill() {
    file.read(reinterpret_cast<char*>(buffer.data()), static_cast<std::streamsize>(buffer.size()));
    FL_CHECK(!file.bad(), path, ": reading failed (a damaged disk or a lost network drive?)");
    stream.next_in = buffer.data();
    stream.avail_in = static_cast<uInt>(file.gcount());
    return stream.avail_in > 0;
  }
};

ByteStream::ByteStream(const std::string& path) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = path;
  s.file.open(path, std::ios::binary);
  std::error_code none;
  FL_CHECK(s.file && !fs::is_directory(path, none), path,
           ": cannot be opened (is it a readable file?)");
  s.refill();
  const bool gzip = s.stream.avail_in >= 2 && s.buffer[0] == 0x1f && s.buffer[1] == 0x8b;
  if (gzip)
    FL_CHECK(inflateInit2(&s.stream, 16 + MAX_WBITS) == Z_OK, "zlib cannot start (out of memory?)");
  s.gzip = gzip;
}

ByteStream::~ByteStream() {
  if (state_->gzip) inflateEnd(&state_->stream);
}

size_t ByteStream::read(uint8_t* to, size_t n) {
  State& s = *state_;
  size_t done = 0;
  while (done < n && (s.stream.avail_in > 0 || s.refill())) {
    if (!s.gzip) {
      const size_t part = std::min<size_t>(n - done, s.stream.avail_in);
      std::memcpy(to + done, s.stream.next_in, part);
      s.stream.next_in += part;
      s.stream.avail_in -= static_cast<uInt>(part);
      done += part;
      continue;
    }
    if (s.ended) inflateReset(&s.stream);  // another member follows, or rubbish, which is refused
    const size_t room = std::min<size_t>(n - done, kChunk);
    s.stream.next_out = to + done;
    s.stream.avail_out = static_cast<uInt>(room);
    const int status = inflate(&s.stream, Z_NO_FLUSH);
    FL_CHECK(status == Z_OK || status == Z_STREAM_END, s.path, ": the gzip data are damaged (",
             s.stream.msg ? s.stream.msg : "unknown error", ")", kFetchAgain);
    s.ended = status == Z_STREAM_END;
    done += room - s.stream.avail_out;
  }
  FL_CHECK(!s.gzip || done == n || s.ended, s.path, ": the gzip data end too early (truncated?)",
           kFetchAgain);
  return done;
}

std::vector<uint8_t> read_bytes(const std::string& path) {
  ByteStream in(path);
  std::vector<uint8_t> bytes;
  std::error_code none;
  bytes.reserve(std::min<size_t>(fs::file_size(path, none), size_t{1} << 30));
  for (;;) {
    const size_t begin = bytes.size();
    bytes.resize(begin + (size_t{1} << 20));
    const size_t got = in.read(bytes.data() + begin, bytes.size() - begin);
    bytes.resize(begin + got);
    if (got < size_t{1} << 20) return bytes;
  }
}

namespace {

// What a file is that is no text with a byte a letter, by its beginning, and how it becomes one.
// Empty: nothing speaks against it.
std::string no_text(std::string_view begin) {
  using std::string_view;
  const std::string_view kUtf8 =
      "save it as UTF-8 (Excel: \"CSV UTF-8\"), or: iconv -f UTF-16 -t UTF-8 FILE > NEW";
  if (begin.starts_with("\xff\xfe") || begin.starts_with("\xfe\xff"))
    return message("is UTF-16, two bytes a letter (", kUtf8, ")");
  if (begin.starts_with("PK\3\4"))
    return "is a zip archive, as an .xlsx, .ods or .npz is, and no text (save the table as CSV, or "
           "unpack the archive)";
  if (begin.starts_with("\xd0\xcf\x11\xe0"))
    return "is an .xls of an old Excel and no text (save the table as CSV)";
  if (begin.starts_with("PAR1\x15"))
    return "is a Parquet file and no text (pandas.read_parquet(FILE).to_csv(NEW, index=False))";
  if (begin.starts_with("\x89HDF"))
    return "is an HDF5 file and no text (pandas.read_hdf(FILE).to_csv(NEW, index=False))";
  for (const auto& [magic, program] : {std::pair<string_view, string_view>{"\xfd"
                                                                           "7zXZ",
                                                                           "xz -d"},
                                       {"BZh91AY&SY", "bunzip2"},
                                       {"\x28\xb5\x2f\xfd", "zstd -d"}}) {
    if (begin.starts_with(magic))
      return message("is compressed in a way that is not read here; gzip is (unpack it: ", program,
                     " FILE)");
  }
  if (begin.starts_with("version https://git-lfs"))
    return "is a pointer of Git LFS and not the file itself (git lfs pull fetches that)";
  if (begin.find('\0') != string_view::npos)
    return message("holds bytes of 0, as no text does; if it is UTF-16 without a mark, ", kUtf8);
  if (begin.find('\r') != string_view::npos && begin.find('\n') == string_view::npos &&
      begin.find('\r') + 1 != begin.size())
    return "has lines that end in CR alone, as on Macs of old (tr '\\r' '\\n' < FILE > NEW)";
  return "";
}

}  // namespace

LineReader::LineReader(const std::string& path) : path_(path), in_(path), buffer_(kChunk) {
  end_ = in_.read(buffer_.data(), buffer_.size());
  const std::string what =
      no_text(std::string_view(reinterpret_cast<const char*>(buffer_.data()), end_));
  FL_CHECK(what.empty(), path, ": ", what);
  if (end_ >= 3 && std::memcmp(buffer_.data(), "\xef\xbb\xbf", 3) == 0) at_ = 3;
}

bool LineReader::next(std::string& line) {
  constexpr size_t kLongest = size_t{1} << 28;  // bytes; no table has such a line
  line.clear();
  bool any = false;
  for (;;) {
    if (at_ == end_) {
      at_ = 0;
      end_ = in_.read(buffer_.data(), buffer_.size());
      if (end_ == 0) break;
    }
    any = true;
    const uint8_t* begin = buffer_.data() + at_;
    const auto* stop = static_cast<const uint8_t*>(std::memchr(begin, '\n', end_ - at_));
    const size_t length = stop ? static_cast<size_t>(stop - begin) : end_ - at_;
    line.append(reinterpret_cast<const char*>(begin), length);
    FL_CHECK(line.size() < kLongest, path_, ", line ", number_ + 1, ": is longer than ", kLongest,
             " bytes (is it a text file?)");
    at_ += length + (stop ? 1 : 0);
    if (stop) break;
  }
  if (!any) return false;
  ++number_;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

std::string LineReader::where() const { return message(path_, ", line ", number_); }

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

namespace {

template <class Number>
bool parse_whole_text(std::string_view text, Number& value) {
  text = trimmed(text);
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return false;
  }
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && stop == text.data() + text.size();
}

}  // namespace

bool parse_number(std::string_view text, double& value) {
  return parse_whole_text(text, value) && std::isfinite(value);
}

bool parse_number(std::string_view text, int64_t& value) { return parse_whole_text(text, value); }

std::string shown(std::string_view text) {
  constexpr size_t kShown = 40;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) out += c >= ' ' && c <= '~' ? c : '.';
  return out + (text.size() > kShown ? "...'" : "'");
}

std::string shape_text(torch::IntArrayRef sizes) {
  std::string out;
  for (const int64_t size : sizes) out += (out.empty() ? "" : " x ") + std::to_string(size);
  return out.empty() ? "a single number" : out;
}

std::vector<bool> draw_test_samples(const Job& job, const std::string& path, int64_t n,
                                    double fraction, const std::vector<int64_t>& group) {
  Rng rng(job.seed(), "test samples");
  const std::vector<int64_t> order = rng.permutation(n);
  const int64_t groups = group.empty() ? 1 : 1 + *std::max_element(group.begin(), group.end());
  std::vector<int64_t> wanted(static_cast<size_t>(groups));
  const auto group_of = [&](int64_t i) {
    return static_cast<size_t>(group.empty() ? 0 : group[static_cast<size_t>(i)]);
  };
  for (int64_t i = 0; i < n; ++i) ++wanted[group_of(i)];
  int64_t total = 0, largest = 0;
  for (int64_t& size : wanted) {
    largest = std::max(largest, size);
    const auto part = static_cast<int64_t>(std::llround(fraction * static_cast<double>(size)));
    size = std::max<int64_t>(0, std::min(part, size - 1));
    total += size;
  }
  FL_CHECK(total > 0, path, ": a test fraction of ", fraction, " of groups of at most ", largest,
           " samples leaves none to test with (raise it, or name a test file)");
  std::vector<bool> test(static_cast<size_t>(n));
  for (const int64_t i : order) {
    int64_t& left = wanted[group_of(i)];
    if (left == 0) continue;
    --left;
    test[static_cast<size_t>(i)] = true;
  }
  return test;
}

void Owners::add(const std::string& user, int64_t n, Dataset& data, bool train) {
  if (n == 0) return;
  if (train) numbers_.emplace(user, std::ssize(numbers_));
  const auto found = numbers_.find(user);
  std::vector<int64_t>& of = train ? data.owner : data.test_owner;
  of.insert(of.end(), static_cast<size_t>(n), found == numbers_.end() ? -1 : found->second);
}

void survive(const std::string& path, const std::function<void()>& read) {
  std::error_code none;
  const auto megabytes = static_cast<unsigned>(fs::file_size(path, none) >> 20);
  const unsigned longest = 10 + megabytes;  // seconds; the slowest disks read some megabytes in one
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return;  // no room for a second process: read without the trial
  if (child == 0) {
    // What the crashing library or a sanitizer has to say is said in our own words.
    const int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0) dup2(nowhere, STDERR_FILENO);
    for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGALRM})
      std::signal(signal, SIG_DFL);
    alarm(longest);
    try {
      read();
    } catch (...) {  // the caller will meet it again, and say it
    }
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  FL_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, path, ": is damaged (the HDF5 library ",
           WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "did not come back from it"
                                                              : "crashed over it",
           " when it was tried in a process of its own)", kFetchAgain);
}

}  // namespace fl_sim
