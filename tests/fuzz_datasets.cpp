// A mutation test of every reader of data files: valid small files are damaged in many ways, by
// seed. A reader must refuse what it cannot read with an Error that names the file, or read a whole
// data set; never crash, hang, claim memory for what is not there, or throw anything else. Built
// with AddressSanitizer and UndefinedBehaviorSanitizer over the readers.
//
//   fuzz_datasets [MUTATIONS [CASE [INDEX]]]     all cases, one, one mutation of one
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "base/check.h"
#include "base/job.h"
#include "base/rng.h"
#include "data/dataset.h"
#include "data_files.h"
#include "plugins/datasets/cifar.h"
#include "small_sets.h"

namespace fl_sim {
namespace {

constexpr unsigned kSeconds = 20;  // for one mutation; a hang

// What a crash or a hang was about. Written before each mutation, read by the handlers below.
char current[256];

void say_current() {
  const auto unused = write(2, current, std::strlen(current));
  (void)unused;
}
extern "C" void __sanitizer_set_death_callback(void (*)());

// Jobs name plug-ins of all kinds; only data sets are linked here.
Job job_of(const std::string& lines) {
  std::string text = lines;
  for (const Option& option : engine_options()) {
    const std::string kind = option.plugin_kind.empty() ? option.name : option.plugin_kind;
    const std::vector<std::string>& kinds = plugin_kinds();
    const bool is_kind = std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
    if (!is_kind || kind == "dataset" || option.several) continue;
    catalog()[kind]["any"] = {};
    text += option.name + " = any\n";
  }
  return Job::from_text(text);
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// Puts a number that the text holds somewhere into another's place.
void edit_number(std::string& bytes, Rng& rng) {
  static const std::vector<std::string> numbers = {
      "0",          "-1",         "1",
      "2",          "255",        "256",
      "1000000",    "2147483648", "99999999999999999999",
      "1e400",      "-1e-400",    "nan",
      "inf",        "0x10",       "1.5",
      "",           "--1",        "1e9",
      "4294967296", "1 "};
  const size_t start = static_cast<size_t>(rng.below(std::ssize(bytes)));
  const auto digit = [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == '-'; };
  auto begin = std::find_if(bytes.begin() + static_cast<std::ptrdiff_t>(start), bytes.end(), digit);
  if (begin == bytes.end()) return;
  const auto end = std::find_if_not(begin, bytes.end(), digit);
  const std::string& other = numbers[static_cast<size_t>(rng.below(std::ssize(numbers)))];
  bytes.replace(begin, end, other);
}

std::string mutated(std::string bytes, Rng& rng) {
  const int64_t edits = 1 + rng.below(3);
  for (int64_t e = 0; e < edits && !bytes.empty(); ++e) {
    const auto size = std::ssize(bytes);
    const auto at = static_cast<size_t>(rng.below(size));
    const auto length = static_cast<size_t>(
        rng.below(2) == 0 ? 1 + rng.below(8) : 1 + rng.below(std::min<int64_t>(size, 4096)));
    switch (rng.below(8)) {
      case 0:  // one bit
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
        break;
      case 1:  // some bytes
        for (size_t i = at; i < std::min(bytes.size(), at + 1 + length % 8); ++i)
          bytes[i] = static_cast<char>(rng.below(256));
        break;
      case 2:  // the end is lost
        bytes.resize(at);
        break;
      case 3: {  // a span twice
        const std::string span = bytes.substr(at, length);
        bytes.insert(at, span);
        break;
      }
      case 4: {  // something strange in between
        std::string span(1 + length % 32, '\0');
        for (char& c : span) c = static_cast<char>(rng.below(256));
        bytes.insert(at, span);
        break;
      }
      case 5:  // a span is lost
        bytes.erase(at, length);
        break;
      case 6:
        edit_number(bytes, rng);
        break;
      case 7: {  // a size of a header, perhaps
        static const char* extremes[] = {"\xff\xff\xff\xff", "\x7f\xff\xff\xff", "\0\0\0\0",
                                         "\xff\xff\xff\x7f", "\0\0\0\x01"};
        for (size_t i = 0; i < 4 && at + i < bytes.size(); ++i)
          bytes[at + i] = extremes[length % 5][i];
        break;
      }
    }
  }
  return bytes;
}

bool same(const Dataset& a, const Dataset& b) {
  const auto equal = [](const torch::Tensor& x, const torch::Tensor& y) {
    return x.scalar_type() == y.scalar_type() && torch::equal(x, y);
  };
  return equal(a.train.inputs, b.train.inputs) && equal(a.train.labels, b.train.labels) &&
         equal(a.test.inputs, b.test.inputs) && equal(a.test.labels, b.test.labels) &&
         a.owner == b.owner;
}

struct Case {
  std::string name;
  std::vector<std::string> files;
  bool sealed;
  std::function<Dataset()> read;
};

Case case_of(const SmallSet& set, const TemporaryFolder& folder) {
  const std::string argument = set.argument;  // found within data-dir
  const Job job = job_of("dataset = " + set.dataset + (argument.empty() ? "" : ":" + argument) +
                         "\ndata-dir = " + folder.path().string() + "\n" + set.options);
  const std::string dataset = set.dataset;
  return {set.name, set.files, set.sealed, [dataset, job, argument] {
            return make<DatasetSource>(dataset, {job, argument})->read();
          }};
}

// CIFAR's own plug-ins want 10,000 records a file; their reader takes any number.
Case cifar_case(const TemporaryFolder& folder) {
  std::string records;
  for (int i = 0; i < 3; ++i)
    records += std::string{static_cast<char>(i), static_cast<char>(i + 1)} + pixels_of(i, 3072);
  const std::string path = folder.write("train.bin", records);
  return {"cifar", {"train.bin"}, false, [path] {
            const CifarRecords read = read_cifar({path}, {3, 100, 20});
            Dataset data;
            data.classes = 100;
            data.train = data.test = read.samples;
            return data;
          }};
}

struct Tally {
  int64_t accepted = 0, refused = 0, failed = 0;
};

// The problem with what one mutation led to; empty: none.
std::string problem(const Case& c, const TemporaryFolder& folder, const Dataset& valid,
                    Tally& tally) {
  try {
    const Dataset data = c.read();
    ++tally.accepted;
    try {
      check_dataset(data, c.name);
    } catch (const Error& error) {
      return message("read, but not whole: ", error.what());
    }
    if (c.sealed && !same(data, valid)) return "checksums were right, and samples differ";
  } catch (const Error& error) {
    ++tally.refused;
    const std::string what = error.what();
    if (what.find(folder.path().string()) == std::string::npos)
      return "the message does not name the file: " + what;
  } catch (const std::exception& error) {
    return message("an exception other than Error: ", error.what());
  }
  return "";
}

void run_case(const Case& c, const TemporaryFolder& folder, int64_t mutations, int64_t only,
              Tally& tally) {
  const Dataset valid = c.read();
  check_dataset(valid, c.name);
  std::vector<std::string> originals;
  for (const std::string& file : c.files) originals.push_back(bytes_of(folder.path() / file));
  for (int64_t m = 0; m < mutations; ++m) {
    if (only >= 0 && m != only) continue;
    Rng rng(20, "mutation", m, static_cast<int64_t>(std::hash<std::string>()(c.name) % 1000000));
    const auto file = static_cast<size_t>(rng.below(std::ssize(c.files)));
    folder.write(c.files[file], mutated(originals[file], rng));
    std::snprintf(current, sizeof current, "fuzz_datasets: case '%s', mutation %lld, file %s\n",
                  c.name.c_str(), static_cast<long long>(m), c.files[file].c_str());
    alarm(kSeconds);
    const std::string wrong = problem(c, folder, valid, tally);
    alarm(0);
    if (!wrong.empty()) {
      ++tally.failed;
      std::fprintf(stderr, "%s  %s\n", current, wrong.c_str());
    }
    folder.write(c.files[file], originals[file]);
  }
}

int run(int argc, char** argv) {
  const int64_t mutations = argc > 1 ? std::atoll(argv[1]) : 10000;
  const std::string chosen = argc > 2 ? argv[2] : "";
  const int64_t only = argc > 3 ? std::atoll(argv[3]) : -1;
  __sanitizer_set_death_callback(say_current);
  std::signal(SIGALRM, [](int) {
    say_current();
    abort();
  });

  const auto sets = small_sets();
  const int64_t cases = std::ssize(sets) + 1;
  // HDF5's readers try each file in a process of its own, which takes a hundred times as long here.
  const auto is_slow = [&](int64_t i) { return i >= 2 && i < 5; };
  const int64_t slow_share = mutations / 100, slow_cases = 3;
  Tally all;
  for (int64_t i = 0; i < cases; ++i) {
    const TemporaryFolder folder("fuzz_datasets");
    const Case c =
        i + 1 < cases ? case_of(sets[static_cast<size_t>(i)](folder), folder) : cifar_case(folder);
    if (!chosen.empty() && c.name != chosen) continue;
    const int64_t rest = mutations - slow_cases * slow_share, fast_cases = cases - slow_cases;
    const int64_t share = !chosen.empty() ? mutations
                          : is_slow(i)    ? slow_share
                                       : rest / fast_cases + (i + 1 == cases) * (rest % fast_cases);
    const auto start = std::chrono::steady_clock::now();
    Tally tally;
    run_case(c, folder, share, only, tally);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%-16s %5lld refused, %5lld read, %lld wrong, %.1f s\n", c.name.c_str(),
                static_cast<long long>(tally.refused), static_cast<long long>(tally.accepted),
                static_cast<long long>(tally.failed), seconds.count());
    all.refused += tally.refused;
    all.accepted += tally.accepted;
    all.failed += tally.failed;
  }
  std::printf("%-16s %5lld refused, %5lld read, %lld wrong\n", "all",
              static_cast<long long>(all.refused), static_cast<long long>(all.accepted),
              static_cast<long long>(all.failed));
  return all.failed == 0 && all.accepted + all.refused > 0 ? 0 : 1;
}

}  // namespace
}  // namespace fl_sim

int main(int argc, char** argv) { return fl_sim::run(argc, argv); }
