//   fl_sim_fuzz [MUTATIONS [CASE [INDEX]]]     all cases, one, one mutation of one
#include "fuzz.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/check.h"

extern "C" {
void __sanitizer_set_death_callback(void (*)());
void* __asan_get_report_address();
int __asan_report_present();
size_t __asan_get_alloc_stack(void* addr, void** trace, size_t size, int* thread_id);
}

namespace fl_sim::fuzz {
namespace {

// The processor's time for one mutation; a hang. Shorter where a library hangs now and then.
constexpr time_t kSeconds = 20, kSecondsApart = 3;

// What a crash or a hang was about. Written before each mutation, read by the handlers below.
char current[256];

// Of a process that tries mutations, and of the one that looks after it.
struct Shared {
  int64_t next = 0;  // the mutation under way
  int64_t accepted = 0, refused = 0, failed = 0;
  bool library = false;  // which is at fault for the end of the process
};
Shared* shared = nullptr;
const char* library = nullptr;
int messages = STDERR_FILENO;

bool is_of(void* address, const char* name) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr &&
         std::strstr(info.dli_fname, name) != nullptr;
}

// Whether the first of these frames that is none of the C and C++ libraries', nor the sanitizers',
// is of the library that may crash. `handlers`: frames of this program stand in front.
bool begins_in_library(void* const* frames, int count, bool handlers) {
  static const char* runtime[] = {"libasan", "libubsan", "libc.so",      "libstdc++",
                                  "libm.so", "libgcc_s", "libpthread.so"};
  Dl_info own{};
  dladdr(reinterpret_cast<void*>(&bytes_of), &own);
  int i = 0;
  const auto of_program = [&](void* frame) {
    Dl_info info{};
    return dladdr(frame, &info) != 0 && info.dli_fbase == own.dli_fbase;
  };
  // Templates of the C++ library are also this program's.
  const auto of_runtime = [&](void* frame) {
    Dl_info info{};
    if (dladdr(frame, &info) != 0 && info.dli_sname != nullptr &&
        (std::strncmp(info.dli_sname, "_ZNSt", 5) == 0 ||
         std::strncmp(info.dli_sname, "_ZNKSt", 6) == 0))
      return true;
    return std::any_of(std::begin(runtime), std::end(runtime),
                       [&](const char* name) { return is_of(frame, name); });
  };
  while (i < count && of_runtime(frames[i])) ++i;
  while (handlers && i < count && of_program(frames[i])) ++i;
  while (i < count && of_runtime(frames[i])) ++i;
  return i < count && is_of(frames[i], library);
}

// A crash counts as the library's if it happened in its code, and in memory that it asked for
// itself, if in any: what it does with a vector of ours that is too small is our fault.
void judge() {
  if (shared == nullptr || library == nullptr) return;
  void* frames[64];
  const int count = backtrace(frames, 64);
  shared->library = begins_in_library(frames, count, true);
  if (!shared->library) backtrace_symbols_fd(frames, count, messages);
  if (!shared->library || __asan_report_present() == 0) return;
  void* stack[64];
  int thread = 0;
  const size_t depth =
      __asan_get_alloc_stack(__asan_get_report_address(), stack, std::size(stack), &thread);
  if (depth > 0) shared->library = begins_in_library(stack, static_cast<int>(depth), false);
}

void say(const char* text) {
  const auto unused = write(messages, text, std::strlen(text));
  (void)unused;
}

void say_current() {
  judge();
  if (shared == nullptr || !shared->library) say(current);
}

// SIGPROF comes when they are over; 0: never.
void set_timer(time_t seconds) {
  const itimerval timer{{0, 0}, {seconds, 0}};
  setitimer(ITIMER_PROF, &timer, nullptr);
}

void try_one(const Entry& entry, const Case& c, int64_t mutation, Shared& tally) {
  Rng rng(20, "mutation", mutation,
          static_cast<int64_t>(std::hash<std::string>()(entry.name) % 1000000));
  const std::string file = c.damage(rng);
  std::snprintf(current, sizeof current, "case '%s', mutation %lld, %s\n", entry.name.c_str(),
                static_cast<long long>(mutation), file.c_str());
  set_timer(c.crashing_library.empty() ? kSeconds : kSecondsApart);
  Outcome outcome = c.read();
  set_timer(0);
  ++(outcome.refused > 0 ? tally.refused : tally.accepted);
  if (!outcome.wrong.empty()) {
    ++tally.failed;
    say(message(current, "  ", outcome.wrong, "\n").c_str());
  }
  c.restore();
}

void watch_for_hangs() {
  for (const int signal : {SIGPROF, SIGABRT}) {
    std::signal(signal, [](int) {
      say_current();
      std::signal(SIGABRT, SIG_DFL);
      abort();
    });
  }
}

// What a process that tries mutations does: those from `tally.next` on.
[[noreturn]] void try_rest(const Entry& entry, const Case& c, int64_t last, Shared& tally) {
  shared = &tally;
  library = c.crashing_library.c_str();
  for (const int signal : {SIGPROF, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal, [](int) {
      say_current();
      _exit(1);
    });
  }
  for (; tally.next < last; ++tally.next) try_one(entry, c, tally.next, tally);
  _exit(0);
}

// Mutations [first, last) in processes of their own, a new one after each crash. Returns how many
// crashes were the library's.
int64_t try_apart(const Entry& entry, const Case& c, int64_t first, int64_t last, Shared& tally) {
  int64_t crashes = 0;
  for (tally.next = first; tally.next < last; ++tally.next) {
    tally.library = false;
    // What a sanitizer says, which is shown unless it is about the library.
    std::FILE* report = std::tmpfile();
    FL_CHECK(report != nullptr, "no temporary file can be made");
    std::fflush(nullptr);
    const pid_t child = fork();
    FL_CHECK(child >= 0, "no process can be made");
    if (child == 0) {
      messages = dup(STDERR_FILENO);
      dup2(fileno(report), STDERR_FILENO);
      try_rest(entry, c, last, tally);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    const bool through = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!through) {
      c.restore();
      ++(tally.library ? crashes : tally.failed);
    }
    if (!through && !tally.library) {
      say(message("case '", entry.name, "', mutation ", tally.next,
                  ": its process ended with status ", status, "\n")
              .c_str());
      std::rewind(report);
      char block[4096];
      for (size_t n = 0; (n = std::fread(block, 1, sizeof block - 1, report)) > 0;) {
        block[n] = '\0';
        say(block);
      }
    }
    std::fclose(report);
    if (through) break;
  }
  return crashes;
}

int run(int argc, char** argv) {
  const int64_t mutations = argc > 1 ? std::atoll(argv[1]) : 10000;
  const std::string chosen = argc > 2 ? argv[2] : "";
  const int64_t only = argc > 3 ? std::atoll(argv[3]) : -1;
  __sanitizer_set_death_callback(say_current);
  watch_for_hangs();
  void* frames[1];
  backtrace(frames, 1);  // loads what it needs

  std::vector<Entry> entries;
  for (const auto& cases :
       {dataset_cases(), job_cases(), results_cases(), checkpoint_cases(), torchscript_cases()})
    entries.insert(entries.end(), cases.begin(), cases.end());
  int64_t weights = 0, given = 0;
  for (const Entry& entry : entries) weights += entry.weight;
  int64_t accepted = 0, refused = 0, failed = 0, crashes = 0;
  for (const Entry& entry : entries) {
    const int64_t before = mutations * given / weights;
    given += entry.weight;
    if (!chosen.empty() && entry.name != chosen) continue;
    const int64_t share =
        chosen.empty() ? mutations * given / weights - before : std::max(mutations, only + 1);
    const auto start = std::chrono::steady_clock::now();
    const Case c = entry.make();
    if (const Outcome whole = c.read(); !whole.wrong.empty() || whole.refused > 0) {
      std::fprintf(stderr, "%s: what is whole is not read: %s%s\n", entry.name.c_str(),
                   whole.wrong.c_str(), whole.refusal.c_str());
      ++failed;
      continue;
    }
    void* memory =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FL_CHECK(memory != MAP_FAILED, "no memory to share");
    Shared& tally = *new (memory) Shared;
    int64_t library_crashes = 0;
    const int64_t first = std::max<int64_t>(0, only), last = only < 0 ? share : only + 1;
    if (c.crashing_library.empty()) {
      for (int64_t m = first; m < last; ++m) try_one(entry, c, m, tally);
    } else {
      library_crashes = try_apart(entry, c, first, last, tally);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%-22s %6lld refused, %6lld read, %lld wrong", entry.name.c_str(),
                static_cast<long long>(tally.refused), static_cast<long long>(tally.accepted),
                static_cast<long long>(tally.failed));
    if (library_crashes > 0)
      std::printf(", %lld crashes within %s", static_cast<long long>(library_crashes),
                  c.crashing_library.c_str());
    std::printf(", %.1f s\n", seconds.count());
    std::fflush(stdout);
    refused += tally.refused;
    accepted += tally.accepted;
    failed += tally.failed;
    crashes += library_crashes;
    munmap(memory, sizeof(Shared));
  }
  std::printf("%-22s %6lld refused, %6lld read, %lld wrong, %lld crashes of libraries\n", "all",
              static_cast<long long>(refused), static_cast<long long>(accepted),
              static_cast<long long>(failed), static_cast<long long>(crashes));
  return failed == 0 && accepted > 0 && refused > 0 ? 0 : 1;
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

}  // namespace

Outcome attempt(const std::vector<std::string>& places, const std::function<std::string()>& read) {
  try {
    return {0, "", read()};
  } catch (const Error& error) {
    const std::string what = error.what();
    const bool named =
        places.empty() || std::any_of(places.begin(), places.end(), [&](const std::string& place) {
          return what.find(place) != std::string::npos;
        });
    return {1, what, named ? "" : "the message does not name the file: " + what};
  } catch (const std::exception& error) {
    return {1, error.what(), message("an exception other than Error: ", error.what())};
  }
}

Outcome operator+(Outcome a, const Outcome& b) {
  a.refused += b.refused;
  if (a.refusal.empty()) a.refusal = b.refusal;
  if (a.wrong.empty()) a.wrong = b.wrong;
  return a;
}

Folder folder_of(const std::string& name) {
  return std::make_shared<const TemporaryFolder>("fuzz_" + name);
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
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

Case files_case(Folder folder, std::vector<std::string> files, std::function<Outcome()> read,
                const Damage& damage) {
  std::vector<std::string> originals;
  for (const std::string& file : files) originals.push_back(bytes_of(folder->path() / file));
  auto damaged = std::make_shared<size_t>(0);
  return {[=](Rng& rng) {
            *damaged = static_cast<size_t>(rng.below(std::ssize(files)));
            folder->write(files[*damaged], damage(originals[*damaged], rng));
            return files[*damaged];
          },
          [=] { folder->write(files[*damaged], originals[*damaged]); }, std::move(read), ""};
}

}  // namespace fl_sim::fuzz

int main(int argc, char** argv) {
  try {
    return fl_sim::fuzz::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
